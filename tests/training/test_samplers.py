"""The length-grouped order: complete, grouped, another one each epoch, the same when asked again."""

from __future__ import annotations

import pytest
import torch

from codir.training.samplers import LengthGroupedSampler


@pytest.mark.parametrize("count", [1, 7, 8, 64, 333])
def test_every_example_once_and_the_same_again(count):
    lengths = torch.randint(1, 100, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthGroupedSampler(lengths, batch_size=8, seed=1, pool_batches=4)
    sampler.set_epoch(2)
    order = list(sampler)
    assert sorted(order) == list(range(count))
    assert len(sampler) == count
    assert list(sampler) == order
    if count > 8:
        sampler.set_epoch(3)
        assert list(sampler) != order
        other = LengthGroupedSampler(lengths, batch_size=8, seed=2, pool_batches=4)
        other.set_epoch(2)
        assert list(other) != order


def test_batches_hold_similar_lengths():
    lengths = torch.randint(1, 100, (800,), generator=torch.Generator().manual_seed(0))
    order = torch.tensor(list(LengthGroupedSampler(lengths.tolist(), batch_size=8, seed=1)))
    spread = [lengths[batch].max() - lengths[batch].min() for batch in order.split(8)]
    assert torch.stack(spread).float().mean() < 5
    longest_first = lengths[order[:8]].max() == lengths.max()
    assert not longest_first or lengths[order[8:16]].max() < lengths.max() + 1


def test_the_incomplete_batch_comes_last():
    lengths = list(range(21))
    order = list(LengthGroupedSampler(lengths, batch_size=8, seed=0, pool_batches=1))
    for batch in (order[:8], order[8:16]):
        assert len(batch) == 8
    assert len(order[16:]) == 5
