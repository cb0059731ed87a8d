"""The evidence: a study's folder becomes a small file, the pages say what the committed files say, by known numbers."""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from small_world import quiet

from codir import study
from codir.errors import ConfigError, RunError
from codir.studies.findings import Row
from codir.studies.short_forms import spelt_out

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import evidence_collect
import evidence_pages
import evidence_studies
import evidence_tables as tables
from evidence import RESULTS, main
from evidence_choice import choose, interval
from evidence_collect import LARGEST, collect
from evidence_data import Study, read_study
from evidence_pages import PAGES, draw, read_block
from evidence_start import resolved_start
from evidence_studies import Outline, filled, outline, part_of, parts, study_names

ROOT = Path(__file__).resolve().parents[2]
Settings = Callable[..., dict[str, Any]]


# ---- what is committed -----------------------------------------------------------------------------------------------


def test_the_pages_say_what_the_results_say() -> None:
    pytest.importorskip("matplotlib")
    assert draw(RESULTS, ROOT, write=False) == [], "run `python benchmarks/evidence.py draw`"
    for page in PAGES:
        for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
            if line.startswith("!["):
                assert (ROOT / "docs" / line.split("(")[1].rstrip(")")).is_file(), line


def test_a_number_changed_by_hand_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    copy_pages(tmp_path)
    monkeypatch.setattr(evidence_pages, "rendered", lambda _: {"svg": b"", "png": b""})  # not looked at here
    draw(RESULTS, tmp_path, pages=PAGES[:1])
    page = tmp_path / PAGES[0]
    text = page.read_text(encoding="utf-8")
    assert "| teacher | 85.4 |" in text
    page.write_text(text.replace("| teacher | 85.4 |", "| teacher | 85.5 |"), encoding="utf-8")
    assert draw(RESULTS, tmp_path, pages=PAGES[:1]) == [page]
    assert page.read_text(encoding="utf-8") == text


def copy_pages(root: Path) -> None:
    for page in PAGES:
        path = root / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / page).read_text(encoding="utf-8"), encoding="utf-8")


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_are_small_and_of_a_study_in_the_repository(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) <= LARGEST
    assert '"/' not in text  # no path of a machine
    content = json.loads(text)
    assert content["study"] == file.stem
    assert file.stem in study_names()
    assert content["finished"] == len(content["trials"])
    for trial in content["trials"]:
        assert len(trial["curves"]["step"]) <= 60


@pytest.mark.parametrize("name", study_names())
def test_study_files_can_be_read(name: str, tmp_path: Path) -> None:
    from codir.studies.loading import load_study
    from codir.studies.resolved import resolve_recipes

    wanted = re.findall(r"\$(\w+)", (RESULTS.parent / f"{name}.yaml").read_text(encoding="utf-8"))
    paths = dict.fromkeys(wanted, str(tmp_path))
    content = filled(name, paths)
    text = json.dumps(content)
    assert "$" not in text
    flags = {key: (key, value) for key, value in {**content, "output": str(tmp_path / "o")}.items()}
    assert resolve_recipes(load_study(flags=flags))


# ---- numbers ---------------------------------------------------------------------------------------------------------


