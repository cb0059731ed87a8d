"""From a pre-trained encoder and a task to a fine-tuned classifier: the teacher."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import set_seed

from codir.config.config import FinetuneConfig
from codir.config.loading import load
from codir.data.encoding import encode
from codir.files import write_json, write_text
from codir.kinds import kind_named
from codir.kinds.metrics import compute_metrics, flat_metrics
from codir.models.check import load_tokenizer_for
from codir.models.inference import predict_logits
from codir.models.loading import load_classifier
from codir.printing import Console, terminal
from codir.record.card import run_card
from codir.record.data import load_data
from codir.record.fingerprint import begin, data_parts, model_part, opened, require_same, with_tokens
from codir.record.runfolder import RunFolder
from codir.runs.arguments import to_arguments
from codir.runs.train import Cost, TrainingData, train_into
from codir.training.processes import one_process_only

MODEL = "model to fine-tune"


@dataclass
class FinetuneResult:
    """What a fine-tuning gave."""

    output: Path  # the run folder, which is the model
    metrics: dict[str, float]  # on every validation split; those of further splits as `SPLIT/METRIC`
    cost: Cost  # what it took


def finetune(
    config: FinetuneConfig | None = None, *, console: Console | None = None, **settings: Any
) -> FinetuneResult:
    """Fine-tunes an encoder on a task.

    Args:
        config: The whole configuration; or give its sections as keywords:
            `finetune(model="roberta-base", data={"task": "sst2"}, output="runs/teacher")`.
        console: Where to print; the terminal by default.
        settings: `model`, `data`, `training`, `output`, `resume`.

    Raises:
        CodirError: bad input, a run in the way, an interrupted or diverged training.
    """
    if config is None:
        config = load(FinetuneConfig, flags={key: (key, value) for key, value in settings.items()})
    one_process_only("codir finetune")
    # refuses what is wrong before data and model are read
    to_arguments(config.training, config.output, "score")
    console = terminal(console)

    def parts() -> dict[str, Any]:
        return {MODEL: model_part(config.model)} | data_parts(load_data(config.data))

    with opened(config, parts, console) as run:
        if run.finished:
            result = run.results(lambda each: FinetuneResult(run.path, each["metrics"], Cost(**each["cost"])))
        else:
            result = _finetune(config, run, console)
    scores = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
    console.print(
        f"Fine-tuned on {config.data.task or config.data.train}: {scores}. The model is in {result.output}.",
        highlight=False,
    )
    return result


def _finetune(config: FinetuneConfig, run: RunFolder, console: Console) -> FinetuneResult:
    data = load_data(config.data)
    task, kind = data.task, kind_named(data.task.kind)
    assert data.train is not None, "load_data gives a training split unless asked not to"
    for note in data.notes:
        console.print(note, highlight=False)
    begun = data_parts(data)
    require_same(run, begun | {MODEL: model_part(config.model)})
    set_seed(config.training.seed)  # the classifier's fresh weights
    model = load_classifier(config.model, require_head=False, labels=lambda config: kind.write(config, task.labels))
    tokenizer = load_tokenizer_for(model, config.model)
    train = encode(data.train, tokenizer, config.data.max_length, config=model.config)
    validation = {
        name: encode(split, tokenizer, config.data.max_length, config=model.config)
        for name, split in data.validation.items()
    }
    # the model once more: one of the Hub is in the cache, and so has digests, only since it was loaded
    begin(run, config, with_tokens(begun | {MODEL: model_part(config.model)}, train))
    encoded = TrainingData(task, train, validation[data.main_split], tokenizer)
    model, cost = train_into(run, model, {"task": {}}, config.training, encoded, console, "teacher")
    scores = {
        name: compute_metrics(kind, task.metrics, predict_logits(model, split, tokenizer), np.asarray(split["labels"]))
        for name, split in validation.items()
    }
    metrics = flat_metrics(scores)
    content = {
        "task": task.name,
        "main_metric": task.main_metric,
        "seed": config.training.seed,
        "metrics": metrics,
        "cost": asdict(cost),
        "train_examples": len(train),
        "validation_examples": {name: len(split) for name, split in validation.items()},
        "notes": data.notes,
    }
    write_json(run.metrics, content)
    write_text(run.card, run_card(run.path))
    return FinetuneResult(run.path, metrics, cost)
