"""What tests read: a report's values without its page, the numbers of a figure, models run without codir's batching."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_world import World
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from codir.reports.figures import Figure
from codir.reports.run import read_run
from codir.reports.study import read_study
from codir.reports.values import Report, Wanted
from codir.studies.results import is_study


def gather(folder: Path, *, examples: int = 1000, latency: Path | None = None, exported: Any = ()) -> Report:
    read = read_study if is_study(folder) else read_run
    return read(folder, Wanted(latency, exported, examples=examples))


def counts(figure: Figure) -> list[list[int]]:
    """Returns the counts that a confusion says when one points at it."""
    return [[int(re.findall(r": (\d+) \(", cell)[0]) for cell in row] for row in figure.data[0]["hovertext"]]


def points(figure: Figure, cloud: int) -> np.ndarray:
    """Returns [n, 2] points of one cloud, class by class."""
    traces = [trace for trace in figure.data if trace["meta"][0] == cloud]
    return np.concatenate([np.stack([trace["x"], trace["y"]], axis=1) for trace in traces])


def outputs_of(path: Path, world: World) -> tuple[np.ndarray, torch.Tensor]:
    """Returns logits [n, C] and the mean over the tokens of every layer [n, layers, d], a text at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    with open(world.dev, newline="", encoding="utf-8") as file:
        texts = [row["review"] for row in csv.DictReader(file)]
    logits, pooled = [], []
    with torch.no_grad():
        for text in texts:
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=32)
            found = model(**inputs, output_hidden_states=True)
            logits.append(found.logits)
            pooled.append(torch.stack([layer[0].mean(dim=0) for layer in found.hidden_states[1:]]))
    return torch.cat(logits).double().numpy(), torch.stack(pooled)
