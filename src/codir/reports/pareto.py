"""Which models can be compared in score and time, and which of them no other beats in both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from codir.reports.contents import Panel, ReportedModel
from codir.reports.numbers import known


def measured_models(panel: Panel) -> dict[str, list[ReportedModel]]:
    """Returns the models that have a score and a time, by the conditions they were measured in, most models first."""
    found = [m for m in panel.models if known(m.score) and known(m.milliseconds) and m.milliseconds > 0]
    order = Counter(model.measured for model in found)
    return {
        measured: [model for model in found if model.measured == measured]
        for measured, _ in order.most_common()
    }


def pareto(models: Sequence[ReportedModel]) -> list[ReportedModel]:
    """Returns the models that no other equals in speed and score and beats in one of them, fastest first."""
    front: list[ReportedModel] = []
    for model in sorted(models, key=lambda m: (m.milliseconds or 0.0, -(m.score or 0.0))):
        if not front or (model.score or 0.0) > (front[-1].score or 0.0):
            front.append(model)
    return front
