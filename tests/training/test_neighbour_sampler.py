"""Neighbouring blocks meet in a chunk; every block comes once; the order depends on seed and epoch alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from codir.errors import ConfigError
from codir.training.samplers import NeighbourSampler, neighbours_warning


def documents_of(lengths) -> np.ndarray:
    return np.repeat(np.arange(len(lengths)), lengths)


def random_documents(seed: int, count: int = 300, mean: float = 3.0) -> np.ndarray:
    return documents_of(np.random.default_rng(seed).geometric(1 / mean, size=count))


def meetings(order: np.ndarray, documents: np.ndarray, size: int) -> float:
    """Share of pairs of consecutive blocks of one document that stand in one chunk."""
    chunk = np.empty(len(order), dtype=np.int64)
    chunk[order] = np.arange(len(order)) // size
    pairs = np.flatnonzero(documents[1:] == documents[:-1])
    return float((chunk[pairs] == chunk[pairs + 1]).mean())


@pytest.mark.parametrize("neighbours", [1, 2, 3, 4, 8, 64, 10**9])
@pytest.mark.parametrize(
    "lengths", [[1], [2], [100], [1] * 37, [3, 1, 64, 7, 2, 2, 8, 1], [63, 65, 64], [5, 5, 5, 5, 5, 5]]
)
def test_every_block_once_and_the_same_again(lengths, neighbours):
    documents = documents_of(lengths)
    sampler = NeighbourSampler(documents, neighbours, seed=3)
    assert len(sampler) == len(documents)
    for epoch in range(4):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert all(type(index) is int for index in order)
        assert sorted(order) == list(range(len(documents)))
        assert list(sampler) == order
        assert np.array(list(sampler)).tolist() == order
        again = NeighbourSampler(documents.tolist(), neighbours, seed=3)
        again.set_epoch(epoch)
        assert list(again) == order


@pytest.mark.parametrize("neighbours", [1, 2, 4, 7])
def test_every_epoch_and_seed_has_an_order_of_its_own(neighbours):
    documents = random_documents(0)
    orders = []
    for seed, epoch in itertools.product([0, 1, -1, 2**63], [0, 1, 2]):
        sampler = NeighbourSampler(documents, neighbours, seed)
        sampler.set_epoch(epoch)
        orders.append(tuple(sampler))
    assert len(set(orders)) == len(orders)


def test_long_documents_are_cut_into_runs_that_differ_between_epochs():
    documents = documents_of([400, 300])
    beginnings = set()
    for epoch in range(20):
        sampler = NeighbourSampler(documents, 4, seed=0)
        sampler.set_epoch(epoch)
        order = np.array(list(sampler))
        chunks = order[: len(order) // 4 * 4].reshape(-1, 4)
        runs = (np.diff(chunks, axis=1) == 1).all(axis=1) & (
            documents[chunks[:, 0]] == documents[chunks[:, 3]]
        )
        assert (~runs).sum() <= 2  # only the ends of the two documents are left over
        beginnings.add(int(chunks[runs].min() % 4))
        starts = chunks[runs][:, 0]
        assert (np.diff(starts) < 0).any()  # shuffled
    assert beginnings == {0, 1, 2, 3}


def test_the_offsets_are_uniform():
    """Each block is as often at each place of its run as at any other."""
    documents = documents_of([101])
    counts = np.zeros(4)
    for epoch in range(400):
        sampler = NeighbourSampler(documents, 4, seed=1)
        sampler.set_epoch(epoch)
        place = np.flatnonzero(np.array(list(sampler)) == 50)[0]
        counts[place % 4] += 1
    assert (abs(counts - 100) < 40).all()  # more than four standard deviations


def test_short_documents_stay_whole_where_sizes_allow_it():
    documents = documents_of(np.random.default_rng(0).permutation([1] * 100 + [2] * 100 + [3] * 100))
    for epoch in range(3):
        sampler = NeighbourSampler(documents, 4, seed=0)
        sampler.set_epoch(epoch)
        assert meetings(np.array(list(sampler)), documents, 4) == 1.0


def test_a_document_of_exactly_one_chunk_is_never_cut():
    documents = documents_of([4] * 50)
    chunks = np.array(list(NeighbourSampler(documents, 4, seed=0))).reshape(-1, 4)
    assert (documents[chunks] == documents[chunks[:, :1]]).all()
    assert (np.diff(chunks[:, 0]) < 0).any()


@pytest.mark.parametrize(("neighbours", "least"), [(2, 0.35), (4, 0.7), (8, 0.85), (16, 0.93)])
def test_neighbours_meet(neighbours, least):
    documents = random_documents(1, count=2000, mean=4.0)
    shares = []
    for epoch in range(3):
        sampler = NeighbourSampler(documents, neighbours, seed=0)
        sampler.set_epoch(epoch)
        shares.append(meetings(np.array(list(sampler)), documents, neighbours))
    assert min(shares) > least
    plain = np.array(list(NeighbourSampler(documents, 1, seed=0)))
    assert meetings(plain, documents, neighbours) < 0.02


def test_pieces_of_a_chunk_come_from_anywhere():
    """Which short documents share a chunk changes between epochs, and they do not come from one region."""
    documents = documents_of([2] * 1000)
    partners = []
    for epoch in range(2):
        sampler = NeighbourSampler(documents, 4, seed=0)
        sampler.set_epoch(epoch)
        chunks = documents[np.array(list(sampler)).reshape(-1, 4)]
        partners.append({frozenset(chunk) for chunk in chunks.tolist()})
        assert abs(np.diff(chunks[:, [0, 2]], axis=1)).mean() > 200  # of 1000 documents; 333 if independent
    assert len(partners[0] & partners[1]) < 10


def test_the_short_chunk_comes_last():
    documents = documents_of([5, 5, 5, 1, 1])  # 17 blocks: four chunks and one block
    sampler = NeighbourSampler(documents, 4, seed=0)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        order = np.array(list(sampler))
        runs = (np.diff(order[:16].reshape(4, 4), axis=1) == 1).all(axis=1)
        assert runs.sum() >= 3  # the three documents of five have a run each, at a chunk's place


def test_no_neighbours_is_refused():
    with pytest.raises(ConfigError, match="neighbours is 0"):
        NeighbourSampler([0, 1], 0, seed=0)


def test_warning():
    assert neighbours_warning(32, 8) is None
    assert neighbours_warning(32, 1) is None
    assert "batch size to 36" in str(neighbours_warning(32, 12))
    assert "at most 4" in str(neighbours_warning(4, 8))
