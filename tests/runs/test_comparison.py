"""The table and the two lines under it: what is shown, what is kept on disk, and that nothing is overclaimed."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console

from codir.errors import RunError
from codir.measure.comparison import TITLES, Comparison, ModelRow
from codir.measure.timing import Timing


def timing(ms: float, speedup: float) -> Timing:
    return Timing(ms, 0.4, speedup, speedup, speedup, (ms,), 100, 32, 128, False, "cpu", "float32", 1)


def row(role: str, score: float, **more: object) -> ModelRow:
    defaults: dict[str, object] = {
        "agreement": 0.912,
        "parameters": 22_713_216,
        "embedding_parameters": 11_920_512,
        "bytes": 90_866_412,
        "timing": timing(12.34, 1.0),
    }
    return ModelRow(TITLES[role], {"accuracy": score, "f1": 0.5}, "accuracy", **{**defaults, **more})  # type: ignore[arg-type]


def four(
    teacher: float = 0.82, plain: float = 0.75, kd: float = 0.76, codir: float = 0.779, **more: object
) -> Comparison:
    small: dict[str, object] = {"parameters": 17_400_000, "bytes": 69_000_000, "timing": timing(6.2, 1.99)}
    rows = [row("teacher", teacher, agreement=1.0), row("finetune", plain, **small), row("kd", kd, **small)]
    return Comparison([*rows, row("codir", codir, **small)], **more)  # type: ignore[arg-type]


def shown(comparison: Comparison, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(comparison.to_rich())
    return console.export_text()


def test_roles_follow_from_the_names() -> None:
    assert [r.role for r in four().rows] == ["teacher", "finetune", "kd", "codir"]
    assert ModelRow("mine", {"accuracy": 1.0}, "accuracy").role == "other"


def test_share_kept() -> None:
    comparison = four()
    assert comparison.share_kept(comparison.rows[3]) == pytest.approx(0.779 / 0.82)
    for bad in (0.0, -0.1, float("nan")):
        comparison = four(teacher=bad)
        assert comparison.share_kept(comparison.rows[3]) is None
        assert comparison.table().cells()[3][2] == "-"
    without = Comparison([row("codir", 0.7)])
    assert without.share_kept(without.rows[0]) is None


def test_terminal_table_fits_100_columns_uncut() -> None:
    text = shown(four())
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "…" not in text
    for cell in ("undistilled student", "0.7790", "95.0%", "0.912", "17.4M", "11.9M", "69.0 MB", "6.20 ±0.40", "1.99x"):
        assert cell in text
    worst = four()
    for entry in worst.rows:
        entry.main_metric = "pearson_spearman"  # folds into two lines
        entry.metrics["pearson_spearman"] = -0.1234
        entry.parameters, entry.bytes, entry.timing = 999_900_000, 999_900_000, timing(1234.56, 12.34)
    text = shown(worst)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "1234.6 ±0.4" in text
    assert "999.9M" in text


def test_names_are_not_markup_and_missing_numbers_are_dashes() -> None:
    bare = ModelRow("[bold]a|b[/bold]", {}, "accuracy")
    comparison = Comparison([bare])
    assert "[bold]a|b[/bold]" in shown(comparison)
    markdown = comparison.to_markdown().splitlines()
    assert markdown[2] == r"| \[bold\]a\|b\[/bold\] |" + " - |" * 8
    assert markdown[0].count("|") == markdown[1].count("|") == 10


def test_json_round_trip_without_nan() -> None:
    comparison = four(codir=float("nan"))
    text = json.dumps(comparison.to_json(), allow_nan=False)
    back = Comparison.from_json(json.loads(text))
    assert back.to_markdown() == comparison.to_markdown()
    assert back.rows[0].timing == comparison.rows[0].timing
    assert json.loads(text)["rows"][1]["share_kept"] == pytest.approx(0.75 / 0.82)
    with pytest.raises(RunError, match="not the JSON of a comparison"):
        Comparison.from_json({"rows": [{"nonsense": 1}]})


def predicted(labels: np.ndarray, right: int) -> np.ndarray:
    return np.where(np.arange(len(labels)) < right, labels, 1 - labels)


def with_predictions(plain_right: int, codir_right: int, n: int = 400) -> Comparison:
    labels = np.random.default_rng(0).integers(0, 2, n)
    comparison = four(plain=plain_right / n, codir=codir_right / n)
    comparison.rows[1].predictions = predicted(labels, plain_right)
    comparison.rows[3].predictions = predicted(labels, codir_right)
    return Comparison(comparison.rows, labels=labels)


def test_words_name_share_speed_and_size() -> None:
    first, second = four().plain_words()
    assert "keeps 95.0% of the teacher's accuracy (0.7790 of 0.8200)" in first
    assert "1.99 times its speed" in first
    assert "77% of its parameters" in first
    assert "0.0290 above the undistilled student, with no paired test" in second
    assert "One seed decides nothing" in second


@pytest.mark.parametrize(
    ("plain", "codir", "expected", "forbidden"),
    [
        (300, 303, "0.0075 above the undistilled student: within noise", "more than chance"),
        (300, 330, "0.0750 above the undistilled student, more than chance on these examples", "within noise"),
        (330, 300, "0.0750 below the undistilled student, more than chance on these examples", "above"),
        (300, 300, "equal to the undistilled student: within noise", "above"),
    ],
)
def test_words_claim_what_the_paired_test_allows(plain: int, codir: int, expected: str, forbidden: str) -> None:
    comparison = with_predictions(plain, codir)
    line = comparison.plain_words()[1]
    assert expected in line
    assert forbidden not in line
    assert "McNemar exact" in line
    assert "One seed decides nothing" in line
    # what is saved says the same, without the predictions
    assert Comparison.from_json(json.loads(json.dumps(comparison.to_json()))).plain_words()[1] == line


def test_words_when_test_and_score_disagree() -> None:
    comparison = with_predictions(300, 330)
    comparison.rows[3].metrics["accuracy"] = 0.6
    assert "points the other way" in comparison.plain_words()[1]


def test_words_without_baseline_teacher_or_positive_score() -> None:
    comparison = Comparison([row("teacher", 0.8), row("codir", 0.79)])
    assert "cannot say whether distilling helped" in comparison.plain_words()[1]
    assert "no share kept can be stated" in four(teacher=-0.1).plain_words()[0]
    assert "undefined" in four(codir=float("nan")).plain_words()[1]
    assert Comparison([row("teacher", 0.8)]).plain_words() == []
    assert "scores 0.7900 in accuracy" in Comparison([row("codir", 0.79)]).plain_words()[0]


def test_a_student_that_answers_one_class_is_told_so() -> None:
    labels = np.array([1] * 75 + [0] * 25)
    told = four(codir=0.75, labels=labels)
    assert told.constant == 0.75
    assert "Answering the same class to everything scores 0.7500" in told.plain_words()[0]
    assert len(four(codir=0.76, labels=labels).plain_words()) == 2
    again = Comparison.from_json(json.loads(json.dumps(told.to_json())))
    assert again.plain_words()[0] == told.plain_words()[0]
