"""A whole training with its bank on disk: killed and resumed it ends with the same weights and rows, bit for bit."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).parent))
from processes_job import Ended, together

SETTINGS: dict[str, Any] = {"max_steps": 16, "save_strategy": "steps", "save_steps": 4, "save_total_limit": 3}
DISK = {"bank_storage": "disk", "bank_dtype": "float16"}


@pytest.fixture(scope="module")
def folders(models: Path, tiny_tokenizer: PreTrainedTokenizerBase) -> Path:
    """Returns the folder of models with two masked language models in it."""
    for name, layers in (("mlm-teacher", 4), ("mlm-student", 2)):
        if not (models / name).exists():
            torch.manual_seed(layers)
            config = BertConfig(
                vocab_size=len(tiny_tokenizer),
                hidden_size=32,
                num_hidden_layers=layers,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
            )
            BertForMaskedLM(config).save_pretrained(models / name)
    return models


def done(ended: list[Ended]) -> None:
    assert [one.code for one in ended] == [0] * len(ended), "\n".join(one.output for one in ended)


def final(folder: Path, rank: int = 0) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"final-{rank}.pt", weights_only=True)


def different(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def undo_logs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "bank").glob("undo-*"))


@pytest.mark.parametrize(("kind", "damaged"), [("classification", False), ("masked-lm", True)])
def test_killed_and_resumed(tmp_path: Path, folders: Path, kind: str, damaged: bool) -> None:
    crd = {**DISK, "k": "auto" if kind == "masked-lm" else 10}
    settings = {**SETTINGS, "kind": kind, "crd": crd}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done(together(1, whole, folders, **settings))
    assert together(1, killed, folders, "kill:0:14", **settings)[0].code == -9
    assert undo_logs(killed) == ["undo-12.log", "undo-4.log", "undo-8.log"]
    if damaged:  # back to the checkpoint before it
        os.truncate(killed / "checkpoint-12/model.safetensors", 100)
    done(together(1, killed, folders, resume=True, **settings))
    assert different(final(whole), final(killed)) == []
    rows = final(whole)["bank"]
    assert rows.dtype == torch.float16
    assert rows.any(dim=1).all()  # every example was visited
    assert undo_logs(killed) == undo_logs(whole) == ["undo-12.log", "undo-16.log", "undo-8.log"]
    assert final(whole)["extra.crd/bank_fingerprint"].numel() < 10  # and not the rows


def test_started_anew_in_the_same_folder(tmp_path: Path, folders: Path) -> None:
    settings = {**SETTINGS, "kind": "masked-lm", "crd": {**DISK, "k": "auto"}, "save_strategy": "no"}
    done(together(1, tmp_path, folders, **settings))
    first = final(tmp_path)
    done(together(1, tmp_path, folders, **settings))
    assert different(first, final(tmp_path)) == []
    refused = together(1, tmp_path, folders, **{**settings, "examples": 40})
    assert refused[0].code
    assert "was made with rows=60, this run has rows=40" in refused[0].output


def test_it_is_the_bank_of_memory(tmp_path: Path, folders: Path) -> None:
    """The same rows and the same weights wherever the bank of a corpus lies."""
    for storage in ("disk", "cpu"):
        crd = {"k": "auto", "bank_storage": storage}
        done(together(1, tmp_path / storage, folders, kind="masked-lm", crd=crd, **SETTINGS))
    disk, memory = final(tmp_path / "disk"), final(tmp_path / "cpu")
    kept = [name for name in disk if name == "bank" or name.startswith("model.")]
    assert [name for name in kept if not torch.equal(disk[name], memory[name])] == []
    crd = {"k": "auto", "bank_storage": "disk"}
    refused = together(1, tmp_path / "cpu", folders, kind="masked-lm", crd=crd, resume=True, **SETTINGS)
    assert refused[0].code == 3
    assert "bank_storage=cpu" in refused[0].output


def test_two_processes_share_the_file(tmp_path: Path, folders: Path) -> None:
    crd = {"k": "auto", "bank_storage": "disk"}
    settings = {**SETTINGS, "kind": "masked-lm", "crd": crd, "per_device_train_batch_size": 4}
    done(together(2, tmp_path / "whole", folders, **settings))
    one, two = final(tmp_path / "whole"), final(tmp_path / "whole", 1)
    assert torch.equal(one["bank"], two["bank"])
    assert together(2, tmp_path / "killed", folders, "kill:1:10", **settings)[1].code == -9
    done(together(2, tmp_path / "killed", folders, resume=True, **settings))
    for rank, expected in enumerate((one, two)):
        assert different(expected, final(tmp_path / "killed", rank)) == []