def make_study(
    name: str,
    scores: dict[tuple[str, str], list[float]],
    *,
    epochs: float = 3.0,
    split: str = "validation",
    teachers: Mapping[str, float] | None = None,
) -> Study:
    """Returns a made-up study: scores by (recipe, task), one a seed; teachers score 0.8 unless said otherwise."""
    teachers = teachers or {}
    tasks, recipes = ({each[side]: None for each in scores} for side in (1, 0))
    trials = [
        {
            "recipe": recipe,
            "task": task,
            "student": "half",
            "seed": seed,
            "metric": "accuracy",
            "score": score,
            "metrics": {"accuracy": score, "f1": score / 2},
            "teacher_score": teachers.get(task, 0.8),
            "agreement": 0.9,
            "split": split,
            "train_examples": 1000,
            "validation_examples": 100,
            "layers": 3,
            "width": 384,
            "parameters": 17_000_000,
            "embedding_parameters": 1,
            "bytes": 1,
            "steps": round(31.25 * epochs),
            "epochs": epochs,
            "best_epoch": None,
            "seconds": 60.0 * seed,
            "batch_size": 32,
            "learning_rate": 5e-5,
            "environment": 0,
            "evaluations": {"epoch": [1.0], "step": [31], "score": [score]},
            "curves": {"step": [10, 20, 30, 40, 50], "loss_crd": [4.0, 0.05, 0.2, 0.08, 0.06]},
        }
        for (recipe, task), values in scores.items()
        for seed, score in enumerate(values, start=1)
    ]
    content = {
        "study": name,
        "arms": {
            each: {"recipe": each, "settings": {}, "objectives": {each: {"weight": 1.0}}} for each in recipes
        },
        "tasks": {task: {"kind": "classification", "task": task.split("-")[0]} for task in tasks},
        "students": {"half": {"layers": 3}},
        "constants": dict.fromkeys(tasks, 0.5),
        "baseline": "kd",
        "seeds": [1, 2, 3],
        "planned": len(trials),
        "finished": len(trials),
        "failed": [],
        "missing": [],
        "teachers": {
            task: {
                "blocks": 6,
                "width": 384,
                "parameters": 22_000_000,
                "metric": "accuracy",
                "score": teachers.get(task, 0.8),
                "metrics": {"accuracy": teachers.get(task, 0.8), "f1": 0.4},
            }
            for task in tasks
        },
        "environments": [
            {
                "precision": "fp32",
                "versions": {"codir": "1"},
                "machine": {"cpu": "x", "cores": 2, "threads": 1},
            }
        ],
        "trials": trials,
    }
    return Study(name, content, ()) if not trials else _read(content)


def _read(content: dict[str, Any]) -> Study:
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(content, file)
        file.flush()
        return read_study(Path(file.name))


SCORES = {
    ("kd", "a"): [0.70, 0.71, 0.73],
    ("kd", "b"): [0.60, 0.64, 0.62],
    ("crd", "a"): [0.72, 0.74, 0.75],
    ("crd", "b"): [0.61, 0.66, 0.67],
}


def test_kept_and_gains_against_plain_loops() -> None:
    chosen = choose([make_study("s", SCORES)])
    assert chosen is not None
    kd, crd = chosen.findings.rows
    kept = [
        100 * (a / 0.8 + b / 0.8) / 2 for a, b in zip(SCORES["crd", "a"], SCORES["crd", "b"], strict=True)
    ]
    spread = chosen.kept(crd, None)
    assert spread is not None
    assert spread.mean == pytest.approx(sum(kept) / 3)
    reach = stats.t.ppf(0.975, 2) * statistics.stdev(kept) / math.sqrt(3)
    assert interval(spread) == pytest.approx((sum(kept) / 3 - reach, sum(kept) / 3 + reach))
    gains = [x - y for x, y in zip(SCORES["crd", "a"], SCORES["kd", "a"], strict=True)]
    difference = chosen.findings.differences[crd, "a"]
    reach = stats.t.ppf(0.975, 2) * statistics.stdev(gains) / math.sqrt(3)
    assert difference.difference == pytest.approx(sum(gains) / 3)
    assert (difference.low, difference.high) == pytest.approx(
        (sum(gains) / 3 - reach, sum(gains) / 3 + reach)
    )
    assert chosen.order() == [crd, kd]


def test_the_average_is_kept_as_the_paper_counts_it_where_every_task_has_finished() -> None:
    scores = {**SCORES, ("kd", "a"): [0.70, 0.71]}
    chosen = choose([make_study("s", scores, teachers={"b": 0.4})])
    assert chosen is not None
    kd, _ = chosen.findings.rows
    average = chosen.average_kept(kd)
    assert average is not None
    assert average.n == 2
    assert average.mean == pytest.approx((100 * (0.70 + 0.60) / 1.2 + 100 * (0.71 + 0.64) / 1.2) / 2)
    kept = chosen.kept(kd, None)
    assert kept is not None
    assert kept.mean > average.mean + 5


def test_a_task_and_a_student_with_something_changed_stand_beside_their_own() -> None:
    chosen = choose([make_study("s", {("kd", "a"): [0.7, 0.71], ("kd", "a-aug"): [0.72, 0.74]})])
    assert chosen is not None
    assert [str(row) for row in chosen.findings.rows] == ["kd", "kd +aug"]
    assert chosen.findings.tasks == ("a",)
    assert chosen.findings.differences[chosen.findings.rows[1], "a"].difference == pytest.approx(0.025)


