"""One file for two real processes of a machine (gloo); two machines have a file each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import normalize

from codir.contrast.bank import MemoryBank
from codir.contrast.disk_bank import DiskBank
from codir.errors import RunError
from codir.gather import gather_rows

SIZE, DIM = 40, 6


def part(step: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    count = 3 + (step + rank) % 2
    ids = torch.randint(SIZE, (count,), generator=generator)
    return ids, normalize(torch.randn(count, DIM, generator=generator), dim=1)


def worker(rank: int, folder: str, machines: bool) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        {"LOCAL_RANK": "0", "GROUP_RANK": str(rank)}
        if machines
        else {"LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
    )
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    bank = DiskBank(f"{folder}/bank", SIZE, DIM, seed=1, dtype=torch.float16, data_key="wiki")
    memory = MemoryBank(SIZE, DIM, seed=1, dtype=torch.float16, start="lazy")
    bank.rewind(0)
    seen = []
    for step in range(1, 10):
        ids, embeddings = gather_rows(*part(step, rank))
        bank.update(ids, embeddings)
        memory.update(ids, embeddings)
        # At once, also in the process that does not write
        assert torch.equal(bank.rows(torch.arange(SIZE)), memory.rows(torch.arange(SIZE)))
        seen.append(bank.data.clone())
        if step % 3 == 0:
            bank.checkpoint_saved(step, [3, 6, 9])
        distributed.barrier()
    state = bank.state()
    bank = DiskBank(f"{folder}/bank", SIZE, DIM, seed=1, dtype=torch.float16, data_key="wiki")
    bank.rewind(9)
    bank.load_state(state)
    bank.rewind(3)
    assert torch.equal(bank.data, seen[2])
    refused = []
    for call in (
        lambda: bank.load_state(state),
        lambda: bank.rewind(1),
        lambda: DiskBank(f"{folder}/bank", SIZE, DIM, data_key="books"),
    ):
        with pytest.raises(RunError) as error:  # in both processes: none is left waiting
            call()
        refused.append(str(error.value))
    bank.rewind(0)
    assert not bank.data.any()
    ids, embeddings = gather_rows(*part(1, rank))
    bank.update(ids, embeddings)
    torch.save({"seen": seen, "state": state, "last": bank.data, "refused": refused}, f"{folder}/{rank}")
    distributed.barrier()
    os._exit(0)  # gloo's threads now and then abort an orderly end of the interpreter


@pytest.mark.parametrize("machines", [False, True])
def test_every_process_has_the_same_bank(tmp_path: Path, machines: bool) -> None:
    spawn(worker, (str(tmp_path), machines), nprocs=2)
    one, two = (torch.load(tmp_path / str(rank)) for rank in range(2))
    alone = DiskBank(tmp_path / "alone", SIZE, DIM, seed=1, dtype=torch.float16, data_key="wiki")
    for step, (first, second) in enumerate(zip(one["seen"], two["seen"], strict=True), start=1):
        (ids, embeddings), (more_ids, more_embeddings) = part(step, 0), part(step, 1)
        alone.update(torch.cat([ids, more_ids]), torch.cat([embeddings, more_embeddings]))
        assert torch.equal(first, second)
        assert torch.equal(first, alone.data)
    assert torch.equal(one["state"]["fingerprint"], two["state"]["fingerprint"])
    assert torch.equal(one["state"]["fingerprint"], alone.state()["fingerprint"])
    assert torch.equal(one["last"], one["seen"][0])
    assert torch.equal(two["last"], one["seen"][0])
    assert len(one["refused"]) == 3
    folders = sorted(path.name for path in tmp_path.glob("bank*"))
    assert folders == (["bank", "bank-machine1"] if machines else ["bank"])
    if not machines:
        # Rows of 9 updates were written once, not twice: by one process
        assert one["refused"] == two["refused"]
