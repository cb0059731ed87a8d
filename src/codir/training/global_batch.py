"""The batch of one optimiser step over all processes: who gets which examples, and how much each part counts.

Whatever the number of processes and of accumulated batches, a step trains on the same examples, and its loss is the
mean over them: batches of different sizes (at the end of an epoch) count by their size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Sampler

from codir.gather import gather_rows, processes
from codir.losses.base import TokenPositions
from codir.models.labels import has_label
from codir.training.masking import IGNORED
from codir.training.processes import rank


class ProcessBatches(Sampler[list[int]]):
    """Yields the batches of one process: its part of every `processes * batch_size` consecutive indices.

    A process that took them all with `processes` accumulated batches would see the same ones in the same steps. The
    last indices of an epoch are divided as evenly as they can be. If there are fewer of them than processes, those
    left without one get the last index again; `plan_step` gives their copy no weight.

    Args:
        sampler: the order of the indices, the same in every process.
        batch_size: indices that one process gets at a time.
        processes: how many processes there are.
        rank: which of them this is.
        drop_last: leave out the last indices if they are fewer than `processes * batch_size`.
    """

    def __init__(
        self, sampler: Sampler[int], batch_size: int, processes: int, rank: int, drop_last: bool = False
    ):
        self.sampler = sampler
        self.batch_size = batch_size
        self.processes = processes
        self.rank = rank
        self.drop_last = drop_last

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
class PositionCounts:
    """Numbers of tokens that sums over positions are divided by: those to be predicted, those that are no padding."""

    masked: float
    real: float

    def of(self, positions: TokenPositions) -> float:
        """Returns the number that belongs to a mean over `masked` or `all` positions."""
        return self.masked if positions == "masked" else self.real


@dataclass(frozen=True)
class Part:
    """What one batch of one process is in its optimiser step.

    Attributes:
        share: of the step's examples; the shares of all batches of all processes are 1 together.
        weight: the share times the number of batches: the mean of the weighted losses over all batches and processes
            is the mean over the step's examples.
        accumulated: batches that this process accumulates in the step.
        batch_ids: [G] ids of all examples of the step, in their order, the same in every process.
        positions: masked positions, and tokens that are no padding, that the batch stands for: the step's numbers times
            the batch's share of the examples; None where no tokens are predicted.
        labelled: labelled examples that the batch stands for, likewise; None where all examples of the step are.
    """

    share: float
    weight: float
    accumulated: int
    batch_ids: Tensor
    positions: PositionCounts | None
    labelled: float | None = None


def plan_step(batches: Sequence[dict[str, Any]]) -> list[Part]:
    """Finds out about the optimiser step that this process's `batches` belong to; every process has to call.

    All accumulate the same number of batches, as collators make them.
    """
    if not batches or any("example_id" not in batch for batch in batches):
        return []
    world, rounds = processes(), len(batches)
    own = [batch["example_id"] for batch in batches]
    predicted = [_predicted(batch) for batch in batches]
    with_label = torch.stack([_labelled(batch) for batch in batches])
    ids = torch.cat(own)
    counted = torch.stack([count for count in predicted if count is not None] or [ids.new_zeros(2)]).sum(
        dim=0
    )
    sizes = [len(each) for each in own]
    if world > 1:
        facts = torch.cat([ids.new_tensor(sizes), with_label.to(ids), counted.to(ids)])
        (ids,), (facts,) = gather_rows(ids), gather_rows(facts)
        table = facts.view(world, 2 * rounds + 2).tolist()
    else:
        table = [[*sizes, *with_label.tolist(), *counted.tolist()]]
    chunks = iter(ids.split([size for row in table for size in row[:rounds]]))
    parts = [[next(chunks) for _ in range(rounds)] for _ in range(world)]  # [process][round]
    in_order: list[Tensor] = []
    counted_sizes: list[int] = []  # examples of this process's batches that count
    mine, labelled = rank(), 0
    for turn in range(rounds):
        column = [row[turn] for row in parts]
        for number, chunk in enumerate(column):
            copy = number > 0 and _is_copy(chunk, column[number - 1])
            if not copy:
                in_order.append(chunk)
                labelled += table[number][rounds + turn]
            if number == mine:
                counted_sizes.append(0 if copy else len(chunk))
    batch_ids = torch.cat(in_order)
    examples, masked, real = len(batch_ids), sum(row[-2] for row in table), sum(row[-1] for row in table)
    return [
        Part(
            share=size / examples,
            weight=size * rounds * world / examples,  # exactly 1 where all batches have one size
            accumulated=rounds,
            batch_ids=batch_ids,
            positions=PositionCounts(masked * size / examples, real * size / examples)
            if count is not None
            else None,
            # of a copy, which has no weight, the number that its own size gives: it is 0 for all parts or for none
            labelled=None if labelled == examples else labelled * own_size / examples,
        )
        for size, own_size, count in zip(counted_sizes, sizes, predicted, strict=True)
    ]


def _predicted(batch: dict[str, Any]) -> Tensor | None:
    """Returns how many tokens of a batch are to be predicted, and how many are no padding, [2]; None without tokens."""
    labels = batch.get("labels")
    if labels is None or labels.dim() != 2:
        return None
    return torch.stack([(labels != IGNORED).sum(), (batch["inputs"]["attention_mask"] != 0).sum()])


def _labelled(batch: dict[str, Any]) -> Tensor:
    labels, ids = batch.get("labels"), batch["example_id"]
    return has_label(labels).sum() if labels is not None and labels.dim() == 1 else ids.new_tensor(len(ids))


def _is_copy(chunk: Tensor, before: Tensor) -> bool:
    # Within an epoch an index comes once, so only a process left without an example repeats its neighbour's.
    return len(chunk) == 1 and len(before) == 1 and bool(chunk == before)
