"""The warning about a model that gives one answer to everything."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from codir.config.student_config import StudentConfig
from codir.runs.collapse import CollapseWatch, first_layers_note

ONE, TWO = np.zeros(6, dtype=int), np.array([0, 1, 0, 0, 1, 0])


@pytest.mark.parametrize(
    ("evaluations", "warnings"),
    [
        pytest.param([ONE], 0, id="the first one may pass"),
        pytest.param([ONE, ONE], 1, id="two"),
        pytest.param([ONE, ONE, ONE, ONE], 1, id="once only"),
        pytest.param([ONE, TWO, ONE], 0, id="not in a row"),
        pytest.param([ONE, ONE, TWO, ONE, ONE], 2, id="again"),
        pytest.param([TWO, TWO, TWO], 0, id="never"),
    ],
)
def test_it_warns_at_the_second_evaluation_in_a_row(evaluations, warnings, caplog) -> None:
    watcher = CollapseWatch("student")
    with caplog.at_level(logging.WARNING):
        for answers in evaluations:
            watcher.watch(answers, TWO)
    assert [record.getMessage().count("same answer for all 6") for record in caplog.records] == [1] * warnings


def test_data_of_one_class_and_scores(caplog) -> None:
    watcher = CollapseWatch("student")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            watcher.watch(ONE, ONE)  # nothing else could be right
            watcher.watch(np.array([0.5]), np.array([0.1]))
    assert not caplog.records
    for _ in range(2):
        watcher.watch(np.full(3, 2.5), np.array([1.0, 2.0, 4.0]))
    assert len(caplog.records) == 1


def test_a_contrast_is_named_where_there_is_one(caplog) -> None:
    for contrast in (False, True):
        watcher = CollapseWatch("student", contrast)
        watcher.watch(ONE, TWO)
        watcher.watch(ONE, TWO)
    assert ["crd.negatives" in record.getMessage() for record in caplog.records] == [False, True]


@pytest.mark.parametrize(
    ("student", "objectives", "said"),
    [
        ({"init": "first"}, {"crd": {}}, True),
        ({"init": "first"}, {"crd": {"negatives": "hard", "k": 100}}, True),
        ({"init": "first"}, {"crd": {"negatives": "in-batch"}}, False),
        ({"init": "first"}, {"kd": {}}, False),
        ({"init": [1, 2, 3]}, {"crd": {}}, True),
        ({"init": [1, 3, 5]}, {"crd": {}}, False),
        ({"init": "spread"}, {"crd": {}}, False),
        ({}, {"crd": {}}, False),
    ],
)
def test_what_failed_for_students_of_the_first_blocks_is_said(student, objectives, said) -> None:
    note = first_layers_note(StudentConfig(**student), objectives)
    assert (note is not None) is said
    assert note is None or "negatives=in-batch none did" in note
