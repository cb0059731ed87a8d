"""The bank on disk against plain loops, a kill at any moment, checkpoints it can go back to, files it refuses."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from codir.contrast import disk_bank
from codir.contrast.bank import Bank, MemoryBank
from codir.contrast.disk_bank import DiskBank, undo_bytes
from codir.contrast.infonce import streamed_info_nce
from codir.contrast.noise import unit_noise
from codir.errors import RunError

SIZE, DIM, SEED = 60, 5, 3


def batch(number: int, count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids, some of them twice, and embeddings: a function of the number alone."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(SIZE, (count,), generator=generator)
    return ids, normalize(torch.randn(count, DIM, generator=generator, dtype=torch.float64), dim=1)


def open_bank(folder: Path, **settings: object) -> DiskBank:
    values: dict[str, object] = {"size": SIZE, "dim": DIM, "seed": SEED, "data_key": "wiki"}
    return DiskBank(folder, **{**values, **settings})  # type: ignore[arg-type]


def contents(bank: Bank) -> torch.Tensor:
    """Returns the stored rows as they are, to be compared bit for bit."""
    return bank.data.clone()


def after(updates: int) -> torch.Tensor:
    """Returns the stored rows of a bank in memory after so many updates."""
    bank = MemoryBank(SIZE, DIM, seed=SEED, start="lazy")
    for number in range(updates):
        bank.update(*batch(number))
    return bank.data


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 2e-7), (torch.float32, 1e-6), (torch.float16, 1e-3)]
)
def test_all_banks_agree_with_a_dictionary_of_rows(
    tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    beta = 0.7
    banks: list[Bank] = [
        open_bank(tmp_path / "bank", momentum=beta, dtype=dtype),
        MemoryBank(SIZE, DIM, beta, SEED, dtype=dtype, start="lazy"),
    ]
    noise: list[list[float]] = unit_noise(torch.arange(SIZE), DIM, SEED).tolist()
    expected: dict[int, list[float]] = {}
    for number in range(40):
        ids, embeddings = batch(number, count=1 + number % 9)
        last = dict(zip(ids.tolist(), embeddings.tolist(), strict=True))  # the last embedding of an id counts
        for key, h in last.items():
            old = expected.get(key) or noise[key]
            mixed = [beta * before + (1 - beta) * new for before, new in zip(old, h, strict=True)]
            length = math.sqrt(sum(value * value for value in mixed))
            expected[key] = [value / length for value in mixed]
        for bank in banks:
            bank.update(ids, embeddings)
        asked = torch.randint(SIZE, (3, 4), generator=torch.Generator().manual_seed(number))
        rows = [[expected.get(key) or noise[key] for key in line] for line in asked.tolist()]
        for bank in banks:
            given = bank.rows(asked)
            assert given.dtype == torch.promote_types(dtype, torch.float32)
            torch.testing.assert_close(
                given.double(), torch.tensor(rows, dtype=torch.float64), atol=tolerance, rtol=0
            )
        if number == 5:  # some have been visited, some have not
            assert 0 < len(expected) < SIZE
    assert torch.equal(contents(banks[0]), contents(banks[1]))  # bit for bit wherever they lie
    everything = torch.tensor([expected.get(key) or noise[key] for key in range(SIZE)], dtype=torch.float64)
    for bank in banks:
        for start, stop in ((0, SIZE), (13, 14), (50, SIZE)):
            chunk = bank.chunk(start, stop)
            assert chunk.dtype == dtype
            torch.testing.assert_close(chunk.double(), everything[start:stop], atol=tolerance, rtol=0)
    assert banks[0].nbytes == SIZE * DIM * dtype.itemsize == (tmp_path / "bank/rows.bin").stat().st_size


def test_reading_writes_nothing(tmp_path: Path) -> None:
    for bank in (open_bank(tmp_path / "bank"), MemoryBank(SIZE, DIM, seed=SEED, start="lazy")):
        rows = bank.rows(torch.tensor([4, 4, 9]))
        assert torch.equal(rows, unit_noise(torch.tensor([4, 4, 9]), DIM, SEED))
        bank.chunk(0, SIZE)
        assert not bank.data.any()
        bank.update(torch.tensor([4]), torch.eye(DIM)[:1])
        assert bank.data.any(dim=1).nonzero().tolist() == [[4]]
        assert torch.equal(bank.rows(torch.tensor([9]))[0], rows[2])
        kept = bank.rows(torch.tensor([4]))
        bank.update(torch.tensor([4]), torch.eye(DIM)[1:2])
        assert not torch.equal(bank.rows(torch.tensor([4])), kept)


def test_all_rows_are_negatives_also_those_never_visited(tmp_path: Path) -> None:
    bank = open_bank(tmp_path / "bank")
    bank.update(*batch(0))
    rows = bank.rows(torch.arange(SIZE)).double()
    anchor = normalize(torch.randn(4, DIM, dtype=torch.float64), dim=1).requires_grad_()
    other = anchor.detach().clone().requires_grad_()
    positive = torch.full((4,), 0.3, dtype=torch.float64)
    admissible = torch.rand(4, SIZE) > 0.3
    result = streamed_info_nce(
        anchor, positive, bank, lambda start, stop: admissible[:, start:stop], 0.2, chunk=13
    )
    logits = (other @ rows.T / 0.2).masked_fill(~admissible, -torch.inf)
    right = positive.unsqueeze(1) / 0.2
    expected = torch.nn.functional.cross_entropy(
        torch.cat([right, logits], dim=1), torch.zeros(4, dtype=torch.long)
    )
    torch.testing.assert_close(result.loss, expected)
    result.loss.backward()
    expected.backward()
    torch.testing.assert_close(anchor.grad, other.grad)


# ---- going back to a checkpoint ------------------------------------------------------------------------------------


def train(bank: DiskBank, start: int, stop: int, every: int = 4, keep: int = 2) -> None:
    """One update a step and a checkpoint every few, of which the last ones are kept."""
    for number in range(start, stop):
        bank.update(*batch(number))
        step = number + 1
        if step % every == 0:
            bank.checkpoint_saved(step, list(range(every, step + 1, every))[-keep:])


@pytest.mark.parametrize("reopen", [False, True])
def test_back_to_any_checkpoint_that_is_kept(tmp_path: Path, reopen: bool) -> None:
    bank = open_bank(tmp_path / "bank")
    bank.rewind(0)
    train(bank, 0, 18)
    assert torch.equal(contents(bank), after(18))
    for step in (16, 12, 0):
        if reopen:
            bank = open_bank(tmp_path / "bank")
        bank.rewind(step)
        assert torch.equal(contents(bank), after(step))
        bank.rewind(step)  # once more changes nothing
        assert torch.equal(contents(bank), after(step))
    train(bank, 0, 18)
    bank.rewind(12)
    train(bank, 12, 18)
    assert torch.equal(contents(bank), after(18))
    with pytest.raises(
        RunError, match=r"cannot go back to the checkpoint of step 8: it can go back to 12, 16\."
    ):
        bank.rewind(8)
    assert sorted(path.name for path in (tmp_path / "bank").glob("undo*")) == ["undo-12.log", "undo-16.log"]


def test_a_checkpoint_without_its_log_yet(tmp_path: Path) -> None:
    bank = open_bank(tmp_path / "bank")
    train(bank, 0, 8)
    train(bank, 8, 12, every=100)
    state = bank.state()
    again = open_bank(
        tmp_path / "bank"
    )  # killed between the seal of checkpoint 12 and the beginning of its log
    again.rewind(12)
    again.load_state(state)
    assert torch.equal(contents(again), after(12))
    train(again, 12, 14)
    for step in (12, 8, 4):
        again.rewind(step)
        assert torch.equal(contents(again), after(step))


def test_a_checkpoint_without_its_log_yet_and_the_very_first(tmp_path: Path) -> None:
    bank = open_bank(tmp_path / "bank")
    train(bank, 0, 3)
    state = bank.state()
    again = open_bank(tmp_path / "bank")
    again.rewind(3)
    again.load_state(state)
    assert torch.equal(contents(again), after(3))


def test_fingerprint(tmp_path: Path) -> None:
    bank = open_bank(tmp_path / "bank")
    train(bank, 0, 8)
    state = bank.state()
    assert sum(tensor.numel() for tensor in state.values()) < 10
    bank.load_state(state)
    train(bank, 8, 9)
    with pytest.raises(RunError, match=r"bank is not the checkpoint's \(updates: 9, there 8\)"):
        bank.load_state(state)
    bank.rewind(8)
    bank.load_state(state)
    # the rows of another moment under the same name: as a copy of an older folder would be
    other = open_bank(tmp_path / "other")
    train(other, 0, 6)
    other.rewind(8)
    with pytest.raises(RunError, match="updates: 6, there 8"):
        other.load_state(state)
    memory = MemoryBank(SIZE, DIM, seed=SEED, start="lazy")
    with pytest.raises(RunError, match="bank_storage=disk"):
        memory.load_state(state)
    with pytest.raises(RunError, match="bank_storage=cpu"):
        bank.load_state(memory.state())


def test_an_old_bank_is_not_written_before_it_is_told_where_to_go_on(tmp_path: Path) -> None:
    train(open_bank(tmp_path / "bank"), 0, 2)
    again = open_bank(tmp_path / "bank")
    with pytest.raises(RuntimeError, match="rewind"):
        again.update(*batch(2))
    assert torch.equal(contents(again), after(2))


def test_a_bank_made_anew_does_not_pass_for_the_old_one(tmp_path: Path) -> None:
    train(open_bank(tmp_path / "bank"), 0, 8)
    for path in (tmp_path / "bank").glob("*"):
        path.unlink()
    bank = open_bank(tmp_path / "bank")
    bank.rewind(8)  # no log is newer: the rows might be the checkpoint's
    with pytest.raises(RunError, match=r"updates: 0, there 8"):
        bank.load_state({"fingerprint": torch.tensor([SIZE, DIM, 4, SEED, bank._expected[-1], 8])})


def test_a_log_damaged_in_the_middle_is_noticed(tmp_path: Path) -> None:
    bank = open_bank(tmp_path / "bank")
    train(bank, 0, 18, every=4, keep=3)
    path = tmp_path / "bank/undo-12.log"
    path.write_bytes(path.read_bytes()[:-3])
    before = contents(bank)
    with pytest.raises(RunError, match=r"undo-12\.log is damaged.*step 8"):
        bank.rewind(8)
    assert torch.equal(contents(bank), before)
    bank.rewind(16)
    assert torch.equal(contents(bank), after(16))


CHILD = """
import os, sys, torch
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_disk_bank import batch, open_bank
torch.set_num_threads(1)
folder = Path(sys.argv[2])

