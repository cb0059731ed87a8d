"""What models give for the validation examples, one at a time and without codir's batching."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_world import World
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def _outputs(path: Path, world: World) -> list[Any]:
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    with open(world.dev, newline="", encoding="utf-8") as file:
        texts = [row["review"] for row in csv.DictReader(file)]
    found = []
    with torch.no_grad():
        for text in texts:
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=32)
            found.append(model(**inputs, output_hidden_states=True))
    return found


def logits_of(path: Path, world: World) -> np.ndarray:
    """Returns [n, C] fp64."""
    return torch.cat([each.logits for each in _outputs(path, world)]).double().numpy()


def pooled_of(path: Path, world: World) -> torch.Tensor:
    """Returns [n, blocks, d], the mean over the tokens of every block."""
    rows = [torch.stack([h[0].mean(dim=0) for h in each.hidden_states[1:]]) for each in _outputs(path, world)]
    return torch.stack(rows)
