"""Table 3: layers, parameters, milliseconds per sequence and speed-up of several models, measured in turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from codir.config.config import DataConfig
from codir.errors import ConfigError
from codir.kinds import kind_named
from codir.measure.timing import Text, measure, texts_of
from codir.models.check import load_tokenizer_for
from codir.models.loading import count_parameters, encoder_shape, load_classifier
from codir.models.student import build_student
from codir.record.data import load_data
from codir.studies.paper.tables import OURS, PAPER
from codir.table import Column, Table, Value

if TYPE_CHECKING:
    from codir.studies.paper.plan import Reproduction

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def speed_table(made: Reproduction) -> Table:
    """Builds the models, measures them on the same texts, and puts the paper's figures beside.

    The first row is what the others' speed-up is against, as in the paper. What it was measured on goes into the notes.

    Raises:
        ModelError: the user's model cannot be loaded.
        ConfigError: a configuration of the table is of a kind that this transformers does not know.
    """
    speed = made.table.speed
    assert speed is not None
    texts, models = _texts(made), _models(made)
    timings = measure(
        models,
        texts,
        batch_size=speed.batch_size,
        max_length=speed.max_length,
        rounds=speed.rounds,
        device="cuda" if torch.cuda.is_available() else "cpu",
        pad_to_max_length=True,
    )
    first = next(iter(timings.values()))
    rows: list[tuple[Value, ...]] = []
    for row in made.table.rows:
        if row.paper:
            layers, parameters, embeddings, milliseconds, times = row.paper
            sizes = (int(layers or 0), f"{parameters:.1f}M", f"{embeddings:.1f}M")
            rows.append((row.name, PAPER, *sizes, f"{milliseconds:.2f}", f"{times:.2f}x"))
        if row.name in models:
            model, timing = models[row.name][0], timings[row.name]
            total, of_embeddings = count_parameters(model)
            sizes = (encoder_shape(model).layers, f"{total / 1e6:.1f}M", f"{of_embeddings / 1e6:.1f}M")
            # the mean of the runs, as in the paper
            mean = statistics.mean(timing.rounds)
            times = f"{statistics.mean(first.rounds) / mean:.2f}x"
            rows.append(
                ("" if row.paper else row.name, OURS, *sizes, f"{mean:.2f} ±{timing.spread:.2f}", times)
            )
    headings = ("layers", "params", "of embeddings", "ms/seq", "speed-up")
    columns = (Column("model", left=True), Column("of", left=True), *map(Column, headings))
    note = (
        f"Paper: {made.table.paper_scores}. Ours: mean of {speed.rounds} runs over {len(texts):,} sequences, ± half "
        f"the distance between the slowest and the fastest; speed-up against {next(iter(models))}. {made.table.note}"
    )
    made.notes.append(
        f"Measured on {first.device}, {first.dtype}, {first.threads} thread{'s' if first.threads != 1 else ''}, "
        f"batches of {first.batch_size} sequences of {first.max_length} tokens"
    )
    return Table(f"{made.table.source} of the paper: {made.table.title}", columns, rows, note)


def _texts(made: Reproduction) -> list[Text]:
    speed = made.table.speed
    assert speed is not None
    limit = made.scale.sequences
    config = DataConfig(task=speed.task, data_dir=made.wanted.data_dir, limit_validation=limit)
    data = load_data(config, train=False)
    return texts_of(data.validation[data.main_split])


def _models(made: Reproduction) -> dict[str, Loaded]:
    """Returns the models by the name of their row."""
    speed = made.table.speed
    assert speed is not None
    names = list(map(str, range(speed.classes)))
    teacher = load_classifier(
        made.wanted.model,
        require_head=False,
        labels=lambda config: kind_named("classification").write(config, names),
    )
    tokenizer = load_tokenizer_for(teacher, made.wanted.model)
    models: dict[str, Loaded] = {}
    for row in made.table.rows:
        if row.config is not None:
            model = _of_config(row.config, speed.classes)
            models[row.name] = (model, cast(Any, _Folded(tokenizer, model.config.vocab_size)))
        elif row.given is not None:
            models[row.name] = (teacher if row.given == "teacher" else build_student(teacher), tokenizer)
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
