"""A run's card written anew from what the run folder holds: for folders of older versions, or a card that was lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codir.config.yaml_text import read_yaml_file
from codir.data import BUILT_IN
from codir.data.glue import HUB, glue_task
from codir.data.grammar import TASK
from codir.data.task import Task
from codir.errors import CodirError, ConfigError, RunError
from codir.manifest import read_whole
from codir.models.loading import class_names, load_config
from codir.runs.card import UNLABELLED, CardInfo, model_card
from codir.runs.comparison import Comparison
from codir.runs.lineage import started_from
from codir.runs.masked_scores import MaskedTable
from codir.runs.prepare import main_role
from codir.runs.pretrain_card import PretrainingInfo, masked_model_card
from codir.runs.runfolder import RunFolder


def card_again(folder: Path) -> str:
    """Returns the card of a finished run.

    What only the training knew (how many rows of the data were left out, for instance) is not in it.

    Raises:
        ConfigError: `codir.yaml` is damaged.
        RunError: `metrics.json` or `environment.json` is, or does not hold what a run of this command writes.
    """
    run = RunFolder(folder)
    settings, _ = read_yaml_file(run.config)
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{run.config} is damaged: it holds no settings. Copy the run folder again.")
    content, made_by = read_whole(run.metrics), read_whole(run.environment)
    text = run.config.read_text(encoding="utf-8-sig")
    try:
        if settings.get("command") == "pretrain":
            return masked_model_card(_pretraining(folder, settings, text, made_by, content))
        return model_card(_classifier(folder, settings, text, made_by, content))
    except (CodirError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RunError(
            f"{run.metrics} is damaged, or was written by a version of codir that this one cannot read "
            f"({error or type(error).__name__}). Copy the run folder again, or write its README.md by hand."
        ) from error


def _classifier(
    folder: Path, settings: Mapping[str, Any], text: str, made_by: Any, content: Mapping[str, Any]
) -> CardInfo:
    comparison = Comparison.from_json(content["comparison"]) if "comparison" in content else None
    if comparison is None:
        metrics = dict(content["metrics"])
    else:
        objectives = settings.get("objectives") or {}
        row = comparison.row(main_role({name: term for name, term in objectives.items() if term is not None}))
        metrics = row.metrics if row is not None else comparison.rows[-1].metrics
    config = load_config(folder)
    data = settings.get("data") or {}
    task = _task(data, content, metrics, config)
    distilled = comparison is not None
    unlabeled = content.get("unlabeled")
    return CardInfo(
        name=folder.absolute().name,
        task=task,
        source=_source(data, task),
        metrics={name: float("nan") if value is None else value for name, value in metrics.items()},
        config_yaml=text,
        environment=made_by,
        examples={
            "training": content["train_examples"],
            **content["validation_examples"],
            **({UNLABELLED: unlabeled["examples"]} if unlabeled else {}),
        },
        recipe=str(settings.get("recipe")) if distilled else None,
        base_model=settings.get("teacher" if distilled else "model"),
        started_from=started_from(settings) or "",
        comparison=comparison,
        max_length=data.get("max_length"),
        needs_codir=config.model_type.startswith("codir-"),
        notes=[f"the unlabelled texts are from {', '.join(unlabeled['files'])}"] if unlabeled else [],
    )


def _task(
    data: Mapping[str, Any], content: Mapping[str, Any], metrics: Mapping[str, Any], config: Any
) -> Task:
    name = str(data.get("task") or content["task"])
    known = TASK if name.lower() == BUILT_IN else glue_task(name) if data.get("task") else None
    if known is not None:
        return known
    regression = config.problem_type == "regression"
    text = (data.get("text") or "text", data.get("text_pair"))
    return Task(
        name=str(content["task"]),
        kind="regression" if regression else "classification",
        text=tuple(str(column) for column in text if column),
        label=str(data.get("label") or "label"),
        labels=None if regression else tuple(class_names(config).values()),
        metrics=tuple(metric for metric in metrics if "/" not in metric),
        main_metric=str(content["main_metric"]),
    )


def _source(data: Mapping[str, Any], task: Task) -> str:
    if data.get("data_dir"):
        return str(data["data_dir"])
    if glue_task(task.name) == task:
        return f"{HUB}/{task.name}"
    return ", ".join(str(data[key]) for key in ("train", "validation") if data.get(key)) or task.name


def _pretraining(
    folder: Path, settings: Mapping[str, Any], text: str, made_by: Any, content: Mapping[str, Any]
) -> PretrainingInfo:
    corpus = content["corpus"]
    return PretrainingInfo(
        name=folder.absolute().name,
        table=MaskedTable.from_json(content["scores"]),
        settings=settings,
        config_yaml=text,
        environment=made_by,
        corpus=Path(corpus["path"]).name,
        corpus_key=str(corpus["key"]),
        blocks=int(corpus["blocks"]),
        block=int(content["tokens_per_step"]) // int(settings["training"]["batch_size"]),
    )
