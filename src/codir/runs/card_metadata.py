"""The card's front matter, in the Hub's own format: written and checked with the Hub's own classes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from codir.data.glue import HUB, glue_task
from codir.engines.folder import Manifest
from codir.errors import RunError
from codir.runs.lineage import hub_ancestor

# The Hub's names of our metrics; those it does not know keep ours, and are left out of its filter.
HUB_METRICS = {
    "accuracy": "accuracy",
    "f1": "f1",
    "macro_f1": "f1",
    "matthews": "matthews_correlation",
    "mse": "mse",
    "pearson": "pearsonr",
    "perplexity": "perplexity",
    "spearman": "spearmanr",
}
# What the Hub knows a model to be of another one. A distilled student whose weights come from its teacher's blocks is
# a fine-tune of them in this sense; one that starts with random weights has no base model, only a teacher.
RELATIONS = ("finetune", "quantized", "adapter", "merge")
_TASKS = {"text-classification": "Text Classification", "fill-mask": "Fill-Mask"}
_LIBRARIES = {"onnx": "onnx", "openvino": "openvino"}
_LISTS = ("tags", "datasets", "metrics")


def metadata(
    name: str,
    *,
    pipeline_tag: str,
    tags: Sequence[str] = (),
    library_name: str = "transformers",
    base_model: str | None = None,
    relation: str = "finetune",
    datasets: Sequence[str] = (),
    results: Sequence[EvalResult] = (),
    license: str | None = None,
    language: Sequence[str] = (),
) -> dict[str, Any]:
    """Returns the front matter; what is not known is left out.

    Args:
        name: of the model, for the results.
        pipeline_tag: the Hub's name of the task, `text-classification` or `fill-mask`.
        tags: `codir` comes first.
        library_name: what loads the model.
        base_model: id on the Hub of the model whose weights this one started from.
        relation: what it is of that model, one of `RELATIONS`.
        datasets: ids on the Hub.
        results: from `result`.
        license: the Hub's identifier.
        language: ISO 639 codes.
    """
    metrics = [result.metric_type for result in results if result.metric_type in HUB_METRICS.values()]
    data = ModelCardData(
        language=list(language) or None,
        license=license,
        library_name=library_name,
        pipeline_tag=pipeline_tag,
        tags=["codir", *tags],
        base_model=base_model,
        base_model_relation=relation if base_model else None,
        datasets=list(datasets) or None,
        metrics=list(dict.fromkeys(metrics)) or None,
        model_name=name,
        eval_results=list(results) or None,
    )
    values = data.to_dict()
    values.pop("model_name", None)  # only there without results
    first = (
        "language",
        "license",
        "library_name",
        "pipeline_tag",
        "tags",
        "base_model",
        "base_model_relation",
    )
    return {
        key: values[key] for key in (*first, *(key for key in values if key not in first)) if key in values
    }


def result(
    metric: str,
    value: float,
    *,
    task: str,
    dataset: str,
    dataset_id: str | None = None,
    config: str | None = None,
    split: str | None = None,
) -> EvalResult:
    """Returns one measured value as the Hub describes it.

    Args:
        metric: our name of it.
        value: the value.
        task: the Hub's name of the task, such as `text-classification`.
        dataset: for people.
        dataset_id: on the Hub; without one the name stands for it.
        config: of the data set.
        split: of the data set.
    """
    return EvalResult(
        task_type=task,
        task_name=_TASKS.get(task, task),
        dataset_type=dataset_id or re.sub(r"[^\w.-]+", "-", dataset).strip("-") or "data",
        dataset_name=dataset,
        dataset_config=config,
        dataset_split=split,
        metric_type=HUB_METRICS.get(metric, metric),
        metric_name=metric,
        metric_value=round(value, 4),
    )


def exported_metadata(name: str, manifest: Manifest, near: Path | None = None) -> dict[str, Any]:
    """Returns the front matter of an exported model; what is not known (language, licence) is left out.

    The Hub calls a model in another number format, and in practice in another file format, `quantized`. That it is of
    the model it was made from; where that is a folder here, the model that one was fine-tuned from is named.

    Args:
        name: of the exported folder.
        manifest: its manifest.
        near: a folder beside which the source is looked for, too.
    """
    base = hub_ancestor(manifest.source, near)
    # a file called mrpc.csv gives a task of that name, too
    task = glue_task(manifest.task) if manifest.task and "--task" in manifest.command else None
    results = []
    for split, scores in (manifest.metrics_after or {}).items():
        for metric, value in scores.items():
            if isinstance(value, int | float) and math.isfinite(value):
                results.append(
                    result(
                        metric,
                        value,
                        task="text-classification",
                        dataset=f"GLUE {task.name.upper()}" if task else manifest.task or "data",
                        dataset_id=HUB if task else None,
                        config=task.name if task else None,
                        split=split,
                    )
                )
    return metadata(
        name,
        pipeline_tag="text-classification",
        library_name=_LIBRARIES.get(manifest.format, "transformers"),
        tags=list(dict.fromkeys([manifest.format, manifest.precision])),
        base_model=base,
        relation="quantized" if base == manifest.source else "finetune",
        datasets=[HUB] if task else [],
        results=results,
    )


def front_matter_text(values: Mapping[str, Any]) -> str:
    """Returns the block that opens a card, with its two lines of dashes and no line break at the end."""
    return f"---\n{yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)}---"


def split_card(text: str, place: str) -> tuple[dict[str, Any], str]:
    """Returns a card's front matter (empty if it has none) and what follows.

    Raises:
        RunError: the front matter is no YAML mapping; names the line.
    """
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    match = REGEX_YAML_BLOCK.search(text)  # what the Hub takes for front matter
    if match is None:
        return {}, text
    try:
        values = yaml.safe_load(match[2])
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 2}" if mark is not None else ""
        raise RunError(
            f"{place}{line}: the front matter (between the lines of dashes) is no YAML: "
            f"{getattr(error, 'problem', None) or error}. Mend it, or --regenerate writes the card anew."
        ) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise RunError(
            f"{place}: the front matter (between the lines of dashes) is {values!r}, not `key: value` lines. Mend it, "
            "or --regenerate writes the card anew."
        )
    return values, text[match.end() :].lstrip("\n")


def check_metadata(values: Mapping[str, Any], place: str) -> None:
    """Checks a front matter as far as that goes without the Hub.

    Raises:
        RunError: names the key, its value and what is expected.
    """

    def refuse(key: str, expected: str) -> None:
        raise RunError(f"{place}: `{key}: {values[key]!r}` in the front matter: expected {expected}.")

    for key in _LISTS:
        if values.get(key) is not None and not _strings(values[key]):
            refuse(key, "a list of words")
    for key in ("license", "library_name", "pipeline_tag"):
        if values.get(key) is not None and not isinstance(values[key], str):
            refuse(key, "one word")
    for key in ("language", "base_model"):
        if values.get(key) is not None and not isinstance(values[key], str) and not _strings(values[key]):
            # YAML reads a bare `no` (Norwegian) as false
            refuse(
                key,
                "a word or a list of words" + ("; put no (Norwegian) in quotes" if key == "language" else ""),
            )
    if values.get("base_model_relation") not in (None, *RELATIONS):
        refuse("base_model_relation", f"one of {', '.join(RELATIONS)}")
    try:
        data = ModelCardData(**{str(key): value for key, value in values.items()})
        json_safe = data.to_dict()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(
            f"{place}: the results (`model-index`) in the front matter are not in the Hub's format: {error}. "
            "--regenerate writes the card anew."
        ) from error
    if "model-index" in values and not json_safe.get("model-index"):
        refuse("model-index", "a list with one model and its results")


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