def train(step):
    bank = open_bank(folder)
    bank.rewind(step)
    if step:
        bank.load_state(torch.load(folder / f"checkpoint-{step}"))
    while True:
        bank.update(*batch(step))
        step += 1
        if step % 5 == 0:
            torch.save(bank.state(), folder / "half")
            (folder / "half").rename(folder / f"checkpoint-{step}")  # now it is whole
            for old in folder.glob("checkpoint-*"):  # also what an earlier process was killed before removing
                if int(old.name.partition("-")[2]) < step - 5:
                    old.unlink()
            bank.checkpoint_saved(step, [step - 5, step] if step > 5 else [step])

for line in sys.stdin:
    child = os.fork()
    if not child:
        train(int(line))
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def whole_checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.partition("-")[2]) for path in folder.glob("checkpoint-*"))


def test_kill_at_any_moment(tmp_path: Path) -> None:
    """A process goes on from the last checkpoint, or from the one before it, and is killed some moments later."""
    chance = random.Random(0)
    folder = tmp_path / "bank"
    parent = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    reference, expected = MemoryBank(SIZE, DIM, seed=SEED, start="lazy"), {0: torch.zeros(SIZE, DIM)}
    checked = torn = 0
    for attempt in range(25):
        steps = whole_checkpoints(folder) or [0]
        start = steps[-2] if attempt % 3 == 0 and len(steps) > 1 else steps[-1]  # as if the last were damaged
        for step in steps:
            if step > start:  # a damaged one is removed before the training starts
                (folder / f"checkpoint-{step}").unlink()
        print(start, file=parent.stdin, flush=True)
        child = int(parent.stdout.readline())
        if attempt % 2:  # else it may be killed while it opens or rewinds
            patience = time.monotonic() + 60
            while whole_checkpoints(folder)[-1:] <= [start] and time.monotonic() < patience:
                time.sleep(0.001)
        time.sleep(0.03 * chance.random())
        os.kill(child, signal.SIGKILL)
        assert parent.stdout.readline() == "gone\n"
        for step in whole_checkpoints(folder):
            while max(expected) < step:
                for number in range(max(expected), max(expected) + 5):
                    reference.update(*batch(number))
                expected[max(expected) + 5] = reference.data.clone()
            # What a resume would find, on a copy of the files
            copy = tmp_path / f"copy-{attempt}-{step}"
            shutil.copytree(folder, copy)
            bank = open_bank(copy)
            torn += not torch.equal(contents(bank), expected[step])
            bank.rewind(step)
            bank.load_state(torch.load(folder / f"checkpoint-{step}"))
            assert torch.equal(contents(bank), expected[step])
            checked += 1
    parent.stdin.close()
    parent.wait()
    parent.stdout.close()
    assert max(expected) >= 20  # it has run
    assert checked >= 20
    assert torn >= 10  # there was something to undo


