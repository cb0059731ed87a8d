"""The evidence: the pages say what the committed results say; numbers by hand; a study becomes one small file."""

from __future__ import annotations

import copy
import json
import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import evidence
import pages
import tables
from collect import LARGEST, collect, thinned
from evidence import STUDIES, filled, main
from pages import PAGES, RESULTS, draw, read_block
from trials import Comparison, Difference, Row, Study, compare, holm, start_of, study_of

SCORES = {
    ("kd", "a"): [0.70, 0.71, 0.73],
    ("kd", "b"): [0.60, 0.64, 0.66],
    ("crd", "a"): [0.72, 0.74, 0.75],
    ("crd", "b"): [0.61, 0.66, 0.67],
}


# ---- what is committed -----------------------------------------------------------------------------------------------


def test_the_pages_say_what_the_results_say() -> None:
    assert draw(write=False) == [], "run `python research/evidence.py draw`"
    for page in PAGES.glob("*.md"):
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith("!["):
                assert (PAGES / line.split("](")[1].rstrip(")")).is_file(), line


def test_a_number_changed_by_hand_is_found(tmp_path: Path) -> None:
    text = (PAGES / "evidence.md").read_text(encoding="utf-8")
    page = tmp_path / "evidence.md"
    page.write_text(text.replace("| teacher | 85.4 |", "| teacher | 85.5 |"), encoding="utf-8")
    assert draw(tmp_path, names=["evidence.md"], write=False) == [page]
    page.write_text(text.replace(pages._END, "", 1), encoding="utf-8")
    with pytest.raises(ValueError, match=r"evidence\.md, line \d+: .* has no"):
        draw(tmp_path, names=["evidence.md"], write=False)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_are_small_and_name_no_folder_of_a_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    content = json.loads(text)
    assert len(text.encode()) <= LARGEST
    assert '"/' not in text
    assert content["study"] == file.stem
    assert content["finished"] == len(content["trials"])
    assert (STUDIES / file.name).with_suffix(".yaml").is_file()


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_study_files_can_be_filled(file: Path) -> None:
    wanted = evidence._template(file.stem).get_identifiers()
    content = yaml.safe_load(filled(file.stem, [f"{name}=/x/{name}" for name in wanted]))
    assert content["recipes"]
    assert content["tasks"]
    assert "$" not in str(content)


def test_a_placeholder_without_a_value_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "plus", "--output", str(tmp_path / "s"), "data_dir=x"]) == 1
    assert "teachers=PATH" in capsys.readouterr().err


# ---- numbers ---------------------------------------------------------------------------------------------------------


def content_of(name: str, scores: Mapping[tuple[str, str], list[float]], **changes: Any) -> dict[str, Any]:
    """Returns made-up results: scores by (recipe, task), one a seed; teachers score 0.8."""
    recipes, tasks = (dict.fromkeys(key[side] for key in scores) for side in (0, 1))
    trial = {
        "student": "half", "metric": "accuracy", "teacher_score": 0.8, "agreement": 0.9, "split": "validation",
        "train_examples": 1000, "validation_examples": 100, "layers": 3, "width": 384, "parameters": 17_000_000,
        "steps": 30, "epochs": 3.0, "seconds": 60.0, "batch_size": 32, "learning_rate": 1e-4, "environment": 0,
        "curves": {"step": [10, 20, 30], "loss": [3.0, 2.0, 1.0]},
    }  # fmt: skip
    arm = {"recipe": "kd", "settings": {}, "training": {}, "objectives": {"kd": {"weight": 1.0}}}
    return {
        "study": name,
        "arms": {recipe: copy.deepcopy(arm) for recipe in recipes},
        "tasks": {task: {"kind": "classification", "task": task[0]} for task in tasks},
        "students": {"half": {"layers": 3}},
        "constants": {},
        "baseline": "kd",
        "seeds": [1, 2, 3],
        "planned": 12, "finished": 12, "failed": [], "missing": [],
        "teachers": {
            task: {"blocks": 6, "width": 384, "parameters": 2, "metric": "accuracy", "score": 0.8,
                   "metrics": {"accuracy": 0.8, "f1": 0.4}} for task in tasks
        },
        "environments": [{"machine": {"cpu": "c", "cores": 2, "threads": 1}, "versions": {}, "precision": "fp32"}],
        "trials": [
            {**trial, "recipe": recipe, "task": task, "seed": seed, "score": score,
             "metrics": {"accuracy": score, "f1": score / 2},
             "evaluations": {"epoch": [1.0, 2.0], "step": [10, 30], "score": [0.9, score - 0.1]}, **changes}
            for (recipe, task), values in scores.items()
            for seed, score in enumerate(values, start=1)
        ],
    }  # fmt: skip


