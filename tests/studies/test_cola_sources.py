"""CoLA's scores apart for known and other sources: `benchmarks/cola_sources.py`, `benchmarks/evidence_by_source.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "runs"))

from small_world import TRAINING, World, quiet, sentences

from codir import finetune, study
from codir.errors import RunError
from codir.studies.report import read_findings
from cola_sources import apart, main, sources
from evidence_by_source import BySource, Part, Training, by_source, read_by_source, table, write_by_source
from evidence_choice import choose
from evidence_data import read_study

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "evidence" / "results"
TEACHER = (Part(40.0, 100.0), Part(20.0, 100.0))


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
    students = {
        "weak": [(Part(10.0, 80.0), Part(10.0, 70.0))],
        "strong": [(Part(38.0, 90.0), Part(9.0, 85.0)), (Part(34.0, 92.0), Part(15.0, 87.0))],
    }
    lines = table(TEACHER, students).splitlines()
    assert lines[2] == "| teacher |  | 40.0 | 100 | 20.0 | 100 | 100 | 100 |"
    assert lines[3] == "| strong | 2 | 36.0 ±2.8 | 90.0 | 12.0 ±4.2 | 60.0 | 91.0 | 86.0 |"
    assert lines[4] == "| weak | 1 | 10.0 | 25.0 | 10.0 | 50.0 | 80.0 | 70.0 |"


def test_what_is_measured_later_is_added_to_what_was_before(tmp_path: Path) -> None:
    file = tmp_path / "cola-sources.json"
    first, second = Training("kd", 1, 0.25), Training("kd", 2, 0.27)
    before = BySource((3, 4), TEACHER, {first: (Part(30.0, 90.0), Part(10.0, 80.0))})
    write_by_source(before, file)
    assert read_by_source(file) == before
    both = before.joined(BySource((3, 4), TEACHER, {second: (Part(32.0, 91.0), Part(11.0, 81.0))}))
    write_by_source(both, file)
    assert set(read_by_source(file).students) == {first, second}


@pytest.mark.parametrize(("sentences", "teacher"), [((3, 5), TEACHER), ((3, 4), TEACHER[::-1])])
def test_students_of_another_teacher_or_other_sentences_are_not_mixed_in(
    sentences: tuple[int, int], teacher: tuple[Part, Part]
) -> None:
    with pytest.raises(RunError, match=r"Measured before: \(3, 4\) sentences"):
        BySource((3, 4), TEACHER, {}).joined(BySource(sentences, teacher, {}))


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text('{"students": []}', encoding="utf-8")
    with pytest.raises(
        RunError, match=r"other\.json is not what cola_sources\.py writes \(KeyError: 'sentences'"
    ):
        read_by_source(file)


def test_a_table_has_the_trainings_that_were_measured_and_no_others(tmp_path: Path) -> None:
    """One recipe of a study has been measured for two of its seeds; one more has a score that no trial has."""
    study = read_study(RESULTS / "plus.json")
    chosen = choose([study], recipes=["kd", "pkd"], tasks=["cola"])
    assert chosen is not None
    trials = [each for each in chosen.trials if each.result.recipe == "kd"][:2]
    own = [(Part(30.0, 90.0), Part(10.0, 80.0)), (Part(34.0, 92.0), Part(14.0, 82.0))]
    students = {
        Training("kd", trial.result.seed, trial.result.score): parts
        for trial, parts in zip(trials, own, strict=True)
    }
    students[Training("pkd", 1, 0.123)] = own[0]
    file = tmp_path / "cola-sources.json"
    write_by_source(BySource((527, 516), TEACHER, students), file)
    text = by_source(chosen, file)
    assert "| kd | 2 | 32.0 ±2.8 | 80.0 | 12.0 ±2.8 | 60.0 | 91.0 | 81.0 |" in text
    assert "pkd" not in text
    assert "527 sentences" in text
    write_by_source(BySource((527, 516), TEACHER, {}), file)
    assert by_source(chosen, file).startswith("*No such trial has been measured")


def test_the_command_measures_the_finished_trials_and_adds_to_its_file(
    study_world: World,
    study_settings: Callable[..., dict[str, Any]],
    here: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    glue = tmp_path / "glue"
    (glue / "CoLA").mkdir(parents=True)
    lines = [(int(row["stars"] == "pos"), row["review"]) for row in sentences(208, seed=1)]
    train = [f"gj04\t{label}\t\t{text}\n" for label, text in lines[:192]]
    dev = [
        f"{source}\t{label}\t\t{text}\n"
        for source, part in (("gj04", lines[192:200]), ("new99", lines[200:]))
        for label, text in part
    ]
    (glue / "CoLA" / "train.tsv").write_text("".join(train), encoding="utf-8")
    (glue / "CoLA" / "dev.tsv").write_text("".join(dev), encoding="utf-8")
    data = {"task": "cola", "data_dir": str(glue)}
    teacher = tmp_path / "teacher"
    finetune(
        model=str(study_world.folder / "encoder"),
        data=data,
        training={**TRAINING, "epochs": 3},
        output=teacher,
        console=quiet(),
    )
    settings = study_settings(
        tmp_path / "study", tasks={"cola": data}, teachers={"cola": str(teacher)}, recipes=["kd"]
    )
    study(**settings)

    output = tmp_path / "sources.json"
    options = [str(tmp_path / "study"), "--data-dir", str(glue), "--teacher", str(teacher)]
    main([*options, "--output", str(output)])
    assert "8 sentences of the training data's sources, 8 of others" in capsys.readouterr().out
    measured = read_by_source(output)
    assert measured.sentences == (8, 8)
    for each in read_findings(tmp_path / "study")[1]:
        assert Training("kd", each.seed, round(each.score, 8)) in measured.students
    assert len(measured.students) == 2
    assert [part.agreement for part in measured.teacher] == [100.0, 100.0]
    assert all(part.score > 50 for part in measured.teacher)

    main([*options, "--output", str(output)])
    assert read_by_source(output) == measured
