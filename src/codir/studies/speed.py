"""Table 3: blocks, parameters, milliseconds per sequence and speed-up of several models, measured in turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from codir.config.data_config import DataConfig
from codir.errors import ConfigError
from codir.kinds import kind_named
from codir.models.check import load_tokenizer_for
from codir.models.loading import count_parameters, encoder_shape, load_classifier
from codir.models.student import build_student
from codir.runs.data import load_data
from codir.runs.timing import Text, Timing, measure, texts_of
from codir.studies.reproduction import Reproduction
from codir.studies.side_by_side import OURS, PAPER
from codir.table import Column, Value
from codir.table import Table as StudyTable

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def speed_table(made: Reproduction, device: str | torch.device | None = None) -> tuple[StudyTable, list[str]]:
    """Builds the models, measures them on the same texts, and puts the paper's figures beside.

    The first row is what the others' speed-up is against, as in the paper.

    Args:
        made: the reproduction of a table of speed.
        device: where to measure; a GPU if there is one.

    Returns:
        The table, and what to know of the measurement.

    Raises:
        ModelError: the user's model cannot be loaded.
        ConfigError: a configuration of the table is of a kind that this transformers does not know.
    """
    speed = made.table.speed
    assert speed is not None
    texts = _texts(made)
    models = _models(made)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    timings = measure(
        models,
        texts,
        batch_size=speed.batch_size,
        max_length=speed.max_length,
        rounds=speed.rounds,
        device=device,
        pad_to_max_length=True,
    )
    first = next(iter(timings.values()))
    rows: list[tuple[Value, ...]] = []
    for row in made.table.rows:
        if row.paper:
            blocks, parameters, embeddings, milliseconds, times = row.paper
            rows.append(
                (
                    *(row.name, PAPER, int(blocks or 0), f"{parameters:.1f}M", f"{embeddings:.1f}M"),
                    *(f"{milliseconds:.2f}", f"{times:.2f}x"),
                )
            )
        if row.name in models:
            rows.append(
                (
                    "" if row.paper else row.name,
                    OURS,
                    *_measured(models[row.name][0], timings[row.name], first),
                )
            )
    columns = (
        *(Column("model", left=True), Column("of", left=True), Column("blocks"), Column("params")),
        *(Column("of embeddings"), Column("ms/seq"), Column("speed-up")),
    )
    title = f"{made.table.source} of the paper, scale {made.wanted.scale}: {made.table.title}"
    note = (
        f"Paper: {made.table.paper_scores}. Ours: mean of {speed.rounds} runs over {len(texts):,} sequences, ± half "
        f"the distance between the slowest and the fastest; speed-up against {next(iter(models))}. {made.table.note}"
    )
    return StudyTable(title, columns, tuple(rows), note), [_where(next(iter(timings.values())))]


def _measured(model: PreTrainedModel, timing: Timing, first: Timing) -> tuple[Value, ...]:
    """Returns sizes, the mean time of the runs, as the paper has it, and how often it goes into the first model's."""
    total, embeddings = count_parameters(model)
    return (
        encoder_shape(model).blocks,
        f"{total / 1e6:.1f}M",
        f"{embeddings / 1e6:.1f}M",
        f"{statistics.mean(timing.rounds):.2f} ±{timing.spread:.2f}",
        f"{statistics.mean(first.rounds) / statistics.mean(timing.rounds):.2f}x",
    )


def _where(timing: Timing) -> str:
    return (
        f"Measured on {timing.device}, {timing.dtype}, {timing.threads} thread{'s' if timing.threads != 1 else ''}, "
        f"batches of {timing.batch_size} sequences of {timing.max_length} tokens."
    )


def _texts(made: Reproduction) -> list[Text]:
    speed = made.table.speed
    assert speed is not None
    data = load_data(
        DataConfig(task=speed.task, data_dir=made.wanted.data_dir, limit_validation=made.scale.sequences),
        train=False,
    )
    return texts_of(data.validation[data.main_split])


def _models(made: Reproduction) -> dict[str, Loaded]:
    """Returns the models by the name of their row."""
    speed = made.table.speed
    assert speed is not None
    teacher = load_classifier(
        made.wanted.model,
        require_head=False,
        labels=lambda config: kind_named("classification").write(
            config, list(map(str, range(speed.classes)))
        ),
    )
    tokenizer = load_tokenizer_for(teacher, made.wanted.model)
    models: dict[str, Loaded] = {}
    for row in made.table.rows:
        if row.config is not None:
            model = _of_config(row.config, speed.classes)
            models[row.name] = (model, cast(Any, _Folded(tokenizer, model.config.vocab_size)))
        elif row.given == "teacher":
            models[row.name] = (teacher, tokenizer)
        elif row.given == "student":
            models[row.name] = (build_student(teacher), tokenizer)
    return models


def _of_config(settings: Mapping[str, Any], classes: int) -> PreTrainedModel:
    values = dict(settings)
    kind = str(values.pop("model_type"))
    try:
        config = AutoConfig.for_model(kind, **values, num_labels=classes)
    except ValueError as error:
        raise ConfigError(f"This transformers knows no models of the kind {kind!r}.") from error
    return AutoModelForSequenceClassification.from_config(config).eval()


class _Folded:
    """A tokenizer for models of random weights: the ids of another one's tokens, folded into their vocabulary.

    Which tokens they are changes no time. Segments are left out: RoBERTa has one, DistilBERT takes none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: int):
        self._tokenizer, self._words = tokenizer, words
        self.model_max_length = tokenizer.model_max_length

    def __call__(self, *texts: Any, **options: Any) -> dict[str, torch.Tensor]:
        encoded = self._tokenizer(*texts, **options)
        return {
            "input_ids": encoded["input_ids"] % self._words,  # type: ignore[operator]
            "attention_mask": cast(torch.Tensor, encoded["attention_mask"]),
        }
