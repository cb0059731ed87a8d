"""Training in several processes: the same as in one, bit for bit the same in each of them, and never half dead."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from processes_job import Ended, together


@pytest.fixture(scope="module")
def folders(models, tiny_tokenizer) -> Path:
    """Returns the folder of models with two masked language models in it."""
    from transformers import BertConfig, BertForMaskedLM

    for name, layers in (("mlm-teacher", 4), ("mlm-student", 2)):
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


def log(folder: Path) -> list[dict[str, float]]:
    entries = [entry for entry in json.loads((folder / "log.json").read_text()) if "loss" in entry]
    for entry in entries:
        del entry["epoch"]  # counted in accumulated batches
    return entries


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=0, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


# 61 examples, 8 a step: the last step of an epoch has 5 of them, divided 3 and 2; with 57 it has one.
CASES = {
    "random": {"examples": 61},
    "one-left": {"examples": 57},
    "by-length": {"train_sampling_strategy": "group_by_length", "examples": 61},
    "negatives-of-the-batch": {"crd": {"negatives": "in-batch-bank"}, "examples": 57},
    "masked-lm": {"kind": "masked-lm", "examples": 59},
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(folders, tmp_path, case):
    settings = CASES[case]
    done(together(1, tmp_path / "one", folders, per_device_train_batch_size=8, **settings))
    whole, history = final(tmp_path / "one"), log(tmp_path / "one")
    for name, batch, accumulation in (("two", 4, 1), ("accumulated", 2, 2)):
        done(
            together(
                2,
                tmp_path / name,
                folders,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
                **settings,
            )
        )
        assert_equal(final(tmp_path / name), final(tmp_path / name, 1))
        assert_close(final(tmp_path / name), whole)
        assert len(log(tmp_path / name)) == len(history) == 5
        for entry, expected in zip(log(tmp_path / name), history, strict=True):
            assert entry == pytest.approx(expected, rel=1e-3, abs=1e-4)