def test_recipes_of_one_name_are_one_sample_only_under_one_budget() -> None:
    one = make_study("one", {("kd", "a"): [0.70, 0.71]})
    same = make_study("same", {("kd", "a"): [0.70, 0.71, 0.73]})
    longer = make_study("longer", {("kd", "a"): [0.76, 0.77]}, epochs=10.0)
    chosen = choose([one, same, longer])
    assert chosen is not None
    scores = {str(row): chosen.findings.cells[row, "a"].scores for row in chosen.findings.rows}
    assert scores == {"kd": {1: 0.70, 2: 0.71, 3: 0.73}, "kd [longer]": {1: 0.76, 2: 0.77}}


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {"student.init": "last"}},
        {"start": {"freeze": ["embeddings"]}},
        {"training": {"keep_best": False}},
        {"objectives": {"kd": {"weight": 1.0}, "crd": {}}},
        {"objectives": {"kd": {"weight": 2.0}}},
    ],
)
def test_another_start_or_other_objectives_are_another_sample(change: dict[str, Any]) -> None:
    one, other = (make_study(name, {("kd", "a"): [0.70, 0.71]}) for name in ("one", "other"))
    other.content["arms"]["kd"] |= change
    for studies in ([one, other], [other, one]):
        chosen = choose([_read(dict(study.content)) for study in studies])
        assert chosen is not None
        assert [str(row) for row in chosen.findings.rows] == ["kd", f"kd [{studies[1].name}]"]


def test_a_start_and_settings_that_are_the_default_are_no_difference() -> None:
    one, other = (make_study(name, {("kd", "a"): [0.70, 0.71]}) for name in ("one", "other"))
    other.content["arms"]["kd"] |= {"settings": {"student.init": "spread", "student.freeze": None}}
    other.content["arms"]["kd"]["objectives"]["kd"]["setting_of_a_newer_version"] = 1
    chosen = choose([one, _read(dict(other.content))])
    assert chosen is not None
    assert [str(row) for row in chosen.findings.rows] == ["kd"]


def test_what_the_student_says_of_its_start_counts_over_the_recipe() -> None:
    arm = {"start": {"init": "first", "freeze": ["embeddings"]}, "settings": {}}
    assert resolved_start({"layers": 3}, arm)["init"] == "first"
    assert resolved_start({"layers": 3, "init": "spread"}, arm)["init"] == "spread"
    assert resolved_start({"layers": 3, "width": 192}, arm)["freeze"] is None  # its embeddings are cut
    assert resolved_start({"layers": 3}, {**arm, "settings": {"student.init": "last"}})["init"] == "last"
    assert resolved_start({"layers": 3}, {**arm, "student": {"model": "m"}})["model"] == "m"


def test_one_trial_with_two_scores_is_refused() -> None:
    one, again = (make_study(name, {("kd", "a"): [score]}) for name, score in (("one", 0.7), ("again", 0.6)))
    with pytest.raises(
        ConfigError, match=r"one and again have two scores .* 0\.7000 and 0\.6000 of kd, a, .*seed 1"
    ):
        choose([one, again])


def test_what_a_table_leaves_out_makes_nothing_in_it_more_certain() -> None:
    """Holm's correction is over all recipes of the studies; p of two recipes here, one of them hidden."""
    study = make_study("s", {**SCORES, ("pkd", "a"): [0.71, 0.73, 0.74], ("pkd", "b"): [0.6, 0.65, 0.6]})
    whole = choose([study])
    part = choose([study], recipes=["kd", "crd"])
    assert whole is not None
    assert part is not None
    assert [str(row) for row in part.findings.rows] == ["kd", "crd"]
    for task in ("a", "b", None):
        difference = part.findings.differences[Row("crd"), task]
        assert difference == whole.findings.differences[Row("crd"), task]
        assert difference.adjusted is not None
        assert difference.p_value is not None
        assert difference.adjusted > difference.p_value
    assert part.compared == {"a": 2, "b": 2, None: 2}
    assert "the 2 recipes compared, those not shown too, is below" in tables.gains(part)
    assert "the 2 recipes compared is below" in tables.gains(whole)


