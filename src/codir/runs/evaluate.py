"""Measures a model on the validation data of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from codir.config.config import DataConfig
from codir.data.encoding import encode_split
from codir.data.task import Task, TaskData
from codir.engines.engines import Classifier, load_engine
from codir.kinds import kind_named
from codir.kinds.metrics import compute_metrics, flat_metrics
from codir.models.check import load_tokenizer_for
from codir.models.inference import predict_logits
from codir.printing import Console, progress_bar, terminal
from codir.record.data import load_data_for
from codir.record.run_data import choose_data
from codir.table import Column, Table, Tabular
from codir.training.processes import one_process_only


@dataclass
class EvaluationResult(Tabular):
    """What a model scores on every validation split of a task, by the name of the split; the first is the main one."""

    model: str  # as it was named
    task: Task
    metrics: dict[str, dict[str, float]]
    logits: dict[str, np.ndarray] = field(repr=False)  # [n, C], columns in the order of the data's classes
    labels: dict[str, np.ndarray] = field(repr=False)  # [n], the data's class ids or scores
    truncated: dict[str, int]  # how many examples were longer than the limit and were cut
    max_length: int | None = None  # that limit in tokens, None if there is none
    notes: list[str] = field(default_factory=list)  # what the user should know about the data

    @property
    def main_split(self) -> str:
        """Name of the main split."""
        return next(iter(self.metrics))

    @property
    def score(self) -> float:
        """The main metric on the main split."""
        return self.metrics[self.main_split][self.task.main_metric]

    def flat_metrics(self) -> dict[str, float]:
        """Returns one level: the main split's metrics by name, those of the others as `SPLIT/METRIC`."""
        return flat_metrics(self.metrics)

    def predictions(self, split: str | None = None) -> np.ndarray:
        """Returns [n] class ids of the data, or scores, of a split (the main one by default)."""
        return kind_named(self.task.kind).answers(self.logits[split or self.main_split])

    def table(self) -> Table:
        """Returns one row for each split."""
        names = self.task.metrics
        columns = [Column("split", left=True), Column("examples", "{:,}".format)]
        columns += [Column(name, "{:.4f}".format) for name in names]
        rows = [(at, len(self.labels[at]), *(each[name] for name in names)) for at, each in self.metrics.items()]
        return Table(f"{self.model} on {self.task.name}", columns, rows)

    def cut(self) -> list[str]:
        """Returns a sentence for each split of which examples were cut."""
        return [
            f"{count:,} of {len(self.labels[split]):,} {split} examples were longer than {self.max_length} tokens and "
            "were cut."
            for split, count in self.truncated.items()
            if count
        ]


def evaluate(
    model: str | Path,
    data: DataConfig,
    batch_size: int = 32,
    *,
    device: str | torch.device | None = None,
    console: Console | None = None,
    quiet: bool = False,
) -> EvaluationResult:
    """Measures a model on every validation split of `data` and prints the table.

    Args:
        model: folder or Hub id of a fine-tuned model, or an exported folder.
        data: the task, or files; training data are not read unless validation data are held out from them. What is not
            set (length, columns, encoding) is as the model's run folder says.
        batch_size: examples in a batch.
        device: where to compute; a GPU if there is one.
        console: where to print; standard output by default.
        quiet: prints nothing.

    Raises:
        ConfigError: the run was on pairs of texts, and the data are single ones, or the other way round.
        ModelError: the model cannot be loaded, or its classes are not those of the data.
        DataError: for everything wrong with the data.
    """
    one_process_only("codir evaluate")
    chosen = choose_data([model], data)
    data = chosen.config or data
    if chosen.words is not None and not quiet:
        terminal(console).print(chosen.words, highlight=False, markup=False, soft_wrap=True)
    classifier = load_engine(model)
    tokenizer = load_tokenizer_for(classifier, model)
    task_data = load_data_for(classifier.config, data)
    where = device or ("cuda" if torch.cuda.is_available() else None)
    length = data.max_length
    result = evaluate_model(
        classifier, tokenizer, task_data, f"{model}", max_length=length, batch_size=batch_size, device=where
    )
    if not quiet:
        console = terminal(console)
        console.print(result.to_rich())
        for line in [*result.cut(), *result.notes]:
            console.print(line, highlight=False, markup=False)
    return result


def evaluate_model(
    model: Classifier,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    name: str = "the model",
    *,
    max_length: int | None = None,
    **settings: Any,
) -> EvaluationResult:
    """Measures a model that is already loaded.

    Args:
        model: a classifier, or an exported one.
        tokenizer: its tokenizer.
        data: every validation split is measured.
        name: the model's, for messages and the table.
        max_length: texts are cut at as many tokens; None: at what the model has positions for.
        settings: `batch_size`, `device` (None leaves the model where it is) and `autocast`, as for `predict_logits`.
    """
    kind = kind_named(data.task.kind)
    permutation = kind.match(data.task.labels, model.config, name)
    result = EvaluationResult(name, data.task, {}, {}, {}, {}, notes=list(data.notes))
    for split, dataset in data.validation.items():
        encoded = encode_split(dataset, tokenizer, max_length, config=model.config)
        with progress_bar(split, len(dataset)) as progress:
            logits = predict_logits(model, encoded.dataset, tokenizer, progress=progress, **settings)
        logits, labels = logits[:, list(permutation)], np.asarray(dataset["label"])
        result.metrics[split] = compute_metrics(kind, data.task.metrics, logits, labels)
        result.logits[split], result.labels[split] = logits, labels
        result.truncated[split], result.max_length = encoded.truncated, encoded.max_length
    return result
