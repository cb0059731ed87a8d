"""The model card (`README.md`) of a run: `card.md` filled with what the run's folder says, and with nothing else.

So it can be written after the training, and again before the folder is published.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from codir.config.library import load_recipe
from codir.config.yaml_text import dump_yaml, read_yaml_file
from codir.data.glue import HUB, glue_task
from codir.errors import CodirError, ConfigError, RunError
from codir.files import read_json
from codir.kinds import kind_of
from codir.measure.comparison import Comparison, main_role
from codir.measure.masked_scores import MaskedTable
from codir.models.classes import class_names
from codir.models.loading import load_config
from codir.record.environment import short_paths
from codir.record.runfolder import RunFolder
from codir.table import code, fence, inline

TASKS = {"text-classification": "Text Classification", "fill-mask": "Fill-Mask"}
# The Hub's names of those of our metrics that it knows.
_METRICS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "macro_f1": "f1",
    "matthews": "matthews_correlation",
    "mse": "mse",
    "pearson": "pearsonr",
    "perplexity": "perplexity",
    "spearman": "spearmanr",
}

_LONGEST = 12  # a chain of runs this long is a circle
# Where people keep models on their own disk: `runs/teacher` is no id although it looks like one.
_FOLDERS = ("checkpoints", "deploy", "exp", "experiments", "model", "models", "out", "output", "outputs")
_FOLDERS += ("results", "runs")
_PART = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"


def run_card(folder: str | Path) -> str:
    """Returns the card of a run whose results are written: front matter for the Hub, then Markdown.

    Raises:
        ConfigError: `codir.yaml` is damaged.
        RunError: `metrics.json` or `environment.json` is, or does not hold what a run of this command writes.
    """
    files = RunFolder(folder)
    settings, _ = read_yaml_file(files.config)
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{files.config} is damaged: it holds no settings. Copy the run folder again.")
    results, made_by = read_json(files.metrics), read_json(files.environment)
    config = load_config(folder)
    try:
        base = hub_ancestor(started_from(settings))  # needs the paths as they are
        cut: dict[str, str] = {}
        settings, results, made_by = (short_paths(each, cut) for each in (settings, results, made_by))
        masked = settings.get("command") == "pretrain"
        values = _masked_lm(results) if masked else _classifier(settings, results, config)
        recipe, source = settings.get("recipe"), None
        with contextlib.suppress(CodirError):  # a recipe of the user's own
            source = load_recipe(recipe).source if recipe else None
        data = card_data(
            name := Path(folder).absolute().name,
            values.pop("scores"),
            pipeline_tag="fill-mask" if masked else "text-classification",
            tags=["codir", *(["knowledge-distillation"] if settings.get("teacher") else [])],
            base_model=base,
            # the Hub knows no distillation: a student made of its teacher's layers is a fine-tune of it in its sense
            base_model_relation="finetune" if base else None,
            datasets=[HUB] if values.pop("glue", False) else None,
        )
        return fill_template(
            Path(__file__).with_name("card.md"),
            data,
            name=name,
            settings=settings,
            made_by=made_by,
            config_yaml=dump_yaml(settings).rstrip(),
            contrastive=bool(_objectives(settings).keys() & {"crd", "crd_official"}),
            recipe_source=source,
            own_code=config.model_type.startswith("codir-"),  # which transformers alone does not know
            **values,
        )
    except (CodirError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RunError(
            f"{files.metrics} is damaged, or was written by a version of codir that this one cannot read "
            f"({error or type(error).__name__}). Copy the run folder again, or write its README.md by hand."
        ) from error


def fill_template(template: Path, data: ModelCardData, **values: Any) -> str:
    """Returns a card: a template, in which names and classes are to be text, and a front matter."""
    words = {"inline": inline, "code": code, "fence": fence, "python": repr}
    return str(ModelCard.from_template(data, str(template), **words, **values)).rstrip() + "\n"


def card_data(
    name: str, scores: Sequence[EvalResult], library_name: str = "transformers", **more: Any
) -> ModelCardData:
    """Returns a card's front matter; what is None is left out (licence and language are not known here)."""
    metrics = [each.metric_type for each in scores if each.metric_type in _METRICS.values()]
    if scores:
        more |= {
            "model_name": name,
            "eval_results": list(scores),
            "metrics": list(dict.fromkeys(metrics)) or None,
        }
    return ModelCardData(library_name=library_name, **more)


