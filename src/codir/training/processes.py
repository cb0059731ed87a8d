"""Several processes that train one model: what they tell each other, how they were started, and what to say of it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, distributed

from codir.errors import ConfigError
from codir.gather import from_first, gather_rows, processes, wire

# What the errors of a broken connection have in common, in the words of gloo and NCCL.
_BROKEN = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe", "socket")


def launched() -> int:
    """How many processes torchrun started for this training; 1 where it did not start this one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Number of this process, from 0."""
    if processes() > 1:
        return distributed.get_rank()
    return int(os.environ.get("RANK") or 0) if launched() > 1 else 0


def is_main() -> bool:
    """Whether this is the first process: the one that prints and writes."""
    return rank() == 0


def barrier() -> None:
    """Waits until every process has come here."""
    if processes() > 1:
        agree(0)


def agree(*numbers: int) -> tuple[int, ...]:
    """Returns the largest of each number over the processes; every process has to call."""
    if processes() == 1:
        return numbers
    largest = torch.tensor(numbers, device=wire())
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
    return tuple(largest.tolist())


def total(sums: Tensor) -> Tensor:
    """Returns the element-wise sum of a tensor over the processes; every process has to call."""
    if processes() == 1:
        return sums
    moved = sums.to(wire(), copy=True)
    distributed.all_reduce(moved)
    return moved.to(sums.device)


def first_says(text: str) -> str:
    """Gives every process the text of the first one."""
    if processes() == 1:
        return text
    (length,) = from_first(torch.tensor([len(text.encode())], device=wire())).tolist()
    own = text.encode()[:length].ljust(length, b" ")
    letters = torch.frombuffer(bytearray(own or b" "), dtype=torch.uint8).to(wire())
    return bytes(from_first(letters).tolist()).decode() if length else ""


def all_say(text: str) -> list[str]:
    """Returns the text of each process, in the order of their ranks."""
    if processes() == 1:
        return [text]
    own = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8).to(wire())
    return bytes(gather_rows(own)[0].tolist()).decode().split("\0")[:-1]


def other_process_ended(error: BaseException) -> bool:
    """Whether an error says that the connection to another process has broken."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _BROKEN)


def ended_message(step: int, last: Path | None) -> str:
    """Returns the sentence for the processes that are left when another one has ended after `step`."""
    where = f"from {last}" if last else "from the start, since no checkpoint had been written yet"
    return (
        f"Another process of this training ended after step {step}, so process {rank()} of {processes()} stops too: "
        "what that one said, or the system's log (out of memory?), tells why. The same command with --resume goes on "
        f"{where}."
    )


# ---- how the processes were started ------------------------------------------------------------------------------


def one_process_only(what: str) -> None:
    """Raises `ConfigError` where torchrun started several processes; `what` cannot run in them: "codir distill"."""
    if launched() > 1:
        raise ConfigError(
            f"{launched()} processes were started, and {what} runs in one: start it without torchrun. "
            "`codir pretrain` trains in several."
        )


def launch_advice(gpus: int) -> str | None:
    """Returns what to say where one process was started and `gpus` are seen, which would be used by several."""
    if gpus <= 1 or processes() > 1 or launched() > 1:
        return None
    return (
        f"{gpus} GPUs are here and one is used: `torchrun --nproc_per_node {gpus} -m codir ...` uses them all, "
        "CUDA_VISIBLE_DEVICES=0 says that one is meant."
    )
