"""Several processes that train one model: what they tell each other, and the batch of one step over all of them.

Whatever the number of processes and of accumulated batches, a step trains on the same examples, and its loss is the
mean over them: batches of different sizes (at the end of an epoch) count by their size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.utils.data import Sampler

from codir.errors import ConfigError
from codir.gather import gather_rows, processes, wire
from codir.losses.base import TokenPositions
from codir.models.classes import has_label
from codir.training.masking import IGNORED

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


def gather_texts(text: str) -> list[str]:
    """Returns the text of each process, in the order of their ranks; every process has to call."""
    if processes() == 1:
        return [text]
    own = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8).to(wire())
    return bytes(gather_rows(own)[0].tolist()).decode().split("\0")[:-1]


def broadcast_text(text: str) -> str:
    """Gives every process the text of the first one."""
    return gather_texts(text)[0]


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


# ---- the batch of one step -----------------------------------------------------------------------------------------


class ProcessBatches(Sampler[list[int]]):
    """Yields the batches of one process: its part of every `processes * batch_size` consecutive indices.

    A process that took them all with `processes` accumulated batches would see the same ones in the same steps. The
    last indices of an epoch are divided as evenly as they can be, or left out (`drop_last`). If there are fewer of them
    than processes, those left without one get the last index again; `plan_step` gives their copy no weight.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, processes: int, rank: int, drop_last: bool = False):
        """Takes the order of the indices, the same in every process, and the indices that one gets at a time."""
        self.sampler, self.batch_size = sampler, batch_size
        self.processes, self.rank, self.drop_last = processes, rank, drop_last

    def set_epoch(self, epoch: int) -> None:
        """Passes the epoch on to the order."""
        if hasattr(self.sampler, "set_epoch"):
            cast(Any, self.sampler).set_epoch(epoch)

    def __len__(self) -> int:
        together, count = self.batch_size * self.processes, len(cast(Any, self.sampler))
        return count // together if self.drop_last else -(-count // together)

    def __iter__(self) -> Iterator[list[int]]:
        together: list[int] = []
        for index in self.sampler:
            together.append(index)
            if len(together) == self.batch_size * self.processes:
                yield together[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
                together = []
        if together and not self.drop_last:
            each, more = divmod(len(together), self.processes)
            start = self.rank * each + min(self.rank, more)
            yield together[start : start + each + (self.rank < more)] or together[-1:]


@dataclass(frozen=True)
class Part:
    """What one batch of one process is in its optimiser step."""

    share: float  # of the step's examples; the shares of all batches of all processes are 1 together
    # The share times the number of batches: the mean of the weighted losses over all batches and processes is the mean
    # over the step's examples.
    weight: float
    accumulated: int  # batches that this process accumulates in the step
    batch_ids: Tensor  # [G] ids of all examples of the step, in their order, the same in every process
    # Masked positions, and tokens that are no padding, that the batch stands for: the step's numbers times the batch's
    # share of the examples; None where no tokens are predicted.
    positions: dict[TokenPositions, float] | None
    labelled: float | None = None  # labelled examples, likewise; None where all examples of the step are


def plan_step(batches: Sequence[dict[str, Any]]) -> list[Part]:
    """Finds out about the optimiser step that this process's `batches` belong to; every process has to call.

    All accumulate the same number of batches, as collators make them.
    """
    if not batches or any("example_id" not in batch for batch in batches):
        return []
    world, rounds = processes(), len(batches)
    ids = torch.cat([batch["example_id"] for batch in batches])
    sizes, tokens = [len(batch["example_id"]) for batch in batches], False
    facts = [*sizes, *sizes, 0, 0]  # by round the examples, and those with a label; masked and real tokens
    for number, batch in enumerate(batches):
        labels = batch.get("labels")
        if labels is not None and labels.dim() == 1:
            facts[rounds + number] = int(has_label(labels).sum())
        elif labels is not None and labels.dim() == 2:
            tokens = True
            facts[-2] += int((labels != IGNORED).sum())
            facts[-1] += int((batch["inputs"]["attention_mask"] != 0).sum())
    table = [facts]
    if world > 1:
        (ids,), (gathered,) = gather_rows(ids), gather_rows(ids.new_tensor(facts))
        table = gathered.view(world, len(facts)).tolist()
    chunks = iter(ids.split([size for row in table for size in row[:rounds]]))
    parts = [[next(chunks) for _ in range(rounds)] for _ in range(world)]  # [process][round]
    in_order: list[Tensor] = []
    counted: list[int] = []  # examples of this process's batches that count
    labelled = 0
    for turn in range(rounds):
        for number in range(world):
            chunk, before = parts[number][turn], parts[number - 1][turn]
            # Within an epoch an index comes once, so only a process left without an example repeats its neighbour's.
            copy = number > 0 and len(chunk) == len(before) == 1 and bool(chunk == before)
            if not copy:
                in_order.append(chunk)
                labelled += table[number][rounds + turn]
            if number == rank():
                counted.append(0 if copy else len(chunk))
    batch_ids = torch.cat(in_order)
    examples, masked, real = len(batch_ids), sum(row[-2] for row in table), sum(row[-1] for row in table)
    return [
        Part(
            share=size / examples,
            weight=size * rounds * world / examples,  # exactly 1 where all batches have one size
            accumulated=rounds,
            batch_ids=batch_ids,
            positions={"masked": masked * size / examples, "all": real * size / examples} if tokens else None,
            # of a copy, which has no weight, the number that its own size gives: it is 0 for all parts or for none
            labelled=None if labelled == examples else labelled * own_size / examples,
        )
        for size, own_size in zip(counted, sizes, strict=True)
    ]