def eval_results(
    scores: Mapping[str, float | None],
    split: str,
    data: str,
    glue: bool = False,
    task: str = "text-classification",
) -> list[EvalResult]:
    """Returns the measured values that are finite, in the Hub's words; `SPLIT/METRIC` is one of another split.

    Args:
        scores: The values by metric.
        split: The split they were measured on.
        data: The name of the data; a task of GLUE's if `glue` is set.
        glue: Whether the data are GLUE's.
        task: The Hub's name of the task.
    """
    found = [(*name.rpartition("/"), value) for name, value in scores.items()]
    return [
        EvalResult(
            task_type=task,
            task_name=TASKS[task],
            dataset_type=HUB if glue else re.sub(r"[^\w.-]+", "-", data).strip("-") or "data",
            dataset_name=f"GLUE {data.upper()}" if glue else data,
            dataset_config=data if glue else None,
            dataset_split=own or split,
            metric_type=_METRICS.get(metric, metric),
            metric_name=metric,
            metric_value=round(value, 4),
        )
        for own, _, metric, value in found
        if value is not None and math.isfinite(value)
    ]


def _classifier(settings: Mapping[str, Any], results: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Returns what the template says of a classifier."""
    data = settings.get("data") or {}
    comparison = Comparison.from_json(results["comparison"]) if "comparison" in results else None
    metrics = results.get("metrics") or {}
    if comparison is not None:
        metrics = (comparison.row(main_role(_objectives(settings))) or comparison.rows[-1]).metrics
    task = glue_task(data["task"]) if data.get("task") else None
    name = task.name if task is not None else str(results["task"])
    source = ", ".join(data[key] for key in ("train", "validation") if data.get(key)) or name
    if task is not None:
        source = f"GLUE ({HUB}/{name} on the Hub)"
    validation, unlabeled = results["validation_examples"], results.get("unlabeled")
    splits, notes = {"training": results["train_examples"], **validation}, [*results.get("notes", ())]
    if unlabeled:
        splits["unlabelled texts, which the teacher labelled"] = unlabeled["examples"]
        notes.append(f"the unlabelled texts are from {', '.join(unlabeled['files'])}")
    return {
        "masked": False,
        "scores": eval_results(metrics, next(iter(validation)), name, task is not None),
        "metrics": {key: math.nan if value is None else value for key, value in metrics.items()},
        "table": comparison,
        "timing": next((row.timing for row in comparison.rows if row.timing), None) if comparison else None,
        "seeds": comparison.seeds if comparison is not None else 1,
        "task": name,
        "glue": task is not None,
        "kind": kind_of(config).name,
        "labels": list(class_names(config).values()) if config.num_labels > 1 else [],
        "pairs": task.pairs if task is not None else bool(data.get("text_pair")),
        "source": source + (f", read from {data['data_dir']}" if data.get("data_dir") else ""),
        "splits": splits,
        "notes": notes,
    }


def _masked_lm(results: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the template says of a pre-trained student."""
    table = MaskedTable.from_json(results["scores"])
    corpus = {**results["corpus"], "name": Path(results["corpus"]["path"]).name}
    student = next((row for row in table.rows if row.name == "student"), None)
    scored = student is not None and table.head_trained
    scores = {"perplexity": student.perplexity, "accuracy": student.accuracy} if student and scored else {}
    scores = eval_results(scores, "validation", corpus["name"], task="fill-mask")
    return {"masked": True, "scores": scores, "table": table, "corpus": corpus}


def _objectives(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: term for name, term in (settings.get("objectives") or {}).items() if term is not None}


# ---- where the weights come from -------------------------------------------------------------------------------------


def hub_ancestor(model: str | None, near: Path | None = None) -> str | None:
    """Returns the id on the Hub of the model that `model` was made from, or its own if it is one.

    A run folder says in its `codir.yaml` what it started from, so that a student of a local teacher is traced to
    the pre-trained model both come from. None where the chain ends in a folder that says nothing, or in random weights.

    Args:
        model: A folder or an id, as the user named it.
        near: A folder beside which relative paths are looked for, too.
    """
    for _ in range(_LONGEST):
        if model is None:
            return None
        path = Path(model).expanduser()
        above = [] if near is None or path.is_absolute() else [near, *near.parents]
        folder = next((place for place in [path, *(up / path for up in above)] if place.is_dir()), None)
        if folder is None:
            local = "/" in model and model.split("/")[0].lower() in _FOLDERS
            return model if re.fullmatch(rf"{_PART}(?:/{_PART})?", model) and not local else None
        near = folder.absolute().parent
        try:
            settings, _ = read_yaml_file(folder / "codir.yaml")
            model = started_from(settings)
        except (CodirError, AttributeError):
            return None
    return None


def started_from(settings: Mapping[str, Any]) -> str | None:
    """Returns the model whose weights a run started from, by its `codir.yaml`; None for random weights."""
    student = settings.get("student") or {}
    if settings.get("command") == "finetune":
        name = settings.get("model")
    elif source := student.get("model") or student.get("origin"):
        name = source
    else:
        name = None if student.get("config") or student.get("init") == "random" else settings.get("teacher")
    return name if isinstance(name, str) and name else None