def made(name: str, scores: Mapping[tuple[str, str], list[float]] = SCORES, **changes: Any) -> Study:
    return study_of(content_of(name, scores, **changes))


def compared(*studies: Study, **options: Any) -> Comparison:
    found = compare(studies, **options)
    assert found is not None
    return found


def test_kept_and_gains_against_plain_loops() -> None:
    found = compared(made("s"))
    kd, crd = found.rows
    kept = [100 * (a / 0.8 + b / 0.8) / 2 for a, b in zip(SCORES["crd", "a"], SCORES["crd", "b"], strict=True)]
    spread = found.kept(crd, None)
    reach = stats.t.ppf(0.975, 2) * statistics.stdev(kept) / math.sqrt(3)
    assert spread is not None
    assert spread.mean == pytest.approx(sum(kept) / 3)
    assert spread.interval == pytest.approx((sum(kept) / 3 - reach, sum(kept) / 3 + reach))
    gains = [x - y for x, y in zip(SCORES["crd", "a"], SCORES["kd", "a"], strict=True)]
    reach = stats.t.ppf(0.975, 2) * statistics.stdev(gains) / math.sqrt(3)
    difference = found.differences[crd, "a"]
    assert difference.mean == pytest.approx(sum(gains) / 3)
    assert difference.interval == pytest.approx((sum(gains) / 3 - reach, sum(gains) / 3 + reach))
    assert difference.p == pytest.approx(stats.ttest_rel(SCORES["crd", "a"], SCORES["kd", "a"]).pvalue)
    assert found.order() == [crd, kd]


def test_holm_by_hand() -> None:
    rows = {Row(str(n)): Difference(3, 0.1, None, p) for n, p in enumerate([0.01, 0.04, None, 0.03, 0.005])}
    assert [each.adjusted for each in holm(rows).values()] == [0.03, 0.06, None, 0.06, 0.02]


def test_a_task_with_something_changed_stands_beside_its_own() -> None:
    found = compared(made("s", {("kd", "a"): [0.7, 0.71], ("kd", "a-aug"): [0.72, 0.74]}))
    assert [str(row) for row in found.rows] == ["kd", "kd +aug"]
    assert found.differences[found.rows[1], "a"].mean == pytest.approx(0.025)


def test_recipes_of_one_name_are_one_sample_only_under_one_budget_and_start() -> None:
    short, longer = (
        made("one", {("kd", "a"): [0.7, 0.71]}),
        made("longer", {("kd", "a"): [0.76]}, epochs=10.0),
    )
    found = compared(short, made("same", {("kd", "a"): [0.70, 0.71, 0.73]}), longer)
    scores = {str(row): found.scores(row, "a") for row in found.rows}
    assert scores == {"kd": {1: 0.70, 2: 0.71, 3: 0.73}, "kd [longer]": {1: 0.76}}
    other = content_of("other", {("kd", "a"): [0.7]})
    other["arms"]["kd"]["objectives"]["kd"]["setting_of_a_newer_version"] = 1
    assert len(compared(short, study_of(other)).rows) == 1
    other["arms"]["kd"]["start"] = {"init": "first"}
    assert len(compared(short, study_of(other)).rows) == 2
    assert start_of({"layers": 3, "init": "last"}, other["arms"]["kd"])["init"] == "last"


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one and again have two scores .* 0\.7000 and 0\.6000 of kd, a"):
        compare([made("one", {("kd", "a"): [0.7]}), made("again", {("kd", "a"): [0.6]})])
    with pytest.raises(ValueError, match="other and one cannot be compared on a: the split is holdout"):
        compare([made("one"), made("other", {("pkd", "a"): [0.7]}, split="holdout")])
    with pytest.raises(ValueError, match="no recipe 'crdd'"):
        compare([made("s")], recipes=["crdd"])
    with pytest.raises(ValueError, match="main metric alone"):
        compare([made("s")], metrics={"a": "f1"}, last=True)


