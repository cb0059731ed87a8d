"""Orders of the examples: complete, grouped by length or by document, and functions of seed and epoch alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from codir.errors import ConfigError
from codir.training.samplers import LengthGroupedSampler, NeighbourSampler, neighbours_warning


def documents_of(lengths) -> np.ndarray:
    return np.repeat(np.arange(len(lengths)), lengths)


def random_documents(seed: int, count: int = 300, mean: float = 3.0) -> np.ndarray:
    return documents_of(np.random.default_rng(seed).geometric(1 / mean, size=count))


def order_of(sampler, epoch: int = 0) -> np.ndarray:
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert all(type(index) is int for index in order)
    return np.array(order)


def neighbours(documents, size: int, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return order_of(NeighbourSampler(documents, size, seed), epoch)


def meetings(order: np.ndarray, documents: np.ndarray, size: int) -> float:
    """Share of pairs of consecutive blocks of one document that stand in one chunk."""
    chunk = np.empty(len(order), dtype=np.int64)
    chunk[order] = np.arange(len(order)) // size
    pairs = np.flatnonzero(documents[1:] == documents[:-1])
    return float((chunk[pairs] == chunk[pairs + 1]).mean())


# ---- by length -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 8, 64, 333])
def test_every_example_once_and_the_same_again(count):
    lengths = torch.randint(1, 100, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = LengthGroupedSampler(lengths, batch_size=8, seed=1, pool_batches=4)
    order = order_of(sampler, 2).tolist()
    assert sorted(order) == list(range(count))
    assert len(sampler) == count
    assert list(sampler) == order
    if count > 8:
        assert order_of(sampler, 3).tolist() != order
        other = LengthGroupedSampler(lengths, batch_size=8, seed=2, pool_batches=4)
        assert order_of(other, 2).tolist() != order


def test_batches_hold_similar_lengths_and_the_incomplete_one_comes_last():
    lengths = torch.randint(1, 100, (805,), generator=torch.Generator().manual_seed(0))
    order = torch.tensor(list(LengthGroupedSampler(lengths.tolist(), batch_size=8, seed=1)))
    spread = [lengths[batch].max() - lengths[batch].min() for batch in order.split(8)[:-1]]
    assert torch.stack(spread).float().mean() < 5
    order = list(LengthGroupedSampler(list(range(21)), batch_size=8, seed=0, pool_batches=1))
    for batch in (order[:8], order[8:16], order[16:]):
        assert batch == sorted(batch, reverse=True)


# ---- by document ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 64, 10**9])
@pytest.mark.parametrize(
    "lengths", [[1], [2], [100], [1] * 37, [3, 1, 64, 7, 2, 2, 8, 1], [63, 65, 64], [5, 5, 5, 5, 5, 5]]
)
def test_every_block_once_and_the_same_in_a_new_sampler(lengths, size):
    documents = documents_of(lengths)
    sampler = NeighbourSampler(documents, size, seed=3)
    assert len(sampler) == len(documents)
    for epoch in range(4):
        order = order_of(sampler, epoch)
        assert sorted(order) == list(range(len(documents)))
        assert np.array_equal(neighbours(documents.tolist(), size, 3, epoch), order)


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_every_epoch_and_seed_has_an_order_of_its_own(size):
    documents = random_documents(0)
    places = list(itertools.product([0, 1, -1, 2**63], [0, 1, 2]))
    assert len({neighbours(documents, size, *place).tobytes() for place in places}) == len(places)


def test_long_documents_are_cut_into_runs_that_differ_between_epochs():
    documents, beginnings = documents_of([400, 300]), set()
    for epoch in range(20):
        order = neighbours(documents, 4, epoch=epoch)
        chunks = order[: len(order) // 4 * 4].reshape(-1, 4)
        one = documents[chunks[:, 0]] == documents[chunks[:, 3]]
        runs = (np.diff(chunks, axis=1) == 1).all(axis=1) & one
        assert (~runs).sum() <= 2  # only the ends of the two documents are left over
        beginnings.add(int(chunks[runs].min() % 4))
        assert (np.diff(chunks[runs][:, 0]) < 0).any()  # shuffled
    assert beginnings == {0, 1, 2, 3}


def test_the_offsets_are_uniform():
    """Each block is as often at each place of its run as at any other."""
    counts = np.zeros(4)
    for epoch in range(400):
        counts[np.flatnonzero(neighbours(documents_of([101]), 4, 1, epoch) == 50)[0] % 4] += 1
    assert (abs(counts - 100) < 40).all()  # more than four standard deviations


def test_short_documents_stay_whole_where_sizes_allow_it():
    documents = documents_of(np.random.default_rng(0).permutation([1] * 100 + [2] * 100 + [3] * 100))
    for epoch in range(3):
        assert meetings(neighbours(documents, 4, epoch=epoch), documents, 4) == 1.0
    documents = documents_of([4] * 50)  # exactly a chunk each
    chunks = neighbours(documents, 4).reshape(-1, 4)
    assert (documents[chunks] == documents[chunks[:, :1]]).all()
    assert (np.diff(chunks[:, 0]) < 0).any()


@pytest.mark.parametrize(("size", "least"), [(2, 0.35), (4, 0.7), (8, 0.85), (16, 0.93)])
def test_neighbours_meet(size, least):
    documents = random_documents(1, count=2000, mean=4.0)
    for epoch in range(3):
        assert meetings(neighbours(documents, size, epoch=epoch), documents, size) > least
    assert meetings(neighbours(documents, 1), documents, size) < 0.02


def test_pieces_of_a_chunk_come_from_anywhere():
    """Which short documents share a chunk changes between epochs, and they do not come from one region."""
    documents, partners = documents_of([2] * 1000), []
    for epoch in range(2):
        chunks = documents[neighbours(documents, 4, epoch=epoch).reshape(-1, 4)]
        partners.append({frozenset(chunk) for chunk in chunks.tolist()})
        assert abs(np.diff(chunks[:, [0, 2]], axis=1)).mean() > 200  # of 1000 documents; 333 if independent
    assert len(partners[0] & partners[1]) < 10


def test_the_short_chunk_comes_last():
    for epoch in range(10):
        # 17 blocks: four chunks and one block
        order = neighbours(documents_of([5, 5, 5, 1, 1]), 4, epoch=epoch)
        runs = (np.diff(order[:16].reshape(4, 4), axis=1) == 1).all(axis=1)
        assert runs.sum() >= 3  # the three documents of five have a run each, at a chunk's place


def test_neighbours_that_cannot_be():
    with pytest.raises(ConfigError, match="neighbours is 0"):
        NeighbourSampler([0, 1], 0, seed=0)
    assert neighbours_warning(32, 8) is neighbours_warning(32, 1) is None
    assert "batch size to 36" in str(neighbours_warning(32, 12))
    assert "at most 4" in str(neighbours_warning(4, 8))