def test_a_hidden_recipe_of_another_student_is_in_the_family_of_its_row() -> None:
    study = make_study("s", SCORES)
    more = [{**trial, "student": "third", "score": trial["score"] / 2} for trial in study.content["trials"]]
    study.content["students"]["third"] = {"layers": 2}
    study.content["trials"] += more
    both = _read(dict(study.content))
    whole, part = choose([both]), choose([both], students=["half"])
    assert whole is not None
    assert part is not None
    assert part.compared == {"a": 1, "b": 1, None: 1}
    assert whole.compared == {"a": 2, "b": 2, None: 2}
    assert all(each.adjusted == each.p_value for each in part.findings.differences.values())


def test_what_was_judged_on_other_data_is_not_compared() -> None:
    one, other = make_study("one", SCORES), make_study("other", {("pkd", "a"): [0.7]}, split="holdout")
    with pytest.raises(ConfigError, match="other and one cannot be compared on a: the split is holdout"):
        choose([one, other])


def test_names_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match=r"No recipe 'crdd' \(did you mean 'crd'\?\)"):
        choose([make_study("s", SCORES)], recipes=["crdd"])
    with pytest.raises(ConfigError, match=r"a has no metric 'acc'.*accuracy, f1"):
        choose([make_study("s", SCORES)], metrics={"a": "acc"})


def test_another_metric_is_that_of_student_and_teacher() -> None:
    chosen = choose([make_study("s", SCORES)], metrics={"a": "f1"}, tasks=["a"])
    assert chosen is not None
    assert chosen.findings.teachers == {"a": pytest.approx(0.4)}
    assert chosen.findings.cells[chosen.findings.rows[0], "a"].scores[1] == pytest.approx(0.35)


def test_the_last_evaluation_has_its_main_metric_alone() -> None:
    with pytest.raises(ConfigError, match=r"main metric alone was kept, not f1: leave out checkpoint=last"):
        choose([make_study("s", SCORES)], metrics={"a": "f1"}, last=True)


def test_agreement_with_the_teacher_may_stand_for_a_score() -> None:
    study = make_study("s", SCORES)
    for trial in study.content["trials"]:
        trial["agreement"] = 0.8 + trial["score"] / 10
    chosen = choose([_read(dict(study.content))], metrics={"a": "agreement"}, tasks=["a"])
    assert chosen is not None
    assert chosen.findings.teachers == {"a": 1.0}
    assert chosen.findings.differences[Row("crd"), "a"].difference == pytest.approx(
        statistics.mean([0.002, 0.003, 0.002])
    )


def test_the_last_checkpoint_instead_of_the_one_given_out() -> None:
    study = make_study("one", SCORES)
    for trial in study.content["trials"]:
        trial["evaluations"]["score"] = [0.9, trial["score"] - 0.1]
    study = _read(dict(study.content))
    given, last = choose([study]), choose([study], last=True)
    assert given is not None
    assert last is not None
    for (row, task), cell in last.findings.cells.items():
        before = given.findings.cells[row, task].scores
        assert cell.scores == {seed: pytest.approx(score - 0.1) for seed, score in before.items()}
    assert "agreement, %" in tables.scores(given)
    assert "greement" not in tables.scores(last)  # it is known of the given-out checkpoint alone


def test_a_correlation_is_no_share_of_the_examples() -> None:
    study = make_study("s", SCORES)
    for trial in study.content["trials"]:
        trial["agreement"] = {"a": 0.9, "b": 0.5}[trial["task"]]
    study.content["tasks"]["b"]["kind"] = "regression"
    read = _read(dict(study.content))
    both, scores = choose([read]), choose([read], tasks=["b"])
    assert both is not None
    assert scores is not None
    assert "| 90.0 |" in tables.scores(both)
    assert "mean over the tasks with classes" in tables.scores(both)
    assert "Pearson's correlation" in tables.scores(scores)
    assert "| 50.0 |" in tables.scores(scores)