@pytest.mark.parametrize("killed_at", [0, 1, 2, 3])
def test_a_rewind_that_is_interrupted(
    tmp_path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    bank = open_bank(tmp_path / "bank")
    train(bank, 0, 18, every=4, keep=3)
    bank = open_bank(tmp_path / "bank")
    genuine_undo, genuine_forget, genuine_begin = disk_bank.undo, bank._forget, bank._begin_log

    def undo(folder: Path, step: int):
        for count, item in enumerate(genuine_undo(folder, step)):
            if killed_at == 0 and step == 12 and count == 2:
                raise Killed
            yield item

    def forget(logs) -> None:
        for count, log in enumerate(sorted(logs, reverse=True)):
            if killed_at == 1 + count:
                raise Killed
            genuine_forget([log])

    def begin(step: int):
        if killed_at == 3:
            raise Killed
        return genuine_begin(step)

    monkeypatch.setattr(disk_bank, "undo", undo)
    monkeypatch.setattr(bank, "_forget", forget)
    monkeypatch.setattr(bank, "_begin_log", begin)
    with pytest.raises(Killed):
        bank.rewind(8)
    monkeypatch.undo()
    again = open_bank(tmp_path / "bank")
    again.rewind(8)
    assert torch.equal(contents(again), after(8))
    train(again, 8, 18)
    assert torch.equal(contents(again), after(18))


# ---- files that are refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"data_key": "books"},
            r"bank in .*bank belongs to other training data\. Choose another output folder",
        ),
        ({"data_key": None}, "belongs to other training data"),
        ({"size": SIZE + 1}, "rows=60, this run has rows=61"),
        ({"dim": DIM + 1}, "dim=5, this run has dim=6"),
        ({"dtype": torch.float16}, "dtype=float32, this run has dtype=float16"),
        ({"seed": SEED + 1}, "seed=3, this run has seed=4"),
    ],
)
def test_a_bank_of_other_data_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    bank = open_bank(tmp_path / "bank")
    train(bank, 0, 3)
    with pytest.raises(RunError, match=message):
        open_bank(tmp_path / "bank", **change)
    assert torch.equal(contents(bank), after(3))


