"""`codir recommend` as a whole, on a tiny teacher and a tiny file of evidence."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_evidence import entries
from small_world import World, quiet
from typer.testing import CliRunner

from codir.cli.main import app
from codir.config.data_config import DataConfig
from codir.errors import ConfigError
from codir.studies import recommend_choice as module
from codir.studies.recommend_choice import recommend
from codir.studies.recommend_cost import StepCost, hours, measure_step, show_hours
from codir.studies.recommend_ranking import Ranking
from codir.studies.recommend_result import Recommendation, concluded
from codir.studies.recommend_student import Wish
from codir.studies.recommend_trial import plan_trial


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps({"entries": entries(kd=None, pkd=0.5, distilbert=-9.0), "versions": {}}))
    return path


@pytest.fixture
def ask(world: World, evidence: Path) -> Callable[..., Recommendation]:
    def make(**settings: Any) -> Recommendation:
        values: dict[str, Any] = {
            "evidence": evidence,
            "batch_size": 8,
            "precision": "fp32",
            "console": quiet(),
        }
        return recommend(str(world.teacher), DataConfig(**world.data()), **{**values, **settings})

    return make


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a tenth of a second, the teacher a hundredth of one for an example."""
    monkeypatch.setattr(
        module, "measure_step", lambda config: StepCost(config.recipe, 0.1, 0.01, config.training.batch_size)
    )


