"""Rows of every process and their gradients, in a real group of two (gloo), against one process that has all rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed
from torch.multiprocessing.spawn import start_processes

from codir.gather import align_generator, from_first, gather_rows, gather_with_grad, processes

ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
COUNTS = ((2, 2), (3, 2), (0, 4))


def share(rank: int, counts: tuple[int, int]) -> slice:
    return slice(0, counts[0]) if rank == 0 else slice(counts[0], sum(counts))


def loss_of(own: Tensor, every: Tensor) -> Tensor:
    """Sum over the own rows of a function of all rows that is not linear, and differs from row to row."""
    return torch.exp(own @ every.T).sum() + (every**3).sum() * own.sum()


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    gathered, gradients = [], []
    for counts in ((2, 2), (3, 1), (0, 2), (0, 0)):
        ids = torch.arange(counts[rank]) + 10 * rank
        gathered.append(gather_rows(ids, torch.eye(4)[ids % 4]))
    for counts in COUNTS:
        own = ROWS[share(rank, counts)].clone().requires_grad_()
        every = gather_with_grad(own)
        assert torch.equal(every, gather_rows(own.detach())[0])
        loss_of(own, every).backward()
        gradients.append(own.grad)
        with torch.no_grad():
            assert not gather_with_grad(own).requires_grad
    generator = torch.Generator().manual_seed(rank)
    align_generator(generator)
    drawn, first = torch.rand(3, generator=generator), from_first(torch.full((2,), rank))
    torch.save((gathered, gradients, drawn, first), f"{folder}/{rank}")
    distributed.barrier()
    os._exit(0)  # gloo's threads now and then abort an orderly end of the interpreter


def test_two_processes_have_the_rows_and_the_gradients_of_one(tmp_path: Path) -> None:
    start_processes(worker, (str(tmp_path),), nprocs=2, start_method="fork")
    one, two = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert [ids.tolist() for ids, _ in one[0]] == [[0, 1, 10, 11], [0, 1, 2, 10], [10, 11], []]
    for (ids, rows), (other_ids, other_rows) in zip(one[0], two[0], strict=True):
        assert torch.equal(ids, other_ids)
        assert torch.equal(rows, other_rows)
        assert torch.equal(rows, torch.eye(4)[ids % 4])
    for index, counts in enumerate(COUNTS):
        rows = ROWS[: sum(counts)].clone().requires_grad_()
        # The sum of what the processes compute: DDP's average of it is 1/W times this.
        torch.stack([loss_of(rows[share(rank, counts)], rows) for rank in range(2)]).sum().backward()
        torch.testing.assert_close(torch.cat([one[1][index], two[1][index]]), rows.grad, rtol=1e-12, atol=1e-12)
    assert torch.equal(one[2], torch.rand(3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(one[2], two[2])
    assert one[3].tolist() == two[3].tolist() == [0, 0]


def test_the_reference_by_finite_differences() -> None:
    rows = ROWS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss_of(x[:2], gather_with_grad(x)), (rows,))


@pytest.mark.parametrize("count", [0, 3])
def test_one_process_gets_its_own_back(count: int) -> None:
    rows = torch.ones(count, 2, requires_grad=True)
    assert processes() == 1
    assert gather_rows(rows)[0] is gather_with_grad(rows) is from_first(rows) is rows