def test_a_truncated_or_unreadable_bank_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bank"
    train(open_bank(folder), 0, 3)
    rows, head = folder / "rows.bin", folder / "bank.json"
    os.truncate(rows, 1000)
    with pytest.raises(
        RunError, match=r"rows\.bin is truncated: it has 1,000 bytes instead of 1,200\. .*delete"
    ):
        open_bank(folder)
    rows.unlink()
    with pytest.raises(RunError, match=r"rows\.bin is truncated: it has 0 bytes"):
        open_bank(folder)
    values = json.loads(head.read_text())
    head.write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(RunError, match=r"bank\.json is no memory bank that this version"):
        open_bank(folder)
    head.write_text("{")
    with pytest.raises(RunError, match=r"bank\.json is damaged"):
        open_bank(folder)
    head.unlink()  # it was never finished: made anew
    assert not open_bank(folder).data.any()


def test_a_full_disk_is_noticed_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"bank of 1,000,000,000,000 x 128 float32 needs 512\.0 TB"):
        DiskBank(tmp_path / "large", 10**12, 128)
    assert not (tmp_path / "large").exists()
    bank = open_bank(tmp_path / "bank")
    train(bank, 0, 3)
    genuine: Callable[..., object] = disk_bank.shutil.disk_usage

    class Full:
        free = 4096

    monkeypatch.setattr(disk_bank.shutil, "disk_usage", lambda folder: Full())
    with pytest.raises(RunError, match=r"bank is full \(4\.1 kB free\).*--resume"):
        bank.update(*batch(3))
    assert torch.equal(contents(bank), after(3))
    monkeypatch.setattr(disk_bank.shutil, "disk_usage", genuine)
    bank.update(*batch(3))
    assert torch.equal(contents(bank), after(4))


