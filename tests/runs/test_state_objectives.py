"""Whole distillations by the objectives over states and attention matrices, with the teacher's cached vectors."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_world import TRAINING, World
from transformers import AutoModelForSequenceClassification

from codir import distill

OBJECTIVES: dict[str, Any] = {
    "task": {},
    "hidden_mse": {},
    "embedding_mse": {},
    "attention_mse": {},
    "pkd": {"projection": "auto"},
    "hidden_cosine": {"projection": "auto"},
}
NARROW = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


def logged(run: Path, name: str) -> list[float]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry[name] for entry in entries if name in entry]


@pytest.mark.parametrize(
    ("student", "precision"), [({"layers": 2}, "bf16"), ({"config": NARROW}, "fp32")], ids=["cut", "narrow"]
)
def test_all_of_them_in_one_run(
    world: World, tmp_path: Path, student: dict[str, Any], precision: str
) -> None:
    output = io.StringIO()
    result = distill(
        **world.settings(
            tmp_path / "run",
            recipe="kd",
            baseline=False,
            student=student,
            objectives={"kd": None, **OBJECTIVES},
            training={**TRAINING, "num_train_epochs": 3, "precision": precision},
            cache_dir=str(tmp_path / "cache"),
        ),
        console=Console(file=output, width=200),
    )
    printed = " ".join(output.getvalue().split())
    assert "hidden_mse student layers 1, 2 learn from the teacher's 2, 4" in printed
    assert ("learned map from 16 to 32" in printed) == ("config" in student)
    for name in OBJECTIVES:
        losses = logged(result.output, f"loss_{name}")
        assert losses, name
        # A cut student has the teacher's embeddings: what is left there is dropout.
        if name != "task" and not (name == "embedding_mse" and "layers" in student):
            assert losses[-1] < 0.9 * losses[0], name
    exported = AutoModelForSequenceClassification.from_pretrained(result.output)
    assert not [name for name in exported.state_dict() if "projections" in name]
