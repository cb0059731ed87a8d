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
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")


# 61 examples, 8 a step: the last step of an epoch has 5 of them, divided 3 and 2; with 57 it has one.
CASES = {
    "random": {"count": 61},
    "one-left": {"count": 57},
    "by-length": {"train_sampling_strategy": "group_by_length", "count": 61},
    "negatives-of-the-batch": {"crd": {"negatives": "in-batch-bank"}, "count": 57},
    "live-negatives": {
        "crd": {"negatives": "in-batch", "negatives_gradient": True, "k": "auto"},
        "count": 57,
    },
    "few-labels": {"count": 57, "labelled": 7},
    "masked-lm": {"kind": "masked-lm", "count": 59},
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(folders, tmp_path, case):
    settings = CASES[case]
    done(together(1, tmp_path / "one", folders, per_device_train_batch_size=8, **settings))
    whole, history = final(tmp_path / "one"), log(tmp_path / "one")
    # live ones see what is computed at a time
    accumulate = "negatives_gradient" not in settings.get("crd", {})
    for name, batch, accumulation in (("accumulated", 2, 2),) if accumulate else (("two", 4, 1),):
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


# 60 examples in steps of 8 are 8 steps an epoch.
RESUMED = {
    "count": 60,
    "save_strategy": "steps",
    "save_steps": 4,
    "crd": {"k": 10, "dim": 8},
    "dropout": True,
}


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory) -> Path:
    """Returns the folder of a training of two processes that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    done(together(2, folder, folders, per_device_train_batch_size=4, **RESUMED))
    assert_equal(final(folder), final(folder, 1))
    return folder


@pytest.mark.parametrize("dead", [0, 1])
def test_when_one_process_dies_the_others_say_so_and_a_resume_is_exact(folders, whole, tmp_path, dead):
    settings = {"per_device_train_batch_size": 4, **RESUMED}
    ended = together(2, tmp_path, folders, f"kill:{dead}:6", **settings)
    left = ended[1 - dead]
    assert (ended[dead].code, left.code) == (-9, 3), left.output
    assert f"[{1 - dead}] ProcessEndedError: Another process of this training ended after step" in left.output
    assert "checkpoint-4" in left.output
    assert "Traceback" not in left.output
    assert not (tmp_path / "final-0.pt").exists()
    done(together(2, tmp_path, folders, resume=True, **settings))
    for rank in range(2):
        assert_equal(final(whole, rank), final(tmp_path, rank))
    assert log(tmp_path) == log(whole)


def test_a_signal_to_one_process_stops_all_after_the_same_step(folders, whole, tmp_path):
    settings = {"per_device_train_batch_size": 4, **RESUMED}
    ended = together(2, tmp_path, folders, "term:1:5", **settings)
    for rank, one in enumerate(ended):
        assert one.code == 3, one.output
        assert f"[{rank}] InterruptedRunError: Stopped by SIGTERM after step 6" in one.output
    assert (tmp_path / "checkpoint-6" / "manifest.json").is_file()
    done(together(2, tmp_path, folders, resume=True, **settings))
    assert_equal(final(whole), final(tmp_path))


def test_a_process_that_diverges_stops_all_with_the_reason(folders, tmp_path):
    for rank, one in enumerate(together(2, tmp_path, folders, "nan:1:3", per_device_train_batch_size=4)):
        assert one.code == 3, one.output
        assert f"[{rank}] TrainingDivergedError: Training diverged at step 4: the loss term" in one.output, one.output


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_processes_goes_on_with_the_same_batches(folders, tmp_path, before, after):
    settings = {"count": 61, "save_strategy": "steps", "save_steps": 4}
    sizes = {1: 8, 2: 4}
    whole, other = tmp_path / "whole", tmp_path / "other"
    done(together(1, whole, folders, per_device_train_batch_size=8, **settings))
    stopped = together(before, other, folders, "term:0:3", per_device_train_batch_size=sizes[before], **settings)
    assert {one.code for one in stopped} == {3}
    resumed = together(after, other, folders, resume=True, per_device_train_batch_size=sizes[after], **settings)
    done(resumed)
    assert "only the random numbers of dropout differ" in resumed[0].output
    assert_close(final(other), final(whole))


def test_another_number_of_processes_with_another_batch_is_refused(folders, tmp_path):
    settings = {"per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    done(together(1, tmp_path, folders, **settings))
    for one in together(2, tmp_path, folders, resume=True, **{**settings, "max_steps": 4}):
        assert one.code == 3
        assert "make 8 examples a step" in one.output


def test_a_damaged_checkpoint_is_passed_over_by_all(folders, whole, tmp_path):
    settings = {"per_device_train_batch_size": 4, **RESUMED}
    done(together(2, tmp_path, folders, **{**settings, "max_steps": 8}, lr_scheduler_type="constant"))
    weights = tmp_path / "checkpoint-8" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    ended = together(2, tmp_path, folders, resume=True, **{**settings, "max_steps": 9}, lr_scheduler_type="constant")
    done(ended)
    assert "falling back" in ended[0].output
    assert "falling back" not in ended[1].output
    assert_equal(final(tmp_path), final(tmp_path, 1))