def test_the_log_is_written_before_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bank = open_bank(tmp_path / "bank")
    train(bank, 0, 5)
    assert bank._log is not None
    logged: list[tuple[torch.Tensor, torch.Tensor]] = []

    def torn(ids: torch.Tensor, rows: torch.Tensor) -> None:
        logged.append((ids, rows.clone()))
        raise RunError("full")

    monkeypatch.setattr(bank._log, "append", torn)
    with pytest.raises(RunError, match="full"):
        bank.update(*batch(5))
    assert torch.equal(contents(bank), after(5))
    ids, rows = logged[0]
    assert set(ids.tolist()) == set(batch(5)[0].tolist())
    assert torch.equal(rows, after(5)[ids])  # what they held


def test_the_file_takes_no_place_before_it_is_written(tmp_path: Path) -> None:
    begin = time.perf_counter()
    bank = DiskBank(tmp_path / "bank", 4_000_000, 128, dtype=torch.float16)
    assert time.perf_counter() - begin < 2  # 1 GB
    rows = tmp_path / "bank/rows.bin"
    assert rows.stat().st_blocks * 512 < 1 << 20
    bank.update(torch.tensor([0, 3_999_999]), normalize(torch.randn(2, 128), dim=1))
    assert rows.stat().st_blocks * 512 < 1 << 20
    assert bank.describe() == f"4,000,000 x 128 float16, 1.0 GB on disk ({tmp_path / 'bank'})"


def test_bytes_of_the_log(tmp_path: Path) -> None:
    bank = open_bank(tmp_path / "bank", dtype=torch.float16)
    bank.checkpoint_saved(1, [1])
    log = tmp_path / "bank/undo-1.log"
    before = log.stat().st_size
    bank.update(torch.arange(20), normalize(torch.randn(20, DIM), dim=1))
    assert undo_bytes(20, DIM, torch.float16) + 20 == log.stat().st_size - before
