"""From a training's log to curves: loss terms, the contrast's accuracy, cosines and temperature, agreement, score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codir.reports.contents import Curve


def curves_of(log: Sequence[Mapping[str, Any]], model: str, metric: str | None) -> list[Curve]:
    """Returns the curves of one student; those without a finite value are left out.

    Args:
        log: entries of its `log.jsonl`.
        model: what the student is called.
        metric: the main metric, drawn at the evaluations; None if unknown.
    """
    terms = sorted({key for entry in log for key in entry if key.startswith("loss_")})
    found = [_curve(log, "loss", "all terms, weighted", model, "loss")] if len(terms) > 1 else []
    found += [_curve(log, key, f"{_tidy(key.removeprefix('loss_'))} loss", model, "loss") for key in terms]
    found.append(_curve(log, "eval_loss", "validation loss", model, "loss"))
    for key in terms:
        name = key.removeprefix("loss_")
        found.append(_curve(log, f"{name}_accuracy", f"{_tidy(name)} accuracy", model, "accuracy"))
        for part in ("positive", "negative"):
            found.append(_curve(log, f"{name}_{part}", f"{_tidy(name)} {part}s", model, "cosine"))
        found.append(_curve(log, f"{name}_temperature", _tidy(name), model, "temperature"))
        found.append(_curve(log, f"{name}_agreement", "on training batches", model, "agreement"))
    found.append(_curve(log, "eval_agreement", "on validation data", model, "agreement"))
    if metric is not None:
        found.append(_curve(log, f"eval_{metric}", _tidy(metric), model, "score"))
    return [curve for curve in found if len(curve.steps)]


def _curve(log: Iterable[Mapping[str, Any]], key: str, name: str, model: str, kind: str) -> Curve:
    pairs = [
        (int(entry["step"]), float(entry[key]))
        for entry in log
        if _number(entry.get(key)) and _number(entry.get("step"))
    ]
    return Curve(name, model, kind, [step for step, _ in pairs], [value for _, value in pairs])


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _tidy(name: str) -> str:
    return name.replace("_", " ")