def test_what_a_table_leaves_out_makes_nothing_in_it_more_certain() -> None:
    study = made("s", {**SCORES, ("pkd", "a"): [0.71, 0.73, 0.74], ("pkd", "b"): [0.6, 0.65, 0.6]})
    whole, part = compared(study), compared(study, recipes=["kd", "crd"])
    for task in ("a", "b", None):
        assert part.differences[Row("crd"), task] == whole.differences[Row("crd"), task]
    assert "the 2 recipes compared, those not shown too, is below" in tables.gains(part)
    assert "the 2 recipes compared is below" in tables.gains(whole)


def test_other_metrics_and_the_last_evaluation() -> None:
    found = compared(made("s"), metrics={"a": "f1"}, tasks=["a"])
    assert found.teacher("a") == pytest.approx(0.4)
    assert found.scores(found.rows[0], "a")[1] == pytest.approx(0.35)
    last = compared(made("s"), last=True)
    assert last.scores(last.rows[0], "a")[1] == pytest.approx(0.6)
    assert "greement" not in tables.scores(last)  # known of the checkpoint that was given out alone


def test_tables_say_how_many_seeds_there_are() -> None:
    one = compared(made("s", {key: values[:1] for key, values in SCORES.items()}))
    assert "noise" in tables.gains(one)
    assert "interval" not in tables.gains(one)
    some = compared(made("s", {key: values[: 2 if key[1] == "b" else 3] for key, values in SCORES.items()}))
    assert "| crd (3, 2) |" in tables.scores(some)


@pytest.mark.parametrize(("text", "message"), [("kepp plus", "kinds: kept"), ("kept plus nothing=1", "unknown option")])
def test_blocks_that_cannot_be_read_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"page, line 3: .*{message}"):
        read_block(text, "page, line 3")


# ---- collecting ------------------------------------------------------------------------------------------------------


def test_files_of_parts_give_the_file_of_the_whole(tmp_path: Path) -> None:
    whole = content_of("made", SCORES)
    for seeds in ([1], [2, 3]):
        part = {
            **whole,
            "seeds": seeds,
            "trials": [each for each in whole["trials"] if each["seed"] in seeds],
        }
        (tmp_path / f"{seeds[0]}.json").write_text(json.dumps(part), encoding="utf-8")
    found = collect("made", [tmp_path / "1.json", tmp_path / "2.json"], tmp_path / "made.json")
    assert (found["finished"], found["planned"], found["missing"]) == (12, 12, [])
    assert json.loads((tmp_path / "made.json").read_text()) == found
    found = collect("made", [tmp_path / "2.json"], tmp_path / "again.json")
    assert (found["finished"], found["planned"]) == (8, 8)
    part["trials"][0] = {**part["trials"][0], "score": 0.1}
    (tmp_path / "3.json").write_text(json.dumps(part), encoding="utf-8")
    with pytest.raises(ValueError, match="another training"):
        collect("made", [tmp_path / "2.json", tmp_path / "3.json"], tmp_path / "made.json")


def test_curves_are_means_of_neighbouring_steps() -> None:
    curves = {"step": [1, 2, 3, 4, 5], "loss": [5.0, 3.0, None, 1.0, 2.0]}
    assert thinned(curves, 3) == {"step": [2, 4, 5], "loss": [4.0, 1.0, 2.0]}
    assert thinned(curves, 9) == curves
