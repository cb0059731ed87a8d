"""Where a bank goes: by size, by wish, on disk once it is there; what is refused; what is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codir.contrast.bank import MemoryBank
from codir.contrast.disk_bank import DiskBank
from codir.errors import ConfigError, RunError
from codir.losses import bank_storage
from codir.losses.bank_storage import available_memory, choose_storage
from codir.losses.base import ObjectiveContext, Step
from codir.losses.contrastive import ContrastiveSettings, make_bank
from codir.losses.crd import CRD
from codir.losses.registry import build_objectives
from codir.models.representations import EncoderShape

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
GB = 10**9


@pytest.fixture
def corpus(tmp_path: Path) -> ObjectiveContext:
    student, teacher = EncoderShape(2, 3), EncoderShape(4, 5)
    return ObjectiveContext(
        student, teacher, 1000, None, "masked-lm", 50, seed=2, device=CPU, folder=tmp_path, data_key="wiki"
    )


@pytest.mark.parametrize(
    ("nbytes", "device", "expected"),
    [
        (2 * GB, GPU, "gpu"),
        (2 * GB + 1, GPU, "cpu"),
        (2 * GB, CPU, "cpu"),
        (4 * GB, GPU, "cpu"),
        (4 * GB, CPU, "cpu"),
        (4 * GB + 1, GPU, "disk"),
        (4 * GB + 1, CPU, "disk"),
    ],
)
def test_the_fastest_place_it_fits_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nbytes: int, device: torch.device, expected: str
) -> None:
    monkeypatch.setattr(bank_storage, "available_memory", lambda: 16 * GB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * GB, 80 * GB))
    monkeypatch.setattr(bank_storage, "gather_rows", lambda tensor: (tensor,))
    monkeypatch.setattr(torch, "tensor", lambda value, device: torch.full((1,), value[0]))
    assert choose_storage(nbytes, device, tmp_path / "bank") == expected
    if expected == "disk":
        with pytest.raises(ConfigError, match=r"takes 4\.0 GB, more than a quarter of the 16\.0 GB"):
            choose_storage(nbytes, device, None)
    # Each of the machine's processes holds a copy
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    fewer = choose_storage(nbytes, device, tmp_path / "bank")
    assert fewer == ("gpu" if expected == "gpu" else "disk")


def test_the_process_with_the_least_memory_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_storage, "available_memory", lambda: 16 * GB)
    monkeypatch.setattr(bank_storage, "gather_rows", lambda tensor: (torch.cat([tensor, tensor * 0 + 2]),))
    assert choose_storage(10, CPU, tmp_path) == "disk"


def test_memory_of_this_machine() -> None:
    assert 10**7 < available_memory() < 10**14


def test_a_corpus_bank_opens_lazily_and_a_tasks_bank_as_before(corpus: ObjectiveContext) -> None:
    bank = make_bank(ContrastiveSettings(dim=8), corpus)
    assert isinstance(bank, MemoryBank)
    assert not bank.data.any()
    torch.testing.assert_close(bank.rows(torch.arange(1000)).norm(dim=1), torch.ones(1000))
    task = replace(corpus, kind="classification")
    for storage in ("auto", "cpu"):
        before = make_bank(ContrastiveSettings.model_validate({"dim": 8, "bank_storage": storage}), task)
        assert torch.equal(before.data, MemoryBank(1000, 8, 0.5, seed=5).data)
    half = make_bank(ContrastiveSettings(dim=8, bank_dtype="float16"), corpus)
    assert half.data.dtype == torch.float16


def test_on_disk_by_wish_by_size_and_once_it_is_there(
    corpus: ObjectiveContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = ContrastiveSettings(dim=8, bank_dtype="float16")
    assert isinstance(make_bank(auto, corpus), MemoryBank)
    monkeypatch.setattr(bank_storage, "available_memory", lambda: 1000)
    bank = make_bank(auto, corpus)
    assert isinstance(bank, DiskBank)
    assert bank.folder == corpus.folder / "bank" if corpus.folder else False
    monkeypatch.undo()
    assert isinstance(make_bank(auto, corpus), DiskBank)
    with pytest.raises(RunError, match="other training data"):
        make_bank(auto, replace(corpus, data_key="books"))
    assert isinstance(make_bank(auto, replace(corpus, folder=None)), MemoryBank)
    assert isinstance(make_bank(auto.model_copy(update={"bank_storage": "cpu"}), corpus), MemoryBank)
    other = replace(corpus, kind="regression", folder=corpus.folder / "task" if corpus.folder else None)
    assert isinstance(make_bank(auto.model_copy(update={"bank_storage": "disk"}), other), DiskBank)


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        ("crd", {"bank_storage": "gpu"}, r"crd\.bank_storage='gpu', and the training runs on a CPU"),
        ("crd", {"bank_storage": "disk"}, r"crd\.bank_storage='disk' needs a folder"),
        ("crd", {"bank_storage": "tape"}, "bank_storage"),
        ("crd", {"bank_dtype": "int8"}, "bank_dtype"),
        ("crd_official", {"bank_storage": "cpu"}, "crd_official keeps its two banks"),
        ("crd_official", {"bank_dtype": "float16"}, "crd_official keeps its two banks"),
    ],
)
def test_refusals(corpus: ObjectiveContext, objective: str, settings: dict[str, str], message: str) -> None:
    context = replace(
        corpus, folder=None, kind="classification", labels=torch.arange(1000) % 2, num_classes=2
    )
    with pytest.raises(ConfigError, match=message):
        build_objectives({objective: {"negatives": "any", **settings}}, context)


def test_the_objective_says_where_the_bank_is_and_passes_the_hooks_on(
    corpus: ObjectiveContext, make_step: Callable[..., Step]
) -> None:
    def build(**settings: object) -> CRD:
        objective = build_objectives({"crd": {"dim": 8, "k": 4, **settings}}, corpus)["crd"]
        assert isinstance(objective, CRD)
        return objective

    assert "memory bank: 1,000 x 8, 32.0 kB on cpu" in "\n".join(build().describe())
    objective = build(bank_storage="disk", bank_dtype="float16")
    assert f"memory bank: 1,000 x 8 float16, 16.0 kB on disk ({corpus.folder}/bank)" in objective.describe()
    bank = objective.bank
    assert isinstance(bank, DiskBank)
    states, parameters = {}, objective.state_dict()
    objective.rewind(0)
    for step in range(1, 6):
        batch = make_step([step, step + 1, 999], seed=step, labels=torch.zeros(1000))
        batch.batch_ids = torch.tensor([step, step + 1, 999])
        objective(batch)
        objective.after_step()
        states[step] = (
            {key: value.clone() for key, value in objective.extra_state().items()},
            bank.data.clone(),
        )
        if step in (2, 4):
            objective.checkpoint_saved(step, [2, step])
    again = build(bank_storage="disk", bank_dtype="float16")
    again.load_state_dict(parameters)
    for step in (4, 2):
        again.rewind(step)
        again.load_extra_state(states[step][0])
        assert torch.equal(again.bank.data, states[step][1])
    with pytest.raises(RunError, match="updates: 2, there 4"):
        again.load_extra_state(states[4][0])