def test_seeds_are_counted_by_task_where_they_differ() -> None:
    chosen = choose(
        [make_study("s", {key: values[: 2 if key[1] == "b" else 3] for key, values in SCORES.items()})]
    )
    assert chosen is not None
    assert "| crd (3, 2) |" in tables.scores(chosen)
    assert "over the seeds that have finished every task" in tables.scores(chosen)
    assert "over the seeds that have finished every task" in tables.gains(chosen)


def test_a_table_of_one_seed_speaks_of_no_interval() -> None:
    one = choose([make_study("s", {key: scores[:1] for key, scores in SCORES.items()})])
    several = choose([make_study("s", SCORES)])
    assert one is not None
    assert several is not None
    assert "noise" in tables.gains(one)
    assert "interval" not in tables.gains(one)
    assert "95 % t intervals" in tables.gains(several)
    for words in (evidence_pages._mean, evidence_pages._pairs):
        assert words(one) == "one seed"
        assert "over 3 seeds, 95 % interval" in words(several)


def test_pairs_are_counted_where_the_baseline_has_more_seeds() -> None:
    study = make_study("s", {key: scores[: 3 if key[0] == "kd" else 2] for key, scores in SCORES.items()})
    found = choose([study])
    assert found is not None
    assert evidence_pages._seeds(found) == "2 to 3 seeds"
    assert evidence_pages._pairs(found) == "paired by seed over 2 seeds, 95 % intervals"


def test_when_a_loss_dies() -> None:
    chosen = choose([make_study("s", SCORES)], tasks=["a"])
    assert chosen is not None
    table = tables.negatives(chosen)
    line = next(line for line in table.splitlines() if line.startswith("| crd"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:5] == [
        "crd (3)",
        "4.00",
        "0.20",
        "0.06",
        "40 (3 of 3)",
    ]  # below 0.1 at 20, too, but not for good


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kpt baselines", r"p\.md, line 3: .*did you mean 'kept'"),
        ("kept", "a kind and its studies"),
        ("kept baselines tsks=a", "unknown option 'tsks=a'.*did you mean 'tasks'"),
    ],
)
def test_blocks_that_cannot_be_read_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_block(text, "p.md, line 3")


# ---- from a study's folder -------------------------------------------------------------------------------------------


def test_a_block_without_an_end_loses_nothing(tmp_path: Path) -> None:
    copy_pages(tmp_path)
    page = tmp_path / PAGES[0]
    before = page.read_text(encoding="utf-8").replace("<!-- evidence end -->", "", 1)
    page.write_text(before, encoding="utf-8")
    line = before[: before.index("<!-- evidence: kept")].count("\n") + 1
    with pytest.raises(ConfigError, match=rf"evidence\.md, line {line}: .* has no `<!-- evidence end -->`"):
        draw(RESULTS, tmp_path, pages=PAGES[:1])
    assert page.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("lacking", ["tasks", "arms", "evaluations"])
def test_a_file_of_something_else_is_named(lacking: str, tmp_path: Path) -> None:
    content = make_study("s", SCORES).content
    content = {**content, lacking: {}} if lacking in content else {**content, "trials": [{"task": "a"}]}
    file = tmp_path / "other.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other\.json has no results of a study \(KeyError: "):
        read_study(file)


def test_a_study_becomes_one_small_file(study_settings: Settings, tmp_path: Path) -> None:
    study(**study_settings(tmp_path / "s", seeds=[1]), console=quiet())
    file = tmp_path / "made.json"
    collect("made", [tmp_path / "s"], file)
    first = file.read_bytes()
    content = json.loads(first)
    assert (content["finished"], content["planned"], content["missing"]) == (2, 2, [])
    assert str(tmp_path) not in first.decode()
    trial = next(each for each in content["trials"] if each["recipe"] == "kd")
    log = (tmp_path / "s/trials/good/kd/seed-1/log.jsonl").read_text().splitlines()
    losses = [entry["loss_kd"] for entry in map(json.loads, log) if "loss_kd" in entry]
    assert trial["curves"]["loss_kd"] == pytest.approx(losses, rel=1e-2)
    metrics = json.loads((tmp_path / "s/trials/good/kd/seed-1/metrics.json").read_text())
    assert trial["score"] == pytest.approx(metrics["comparison"]["rows"][1]["metrics"]["accuracy"])
    assert content["teachers"]["good"]["blocks"] == 4
    assert trial["layers"] == 2
    collect("made", [tmp_path / "s"], file)
    assert file.read_bytes() == first
    whole = Outline(("pkd", "kd", "finetune"), ("good",), ("",), (1, 2), "pkd")
    of_the_whole = collect("made", [tmp_path / "s"], tmp_path / "part.json", whole)
    assert (of_the_whole["finished"], of_the_whole["planned"], of_the_whole["baseline"]) == (2, 6, "pkd")
    assert "pkd on good: not finished for seeds 1, 2" in of_the_whole["missing"]
    collect("made", [tmp_path / "s", tmp_path / "s"], file)
    assert file.read_bytes() == first
    with pytest.raises(RunError, match="There is no study in"):
        collect("made", [tmp_path / "nothing"], file)


