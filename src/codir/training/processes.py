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


def launch_advice(asked: int, gpus: int) -> str | None:
    """Says what is wrong with how this process was started where `gpus` are seen, or returns None.

    `asked` are the processes that `accelerate launch` was asked for (see `accelerate_asked_for`).
    """
    if processes() > 1 or launched() > 1:
        return None
    if asked > 1:
        return (
            f"accelerate launch was asked for {asked} processes and started one, as it does on a CPU: start with "
            f"`torchrun --nproc_per_node {asked} -m codir ...` instead."
        )
    if gpus > 1:
        return (
            f"{gpus} GPUs are here and one is used: `torchrun --nproc_per_node {gpus} -m codir ...` uses them all, "
            "CUDA_VISIBLE_DEVICES=0 says that one is meant."
        )
    return None


def accelerate_asked_for() -> int:
    """How many processes the `accelerate launch` that started this process was asked for; 0 if none did.

    With `--cpu` it starts one process whatever `--num_processes` says, and leaves no trace of the number in the
    environment: it stands in the command line of the parent process only (which Linux shows in /proc).
    """
    if not any(name.startswith("ACCELERATE_") for name in os.environ):
        return 0
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_text().split("\0")
    except OSError:
        return 0
    # `accelerate launch`, `accelerate-launch` or `python -m accelerate.commands.launch`, with or without a path
    if not any(Path(word).name.startswith("accelerate") for word in words[:4]):
        return 0
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name.replace("_", "-") == "--num-processes":
            value = value or (words[place + 1] if place + 1 < len(words) else "")
            return int(value) if value.isdigit() else 0
    return 0
