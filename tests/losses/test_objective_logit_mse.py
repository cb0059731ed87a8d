"""The squared distance of logits as an objective."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codir.errors import ConfigError
from codir.losses.base import ObjectiveSettings
from codir.losses.logit_mse import LogitMSE
from codir.losses.registry import check_objectives


@pytest.mark.parametrize("ids", [[0], [0, 1, 2, 3]])
def test_classification(context, make_step, ids: list[int]) -> None:
    step = make_step(ids)
    term = LogitMSE(ObjectiveSettings(), context)(step)
    rows = list(zip(step.student.logits.tolist(), step.teacher.logits.tolist(), strict=True))
    expected = sum(sum((b - a) ** 2 for a, b in zip(s, t, strict=True)) for s, t in rows) / len(ids)
    assert term.loss.item() == pytest.approx(expected, rel=1e-5)
    same = sum(s.index(max(s)) == t.index(max(t)) for s, t in rows)
    assert term.metrics["agreement"].item() == pytest.approx(same / len(ids))
    term.loss.backward()
    assert step.student.logits.grad is not None


def test_scores(regression, make_step) -> None:
    step = make_step([0, 1, 2], outputs=1)
    pairs = zip(step.student.logits.tolist(), step.teacher.logits.tolist(), strict=True)
    term = LogitMSE(ObjectiveSettings(), regression)(step)
    assert term.loss.item() == pytest.approx(sum((s[0] - t[0]) ** 2 for s, t in pairs) / 3, rel=1e-5)
    assert term.metrics == {}


def test_half_precision_inside_autocast(context, make_step) -> None:
    step = make_step([0, 1, 2])
    step.student.logits = step.student.logits.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert LogitMSE(ObjectiveSettings(), context)(step).loss.dtype == torch.float32


def test_needs_and_refusals(context, make_step) -> None:
    assert LogitMSE.needs(ObjectiveSettings()).teacher_logits
    with pytest.raises(ConfigError, match="needs a teacher"):
        check_objectives({"logit_mse": {}}, replace(context, teacher=None))
    with pytest.raises(ConfigError, match="use 'kd'"):
        check_objectives({"logit_mse": {}}, replace(context, kind="masked-lm", labels=None))
    with pytest.raises(ConfigError, match="teacher's logits"):
        LogitMSE(ObjectiveSettings(), context)(replace(make_step([0]), teacher=None))