def test_parts_that_ran_apart_give_the_file_of_the_whole(study_settings: Settings, tmp_path: Path) -> None:
    study(**study_settings(tmp_path / "whole", seeds=[1, 2]), console=quiet())
    for seed in (1, 2):
        study(**study_settings(tmp_path / f"part-{seed}", seeds=[seed]), console=quiet())
    files = {name: tmp_path / f"{name}.json" for name in ("whole", "part-1", "together", "folders")}
    collect("made", [tmp_path / "whole"], files["whole"])
    collect("made", [tmp_path / "part-1"], files["part-1"])
    collect("made", [tmp_path / "part-2", files["part-1"]], files["together"])
    collect("made", [tmp_path / "part-2", tmp_path / "part-1"], files["folders"])
    whole, *others = [without_times(files[name]) for name in ("whole", "together", "folders")]
    assert whole["finished"] == whole["planned"] == 4
    for other in others:
        assert other == whole
    once = collect("made", [tmp_path / "part-1", files["together"]], tmp_path / "once.json")
    assert once["finished"] == 4  # what is collected already counts once
    assert without_times(tmp_path / "once.json") == whole
    again = json.loads(files["part-1"].read_text())
    again["trials"][0]["seconds"] += 1
    files["part-1"].write_text(json.dumps(again))
    with pytest.raises(ConfigError, match="are two trainings of one trial"):
        collect("made", [files["part-1"], files["together"]], files["together"])
    assert without_times(files["together"]) == whole  # nothing is written then
    (tmp_path / "wrong.json").write_text('{"a": 1}')
    with pytest.raises(RunError, match=r"wrong\.json has no results of a study"):
        collect("made", [tmp_path / "wrong.json"], files["together"])


def test_trials_of_another_study_stand_for_ones_of_this(study_settings: Settings, tmp_path: Path) -> None:
    study(**study_settings(tmp_path / "s", seeds=[1, 2]), console=quiet())
    everything = collect("other", [tmp_path / "s"], tmp_path / "other.json")
    cut = Outline(recipes=("kd",), tasks=("good",), students=tuple(everything["students"]), seeds=(2, 3))
    found = collect("made", [tmp_path / "other.json"], tmp_path / "made.json", cut)
    assert [(each["recipe"], each["seed"]) for each in found["trials"]] == [("kd", 2)]
    assert list(found["arms"]) == ["kd"]
    assert (found["finished"], found["planned"]) == (1, 2)
    assert found["missing"] == ["kd on good: not finished for seed 3"]
    (kept,) = [each for each in everything["trials"] if (each["recipe"], each["seed"]) == ("kd", 2)]
    assert found["trials"] == [kept]
    none = Outline(("pkd",), ("good",), cut.students, (1,))
    with pytest.raises(RunError, match="No trial of made is finished"):
        collect("made", [tmp_path / "other.json"], tmp_path / "made.json", none)


def without_times(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text())
    for trial in content["trials"]:
        del trial["seconds"]
    return content


