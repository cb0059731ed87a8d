"""CoLA's scores apart for known and other sources: `benchmarks/cola_sources.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from cola_sources import Part, apart, sources, table


def test_a_source_is_the_first_column_whatever_the_sentence_holds(tmp_path: Path) -> None:
    file = tmp_path / "dev.tsv"
    file.write_text('gj04\t1\t\tHe said "no.\nks08\t0\t*\tIt\tfell.\n', encoding="utf-8")
    assert sources(file) == ["gj04", "ks08"]


def test_each_part_is_scored_by_its_own_sentences() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    inside = np.array([True] * 4 + [False] * 4)
    predicted = np.array([0, 1, 0, 1, 1, 0, 1, 0])  # all right, then all wrong
    teacher = np.array([0, 1, 1, 1, 1, 0, 1, 0])
    known, other = apart(predicted, teacher, labels, inside)
    assert known == Part(pytest.approx(100.0), 75.0)
    assert other == Part(pytest.approx(-100.0), 100.0)


def test_the_best_recipe_comes_first_with_what_it_keeps_of_each_part() -> None:
    teacher = (Part(40.0, 100.0), Part(20.0, 100.0))
    students = {
        "weak": [(Part(10.0, 80.0), Part(10.0, 70.0))],
        "strong": [(Part(38.0, 90.0), Part(9.0, 85.0)), (Part(34.0, 92.0), Part(15.0, 87.0))],
    }
    lines = table(teacher, students).splitlines()
    assert lines[2] == "| teacher |  | 40.0 | 100 | 20.0 | 100 | 100 | 100 |"
    assert lines[3] == "| strong | 2 | 36.0 ±2.8 | 90.0 | 12.0 ±4.2 | 60.0 | 91.0 | 86.0 |"
    assert lines[4] == "| weak | 1 | 10.0 | 25.0 | 10.0 | 50.0 | 80.0 | 70.0 |"
