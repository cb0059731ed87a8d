"""The batch of an optimiser step is the same whatever the number of processes; its parts count by their size."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.data import Sampler

from codir.training.processes import ProcessBatches, plan_step


class Order(Sampler[int]):
    """A shuffled order that knows its epoch."""

    def __init__(self, count: int):
        self.count, self.epoch = count, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        return iter(torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch)).tolist())


def batches(count: int, size: int, processes: int, **settings) -> list[list[list[int]]]:
    """Returns the batches of each process."""
    return [list(ProcessBatches(Order(count), size, processes, rank, **settings)) for rank in range(processes)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 23, 24, 25, 26, 31, 47, 48])
@pytest.mark.parametrize(("size", "processes"), [(8, 1), (4, 2), (2, 4), (1, 8), (3, 3)])
def test_together_they_are_the_global_batches_in_order(count, size, processes):
    each = batches(count, size, processes)
    order, together = list(Order(count)), size * processes
    assert (
        {len(own) for own in each}
        == {math.ceil(count / together)}
        == {len(ProcessBatches(Order(count), size, processes, 0))}
    )
    for turn in range(len(each[0])):
        expected = order[turn * together : (turn + 1) * together]
        parts = [own[turn] for own in each]
        if len(expected) >= processes:
            assert [index for part in parts for index in part] == expected
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
        else:  # some are left without: they repeat the last index
            assert [part[0] for part in parts] == expected + [expected[-1]] * (processes - len(expected))
            assert {len(part) for part in parts} == {1}


@pytest.mark.parametrize("missing", [-100, math.nan])
def test_labelled_examples_are_counted_over_the_step(missing):
    labels = [[1.0, missing, 0.0, missing], [missing] * 4, [1.0]]
    if missing == -100:
        labels = [[int(label) for label in each] for each in labels]
    ids = torch.arange(9).split([4, 4, 1])
    parts = plan_step(
        [{"example_id": own, "labels": torch.tensor(each)} for own, each in zip(ids, labels, strict=True)]
    )
    assert [part.labelled for part in parts] == pytest.approx([3 * 4 / 9, 3 * 4 / 9, 3 * 1 / 9])
    # sum over the parts of share * (sum of the part's losses / labelled) is the mean over the three
    sums = [2.0, 0.0, 7.0]
    total = sum(part.share * each / part.labelled for part, each in zip(parts, sums, strict=True) if part.labelled)
    assert total == pytest.approx(9 / 3)


def test_without_unlabelled_examples_there_is_nothing_to_divide_by():
    ids = torch.arange(4).split(2)
    for labels in ({}, {"labels": torch.tensor([0, 1])}, {"labels": torch.tensor([0.5, 1.0])}):
        assert [part.labelled for part in plan_step([{"example_id": own, **labels} for own in ids])] == [None] * 2
    none = [{"example_id": own, "labels": torch.tensor([-100, -100])} for own in ids]
    assert [part.labelled for part in plan_step(none)] == [0.0, 0.0]


def test_incomplete_batches_can_be_left_out():
    for own in batches(23, 4, 2, drop_last=True):
        assert [len(batch) for batch in own] == [4, 4]
    assert len(ProcessBatches(Order(23), 4, 2, 0, drop_last=True)) == 2


def test_the_epoch_reaches_the_order():
    one, other = ProcessBatches(Order(20), 2, 2, 0), ProcessBatches(Order(20), 2, 2, 1)
    first = list(one)
    for half in (one, other):
        half.set_epoch(3)
    assert list(one) != first
    seen = [index for turn in zip(one, other, strict=True) for batch in turn for index in batch]
    order = Order(20)
    order.set_epoch(3)
    assert seen == list(order)


def test_accumulated_batches_of_different_sizes_count_by_their_size():
    sizes, losses = [4, 4, 1], torch.tensor([1.0, 2.0, 9.0])
    ids = torch.arange(9).split(sizes)
    parts = plan_step([{"example_id": part} for part in ids])
    assert [part.batch_ids.tolist() for part in parts] == [list(range(9))] * 3
    assert [part.positions for part in parts] == [None] * 3
    mean = sum(part.weight * loss for part, loss in zip(parts, losses, strict=True)) / len(parts)
    assert float(mean) == pytest.approx((4 * 1 + 4 * 2 + 9) / 9)
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert {part.accumulated for part in parts} == {3}


def test_batches_of_one_size_have_weight_one_exactly():
    parts = plan_step([{"example_id": part} for part in torch.arange(21).split(7)])
    assert [part.weight for part in parts] == [1.0, 1.0, 1.0]


def test_sums_over_tokens_become_the_mean_over_all_positions_of_the_step():
    counts = [[3, 0], [1, 2], [5]]  # masked positions of each block
    generator = torch.Generator().manual_seed(0)
    made, losses, number = [], [], 0
    for blocks in counts:
        labels = torch.full((len(blocks), 8), -100)
        for row, count in enumerate(blocks):
            labels[row, :count] = 7
        inputs = {"attention_mask": torch.ones(len(blocks), 8, dtype=torch.long)}
        inputs["attention_mask"][:, 6:] = 0
        made.append({"example_id": torch.arange(number, number + len(blocks)), "labels": labels, "inputs": inputs})
        losses.append(torch.rand(sum(blocks), generator=generator))
        number += len(blocks)
    parts = plan_step(made)
    assert [part.positions["all"] for part in parts] == [12, 12, 6]
    mean = sum(p.weight * loss.sum() / p.positions["masked"] for p, loss in zip(parts, losses, strict=True)) / len(
        parts
    )
    assert float(mean) == pytest.approx(float(torch.cat(losses).mean()))


def test_batches_without_ids_are_not_planned():
    assert plan_step([]) == []
    assert plan_step([{"labels": torch.zeros(3)}]) == []
