"""KD as an objective: settings reach the loss, agreement is measured, regression compares scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codir.errors import ConfigError
from codir.kinds.classification import softened_divergence as kd_loss
from codir.losses.kd import KD, KDSettings


def test_classification(context, make_step) -> None:
    step = make_step([0, 1, 2, 3])
    term = KD(KDSettings(temperature=3.0, squared=True), context)(step)
    torch.testing.assert_close(term.loss, kd_loss(step.student.logits, step.teacher.logits, 3.0) * 9)
    same = sum(
        s.index(max(s)) == t.index(max(t))
        for s, t in zip(step.student.logits.tolist(), step.teacher.logits.tolist(), strict=True)
    )
    assert term.metrics["agreement"].item() == pytest.approx(same / 4)
    assert not term.metrics["agreement"].requires_grad


def test_mean_over_the_classes_is_the_divergence_divided_by_their_number(context, make_step) -> None:
    step = make_step([0, 1, 2, 3])
    whole, mean = (KD(KDSettings(averaged=averaged), context)(step).loss for averaged in (False, True))
    torch.testing.assert_close(mean * step.student.logits.shape[1], whole)


def test_regression_is_the_squared_error_of_the_scores(regression, make_step) -> None:
    step = make_step([0, 1, 2], outputs=1)
    pairs = zip(step.student.logits.tolist(), step.teacher.logits.tolist(), strict=True)
    expected = sum((s[0] - t[0]) ** 2 for s, t in pairs) / 3
    term = KD(KDSettings(), regression)(step)
    assert term.loss.item() == pytest.approx(expected, rel=1e-5)
    assert term.metrics == {}


def test_needs_and_refusals(context, make_step) -> None:
    assert KD.needs(KDSettings()).teacher_logits
    assert KDSettings().temperature == 2.0
    assert not KDSettings().squared
    with pytest.raises(ConfigError, match="needs a teacher"):
        KD.check(KDSettings(), replace(context, teacher=None))
    with pytest.raises(ConfigError, match="teacher's logits"):
        KD(KDSettings(), context)(replace(make_step([0]), teacher=None))