def test_another_teacher_of_a_task_is_said_and_what_lacks_is_counted(
    study_settings: Settings, tmp_path: Path
) -> None:
    study(**study_settings(tmp_path / "s", seeds=[1]), console=quiet())
    file, old = tmp_path / "made.json", tmp_path / "old.json"
    content = collect("made", [tmp_path / "s"], file)
    kept = next(trial for trial in content["trials"] if trial["recipe"] == "kd")
    earlier = {**content, "trials": [{**kept, "seed": 3, "teacher_score": 0.125}], "seeds": [2, 3]}
    old.write_text(json.dumps(earlier), encoding="utf-8")
    found = collect("made", [tmp_path / "s", old], file)
    assert found["teachers"]["good"]["other_scores"] == [0.125]
    assert (found["finished"], found["planned"]) == (3, 6)
    other = next(trial["recipe"] for trial in content["trials"] if trial["recipe"] != "kd")
    assert sorted(found["missing"]) == sorted(
        ["kd on good: not finished for seed 2", f"{other} on good: not finished for seeds 2, 3"]
    )


def test_curves_are_thinned_again_where_the_file_is_large(
    study_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(**study_settings(tmp_path / "s", seeds=[1]), console=quiet())
    file = tmp_path / "made.json"
    before = {trial["recipe"]: trial["curves"] for trial in collect("made", [tmp_path / "s"], file)["trials"]}
    assert len(before["kd"]["step"]) > 2
    monkeypatch.setattr(evidence_collect, "_POINTS", (2,))
    after = {trial["recipe"]: trial["curves"] for trial in collect("made", [file], file)["trials"]}
    size = math.ceil(len(before["kd"]["step"]) / 2)
    assert after["kd"]["step"] == [before["kd"]["step"][size - 1], before["kd"]["step"][-1]]
    assert after["kd"]["loss_kd"][0] == pytest.approx(
        statistics.mean(before["kd"]["loss_kd"][:size]), rel=5e-3
    )


def test_what_a_study_compares() -> None:
    found = outline("plus")
    assert found.recipes == ("kd", "codir-plus", "pkd", "finetune")
    assert (found.students, found.seeds, found.baseline) == (("half",), (1, 2, 3, 4, 5), "kd")
    assert outline("additions").students == ("",)


def test_short_forms_of_a_study_are_read_as_codir_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_studies, "STUDIES", tmp_path)
    (tmp_path / "short.yaml").write_text("recipes: kd,pkd\ntasks: mrpc,cola\nseeds: 1-3\n", encoding="utf-8")
    (tmp_path / "none.yaml").write_text("recipes: [kd]\ntasks: [mrpc]\n", encoding="utf-8")
    found = outline("short")
    assert (found.recipes, found.tasks, found.seeds) == (("kd", "pkd"), ("mrpc", "cola"), (1, 2, 3))
    assert outline("none").seeds == (1, 2, 3, 4, 5)
    part = part_of(filled("short", {}), parts(["recipes=pkd", "seeds=2"]))
    assert (list(part["recipes"]), list(part["tasks"]), part["seeds"]) == (["pkd"], ["mrpc", "cola"], [2])


def test_a_part_of_a_study() -> None:
    whole = filled("ablation", {"data_dir": "d", "teachers": "t"})
    part = part_of(whole, parts(["recipes=no-kd,bank-of-500", "tasks=cola", "seeds=2"]))
    assert list(part["recipes"]) == ["no-kd", "bank-of-500"]
    assert list(part["tasks"]) == list(part["teachers"]) == ["cola"]
    assert part["seeds"] == [2]
    assert "baseline" not in part  # codir-plus is in another part
    assert part["students"] == whole["students"]
    assert part_of(whole, {}) == spelt_out(whole)
    with pytest.raises(ConfigError, match=r"recipes=no-kdd: the study has .*did you mean 'no-kd'"):
        part_of(whole, parts(["recipes=no-kdd"]))
    with pytest.raises(ConfigError, match=r"seeds is given twice; --part seeds=1,2 has both"):
        parts(["seeds=1", "seeds=2"])
    with pytest.raises(
        ConfigError, match=r"--part seed=2: expected KEY=NAME,NAME with one of recipes, tasks"
    ):
        parts(["seed=2"])


def test_a_placeholder_without_a_value_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "baselines", "--output", "x", "--data-dir", "."]) == 1
    assert "$teachers/mrpc/teacher needs --teachers" in capsys.readouterr().err
    assert main(["run", "baseline", "--output", "x"]) == 1
    assert "did you mean 'baselines'" in capsys.readouterr().err
