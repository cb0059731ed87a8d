"""The queue against a list."""

from __future__ import annotations

import pytest
import torch

from codir.contrast.queue import EmbeddingQueue
from codir.errors import RunError


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_against_a_list(size: int) -> None:
    queue, expected = EmbeddingQueue(size, 3), []
    generator = torch.Generator().manual_seed(0)
    assert not queue.filled.any()
    for number, count in enumerate([1, 2, 0, 4, 5, 3, 1, 11, 2]):
        ids = torch.randint(7, (count,), generator=generator)
        embeddings = torch.randn(count, 3, generator=generator)
        queue.put(ids, embeddings)
        expected = (expected + list(zip(ids.tolist(), embeddings.tolist(), strict=True)))[-size:]
        held = [
            (i, row)
            for i, row, there in zip(
                queue.ids.tolist(), queue.data.tolist(), queue.filled.tolist(), strict=True
            )
            if there
        ]
        assert sorted(held) == sorted(expected), number


def test_the_oldest_leaves_first_and_its_place_is_taken() -> None:
    queue = EmbeddingQueue(3, 2)
    for number in range(4):
        queue.put(torch.tensor([number]), torch.full((1, 2), float(number)))
    assert queue.ids.tolist() == [3, 1, 2]
    assert queue.data[:, 0].tolist() == [3.0, 1.0, 2.0]


def test_no_gradient_and_no_alias() -> None:
    queue, rows = EmbeddingQueue(4, 2), torch.ones(2, 2, requires_grad=True)
    queue.put(torch.tensor([0, 1]), rows * 1)
    assert not queue.data.requires_grad
    with torch.no_grad():
        rows.zero_()
    assert queue.data[:2].eq(1).all()


def test_state_is_restored_bit_for_bit_and_another_size_is_refused() -> None:
    queue, other = EmbeddingQueue(3, 2), EmbeddingQueue(3, 2)
    queue.put(torch.arange(5), torch.randn(5, 2))
    queue.put(torch.arange(2), torch.randn(2, 2))
    other.load_state({key: value.clone() for key, value in queue.state().items()})
    for each in (queue, other):
        each.put(torch.tensor([8]), torch.ones(1, 2))
    assert all(torch.equal(value, other.state()[key]) for key, value in queue.state().items())
    with pytest.raises(RunError, match=r"\(3, 2\).*\(4, 2\)"):
        EmbeddingQueue(4, 2).load_state(queue.state())
    with pytest.raises(RunError, match="missing"):
        queue.load_state({})
    assert queue.nbytes == 3 * 2 * 4 + 3 * 8