def test_a_recommendation(ask: Callable[..., Recommendation], tmp_path: Path, world: World) -> None:
    console = quiet()
    found = ask(json_file=tmp_path / "r.json", console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert found.config.recipe == "pkd"
    assert (found.config.student.layers, found.config.training.epochs) == (2, 3)
    assert found.config.training.learning_rate == 3e-3
    assert [each.recipe for each in found.candidates] == ["pkd", "kd"]
    assert all(each.cost.step > 0 and each.cost.teacher > 0 for each in found.candidates)
    assert "paired gain over `kd` +0.5" in found.why["recipe"]
    for part in ("Students", "What the evidence nearest", "Proposed", found.command, "-> pkd"):
        assert part in shown
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert content["recipe"] == "pkd"
    assert content["command"] == found.command
    assert content["student"]["layers"] == 2
    assert content["hours"]["total"] > 0


@pytest.mark.usefixtures("fast")
def test_each_candidate_has_the_budget_that_was_measured_with_it(
    ask: Callable[..., Recommendation], evidence: Path
) -> None:
    longer = [{**each, "kept": 95.0, "learning_rate": 6e-3} for each in entries(epochs=10, kd=None, pkd=0.0)]
    measured = [*entries(kd=None, pkd=0.0, distilbert=0.1, minilm=-0.1, sid=-0.2), *longer]
    evidence.write_text(json.dumps({"entries": measured, "versions": {}}))
    console = quiet()
    found = ask(console=console)
    # distilbert has the largest gain, within noise, and was measured at three epochs alone
    assert [(each.recipe, each.config.training.epochs, each.rates) for each in found.candidates] == [
        ("kd", 10, (6e-3, 3e-3)),
        ("pkd", 10, (6e-3, 3e-3)),
        ("distilbert", 3, (3e-3, 6e-3)),
    ]
    assert "--trial also tries 0.003, half of it: no other was tried" in found.why["budget"]
    assert found.why["recipe"].endswith(
        "The evidence cannot tell it from `pkd` (+0.0 [-0.5, +0.5]), `distilbert` (+0.1 [-0.6, +0.8]): --trial lets "
        "your own data say."
    )
    assert [each.hours.steps for each in found.candidates] == [120, 120, 36]  # of 96 examples, 8 at a time
    shown = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    rows = {line[1] if line[0] == "->" else line[0]: line for line in shown if "a," in line}
    assert rows["kd"][:7] == ["->", "kd", "a,", "b", "5", "95.0", "10"]
    assert rows["distilbert"][:6] == ["distilbert", "a,", "b", "5", "90.1", "3"]
    # what a time is too short for is said of each by itself
    short = ask(most_hours=found.candidates[2].hours.total * 1.01)
    assert [each.config.training.epochs for each in short.candidates] == [6, 6, 3]
    assert [each.config.baseline for each in short.candidates] == [False, False, True]


@pytest.mark.usefixtures("fast")
def test_budgets_of_the_other_kind_of_labels_are_named(world: World, evidence: Path) -> None:
    scores = [
        {**each, "kind": "regression", "task": "stsb", "learning_rate": 1e-3}
        for each in entries(epochs=7, kd=None, pkd=0.5)
    ]
    evidence.write_text(json.dumps({"entries": [*entries(kd=None, pkd=0.5), *scores], "versions": {}}))
    found = recommend(
        str(world.regression),
        DataConfig(**world.data(label="score")),
        evidence=evidence,
        batch_size=8,
        precision="fp32",
        console=quiet(),
    )
    training = found.config.training
    assert (training.epochs, training.learning_rate) == (7, 1e-3)
    assert "(stsb). Not compared, since on other tasks: 3 epochs at 0.003 (a, b)." in found.why["budget"]
    assert "no other budget" not in found.why["budget"]


@pytest.mark.usefixtures("fast")
def test_the_command_is_the_configuration(
    ask: Callable[..., Recommendation], monkeypatch: pytest.MonkeyPatch
) -> None:
    from codir.runs import distill

    found = ask(output="runs/mine")
    given: list[Any] = []
    monkeypatch.setattr(distill, "distill", given.append)
    done = CliRunner().invoke(app, shlex.split(found.command)[1:])
    assert done.exit_code == 0, done.output
    assert given == [found.config]


@pytest.mark.usefixtures("fast")
def test_unlabelled_texts_cost_and_come_along(world: World, evidence: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.csv"
    more.write_text(
        "review\n" + "".join(f"another text {number}\n" for number in range(30)), encoding="utf-8"
    )

    def ask(**data: Any) -> Recommendation:
        return recommend(
            str(world.teacher),
            DataConfig(**world.data(**data)),
            evidence=evidence,
            batch_size=8,
            precision="fp32",
            console=quiet(),
        )

    without, found = ask(), ask(unlabeled=[more], limit_unlabeled=24)
    assert (without.unlabeled, found.unlabeled, found.examples) == (0, 24, without.examples)
    assert found.best.hours.steps == 3 * math.ceil((without.examples + 24) / 8)
    for flag in (f"--unlabeled {more}", "--limit-unlabeled 24"):
        assert flag in found.command
    trial = plan_trial(found, examples=found.examples // 2)
    assert trial.data["limit_unlabeled"] == 12
    assert trial.hours > plan_trial(without, examples=found.examples // 2).hours
    assert measure_step(found.config, steps=3).teacher > 0


@pytest.mark.usefixtures("fast")
def test_hours_leave_out_the_baseline_then_epochs(ask: Callable[..., Recommendation], world: World) -> None:
    whole = ask()
    cost = whole.best.hours
    assert whole.config.baseline
    assert cost.baseline > 0
    tight = ask(most_hours=cost.total - cost.baseline / 2)
    assert not tight.config.baseline
    assert tight.config.training.epochs == 3
    assert "--no-baseline" in tight.command
    short = ask(most_hours=cost.teacher + cost.student * 0.7)
    assert short.config.training.epochs == 2
    assert "only 2 of 3 epochs fit" in short.why["cost"]
    none = ask(most_hours=cost.teacher / 100)
    assert "Not even one epoch" in none.why["cost"]


@pytest.mark.usefixtures("fast")
def test_after_a_trial_everything_is_the_winner_s(ask: Callable[..., Recommendation]) -> None:
    found = ask()
    best, winner = found.candidates
    training = winner.config.training.model_copy(update={"learning_rate": 1e-3})
    config = winner.config.model_copy(update={"training": training})
    content = concluded(json.loads(json.dumps(found.to_json(), default=str)), config, "`kd` at 0.001 wins.")
    for name, value in winner.to_json().items():
        if name not in ("learning_rate", "command", "why"):
            assert content[name] == value
    assert content["why"]["recipe"].startswith(
        "`kd` at 0.001 wins. What the evidence says: on 2 tasks (a, b)"
    )
    assert "`kd` kept" in content["why"]["recipe"]
    assert content["why"]["recipe"].endswith("compared with.")
    assert content["why"]["budget"].endswith(" The trial chose 0.001 instead of 0.003.")
    assert content["why"]["student"] == found.why["student"]
    assert content["learning_rate"] == content["settings"]["training"]["learning_rate"] == 1e-3
    assert "--recipe kd" in content["command"]
    assert best.recipe not in content["command"]


def test_hours_add_up() -> None:
    cost = StepCost("kd", step=2.0, teacher=0.5, batch=10)
    # 30 steps of 2 s; 3 evaluations of 20 examples at a third of 0.2 s each; the teacher for 120 examples
    found = hours(cost, 100, 3, 20, baseline=cost)
    assert found.steps == 30
    assert found.student * 3600 == pytest.approx(30 * 2 + 3 * 20 * 0.2 / 3)
    assert found.baseline == found.student
    assert found.teacher * 3600 == pytest.approx(60)
    assert found.total == pytest.approx(found.teacher + 2 * found.student)
    assert [show_hours(each) for each in (2.46, 0.5, 0.01)] == ["2.5 h", "30 min", "36 s"]


def test_a_measured_step_leaves_the_teacher_out(world: World, tmp_path: Path) -> None:
    from codir.config.loading import load_distill

    settings = world.settings(tmp_path / "run")
    config = load_distill(recipe="kd", flags={key: (key, value) for key, value in settings.items()})
    found = measure_step(config, steps=4)
    assert found.step > 0
    assert found.teacher > 0
    assert found.batch == 8
    assert 0 < found.share <= 1
    assert not (tmp_path / "run").exists()
    plain = measure_step(config.model_copy(update={"objectives": {"task": {}}}), steps=3)
    assert plain.teacher == 0


@pytest.mark.usefixtures("fast")
def test_a_recipe_that_cannot_be_used_is_left_out(
    ask: Callable[..., Recommendation], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(config: Any) -> StepCost:
        if config.recipe == "pkd":
            raise ConfigError("pkd needs something else.")
        return StepCost(config.recipe, 0.1, 0.01, 8)

    monkeypatch.setattr(module, "measure_step", measured)
    found = ask()
    assert found.config.recipe == "kd"
    assert found.left_out == {"pkd": "pkd needs something else."}
    assert "cannot tell" not in found.why["recipe"]  # nothing is left that a trial could take
    with pytest.raises(ConfigError, match=r"None of the recipes.*\n.*pkd needs"):
        ask(recipes=["pkd"])


@pytest.mark.usefixtures("fast")
def test_what_was_named_is_tried_although_the_evidence_speaks_less_for_it(
    ask: Callable[..., Recommendation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranking, "equals", lambda ranking: [ranking.of("pkd")])
    assert [each.recipe for each in ask().candidates] == ["pkd"]
    found = ask(recipes=["kd", "pkd"])
    assert [each.recipe for each in found.candidates] == ["pkd", "kd"]
    assert "It speaks less for `kd`; --trial tries what was named all the same." in found.why["recipe"]
    assert "cannot tell" not in found.why["recipe"]


def test_scores_and_a_narrower_student(world: World, evidence: Path) -> None:
    found = recommend(
        str(world.regression),
        DataConfig(**world.data(label="score")),
        evidence=evidence,
        width=16,
        recipes=["kd"],
        batch_size=8,
        precision="fp32",
        console=quiet(),
    )
    assert any("no evidence on regression" in line for line in found.caveats)
    assert any("16 wide" in line for line in found.caveats)
    assert (found.config.student.layers, found.config.student.width) == (2, 16)
    assert "--student-width 16" in found.command
    assert found.choice.chosen.width == 16


def test_other_work_on_the_machine_is_said(
    ask: Callable[..., Recommendation], monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = StepCost("pkd", 0.1, 0.01, 8, share=0.4)
    monkeypatch.setattr(module, "measure_step", lambda config: cost)
    assert any("got 40% of its threads" in line for line in ask().caveats)


@pytest.mark.parametrize(("request_size", "texts"), [(1, 48), (15, 60), (100, 96)])
def test_texts_for_whole_requests(
    ask: Callable[..., Recommendation], monkeypatch: pytest.MonkeyPatch, request_size: int, texts: int
) -> None:
    given: list[int] = []

    def noted(teacher: Any, tokenizer: Any, texts: list[str], *args: Any, **settings: Any) -> None:
        given.append(len(texts))
        raise ConfigError("that is enough")

    monkeypatch.setattr(module, "choose_student", noted)
    with pytest.raises(ConfigError, match="that is enough"):
        ask(request=request_size)
    assert given == [texts]


@pytest.mark.usefixtures("fast")
def test_bad_input(ask: Callable[..., Recommendation]) -> None:
    with pytest.raises(ConfigError, match="--speedup 0"):
        ask(wish=Wish(speedup=0))
    with pytest.raises(ConfigError, match=r"'pdk'.*did you mean 'pkd'"):
        ask(recipes=["pdk"])


def test_the_command_line(world: World, evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def noted(*args: Any, **settings: Any) -> None:
        given.append((args, settings))

    monkeypatch.setattr(module, "recommend", noted)
    files = ["--train", str(world.train), "--text", "review", "--label", "stars", "--unlabeled", "more.txt"]
    more = ["--speedup", "2", "--hours", "3", "--recipes", "kd,pkd", "--evidence", str(evidence)]
    done = CliRunner().invoke(app, ["recommend", "runs/t", *files, *more])
    assert done.exit_code == 0, done.output
    (((teacher, data), settings),) = given
    assert teacher == "runs/t"
    assert (data.train, data.holdout, data.unlabeled) == (str(world.train), None, [Path("more.txt")])
    assert settings["wish"] == Wish(speedup=2.0)
    assert settings["recipes"] == ["kd", "pkd"]
    assert settings["most_hours"] == 3.0
    assert CliRunner().invoke(app, ["recommend", "runs/t"]).exit_code == 2
