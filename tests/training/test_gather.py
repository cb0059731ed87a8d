"""Rows of every process, in a real group of two (gloo)."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from codir.contrast.bank import MemoryBank
from codir.gather import align_generator, from_first, gather_rows, processes


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = []
    for counts in ((2, 2), (3, 1), (0, 2), (0, 0)):
        ids = torch.arange(counts[rank]) + 10 * rank
        results.append(gather_rows(ids, torch.eye(4)[ids % 4]))
    bank = MemoryBank(20, 4, seed=3)
    bank.update(
        *gather_rows(torch.tensor([5, 6 + rank]), torch.eye(4)[2 * rank : 2 * rank + 2])
    )  # both write row 5
    generator = torch.Generator().manual_seed(rank)
    align_generator(generator)
    torch.save(
        {
            "drawn": torch.rand(3, generator=generator),
            "gathered": results,
            "bank": bank.data,
            "first": from_first(torch.full((2,), rank)),
        },
        f"{folder}/{rank}",
    )
    distributed.barrier()
    os._exit(0)  # gloo's threads now and then abort an orderly end of the interpreter


def test_two_processes_get_the_same_rows(tmp_path: Path) -> None:
    multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / str(rank)) for rank in range(2))
    assert [ids.tolist() for ids, _ in one["gathered"]] == [[0, 1, 10, 11], [0, 1, 2, 10], [10, 11], []]
    for (ids, rows), (other_ids, other_rows) in zip(one["gathered"], two["gathered"], strict=True):
        assert torch.equal(ids, other_ids)
        assert torch.equal(rows, other_rows)
        assert torch.equal(rows, torch.eye(4)[ids % 4])
    assert torch.equal(one["bank"], two["bank"])
    expected = MemoryBank(20, 4, seed=3)
    expected.update(torch.tensor([5, 6, 7]), torch.eye(4)[[2, 1, 3]])  # row 5: the last rank's counts
    assert torch.equal(one["bank"], expected.data)
    assert torch.equal(one["drawn"], torch.rand(3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(one["drawn"], two["drawn"])
    assert one["first"].tolist() == two["first"].tolist() == [0, 0]


def test_one_process_gets_its_own_back() -> None:
    tensor = torch.ones(2)
    assert processes() == 1
    assert gather_rows(tensor)[0] is tensor
    assert from_first(tensor) is tensor
