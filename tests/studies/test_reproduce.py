"""The paper's tables as data, what reproducing them comes to, and one made from start to end with tiny models."""

import csv
import io
import random
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from codir.errors import ConfigError, DataError
from codir.studies.paper import reproduce as workflow
from codir.studies.paper.reproduce import Wanted, all_trials, plan
from codir.studies.paper.tables import TABLES, load_table, side_by_side
from codir.studies.recipes import resolve_recipes

TEXT = "the a this that good bad great awful film movie book song was is cat dog man woman"
WORDS = TEXT.split()


def sentence(generator):
    return " ".join(generator.choices(WORDS, k=generator.randint(3, 8)))


@pytest.fixture(scope="module")
def glue(tmp_path_factory):
    """CoLA and MRPC in GLUE's format, 32 and 16 made-up rows."""
    generator = random.Random(0)
    folder = tmp_path_factory.mktemp("glue")
    for task, header in (("CoLA", None), ("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String")):
        (folder / task).mkdir()
        for split, count in (("train", 32), ("dev", 16)):
            rows = [header] if header else []
            for number in range(count):
                label = number % 2
                if header:
                    rows.append(f"{label}\t1\t2\t{sentence(generator)}\t{sentence(generator)}")
                else:
                    rows.append(f"gj04\t{label}\t\t{sentence(generator)}")
            (folder / task / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tiny_classifier, tiny_tokenizer):
    """A tiny encoder without heads."""
    folder = tmp_path_factory.mktemp("encoder")
    tiny_classifier(layers=2, seed=1).base_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Text to pre-train on."""
    generator = random.Random(1)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(". ".join(sentence(generator) for _ in range(4)) for _ in range(60)) + "\n")
    return str(path)


@pytest.fixture
def wanted(glue, encoder, tmp_path):
    def make(table, scale="small", **changes):
        values = {"model": encoder, "output": tmp_path / table, "data_dir": glue, **changes}
        return Wanted(table, scale, **values)

    return make


# ---- the data ----------------------------------------------------------------------------------------------------


def figures(table, row):
    return next(each.paper for each in load_table(table).rows if each.name == row)


def test_spot_checks_of_the_papers_figures():
    assert figures("table1", "CoDIR-Fine") == [53.6, 93.6, 89.4, 89.1, 83.6, 82.8, 90.4, 65.6, 81.0]
    assert figures("table1", "SID")[:4] == [41.4, None, 83.8, 89.1]
    assert figures("table2", "L_MLM, CoDIR-Fine") == [59.3, 92.7, 90.0, 90.7, 70.8, 80.7]
    assert figures("table3", "CoDIR-Pre") == [6, 82.7, 39.0, 1.25, 2.08]
    assert figures("table4", "CoDIR-Fine ([CLS])")[-1] == 82.5
    assert figures("table5", "Standard Deviation") == [1.46, 0.28, 1.66, 0.06, 0.43, 0.18, 1.41]


def test_every_row_of_figures_stands_in_the_papers_text(shared_data):
    """Each row's figures follow one another in the paper, marks and units aside."""
    (path,) = (shared_data.parent / "paper").glob("001_*.txt")
    lines = [
        [float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", re.sub(r"[*×M$^⋆]", " ", line))]
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    text = [" ".join(f"{number:g}" for number in line) for line in lines]
    for name in TABLES:
        for row in load_table(name).rows:
            printed = " ".join(f"{figure:g}" for figure in row.paper if figure is not None)
            assert any(printed in line for line in text), (name, row.name)


def test_overrides_are_checked_with_the_nearest_name():
    assert load_table("table4", "small", ["study.seeds=1-3"]).scales["small"].study["seeds"] == "1-3"
    with pytest.raises(ConfigError, match="did you mean 'study'"):
        load_table("table4", "small", ["studdy.seeds=1"])
    with pytest.raises(ConfigError, match="did you mean 'table4'"):
        load_table("tabel4")


# ---- plans -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize("table", ["table1", "table2", "table4", "table5"])
def test_every_table_plans_with_and_without_a_corpus(table, scale, wanted, text):
    alone = plan(wanted(table, scale))
    assert alone.tasks == ["cola", "mrpc"]
    assert not alone.pretraining
    assert list(alone.studies) == ["mlm-pre"]
    assert any("cut out of each task's teacher" in note for note in alone.notes)
    made = plan(wanted(table, scale, corpus=(text,)))
    names = {row.student for row in made.table.rows if row.student}
    if made.scale.pretraining:
        assert set(made.studies) == names
        assert list(made.pretraining)[-1] in names
        for stage in made.pretraining.values():
            assert stage.corpus == made.corpus_folder
    assert len(made.describe()) == bool(made.corpus) + len(made.pretraining) + len(made.studies)
    assert all(all_trials(study) for study in made.studies.values())


def test_missing_tasks_are_left_out_with_a_line(wanted):
    assert "rte: not in" in "\n".join(plan(wanted("table2", "paper")).notes)
    with pytest.raises(DataError, match="rte"):
        plan(wanted("table2", tasks=["rte"]))
    with pytest.raises(ConfigError, match="did you mean 'cola'"):
        plan(wanted("table2", tasks=["colaa"]))
    with pytest.raises(DataError, match="does not exist"):
        plan(wanted("table2", data_dir=Path("/nowhere")))


def test_table2_trains_what_it_needs_and_no_more(wanted, text):
    made = plan(wanted("table2", corpus=(text,)))
    # the encoder has no masked-LM head
    assert list(made.pretraining) == ["head", "stage1", "mlm-pre", "kd-pre", "codir-pre"]
    assert made.pretraining["kd-pre"].student.model == str(made.pretraining["stage1"].output)
    assert made.pretraining["kd-pre"].teacher == str(made.pretraining["head"].output)
    assert made.pretraining["stage1"].student.init == "spread"
    assert {name: list(study.recipes) for name, study in made.studies.items()} == {
        "mlm-pre": ["finetune", "kd", "codir-fine"],
        "kd-pre": ["finetune"],
        "codir-pre": ["finetune"],
    }
    # one teacher a task for all of them
    first = made.studies["mlm-pre"].output / "teachers"
    assert made.studies["kd-pre"].teachers == {task: str(first / task) for task in ("cola", "mrpc")}
    assert made.studies["kd-pre"].student.model == str(made.pretraining["kd-pre"].output)


def test_the_papers_scale_is_the_papers(wanted, text, tiny_model_dir):
    made = plan(wanted("table2", "paper", corpus=(text,)))
    stage1, codir = made.pretraining["stage1"], made.pretraining["codir-pre"]
    training = stage1.training
    assert (training.max_steps, training.global_batch_size, training.learning_rate) == (35000, 8192, 7e-4)
    assert (codir.training.max_steps, codir.training.learning_rate) == (10000, 1e-4)
    assert stage1.student.init == "random"
    study = made.studies["mlm-pre"]
    assert study.strategy == "greedy"
    # 4 of fine-tuning, 9 of the contrastive term, 3 recipes x 5 seeds, on each task
    assert len(all_trials(study)) == 2 * (4 + 9 + 15)
    assert plan(wanted("table5", "paper")).studies["mlm-pre"].seeds == [1, 2, 3, 4, 5, 6, 7, 8]


def test_table4_varies_what_it_says(wanted):
    study = plan(wanted("table4")).studies["mlm-pre"]
    settings = {name: choice.settings for name, choice in study.recipes.items()}
    assert settings["codir-cls"]["objectives.crd.pooling"] == "cls"
    assert {each["objectives.crd.sharing"] for each in settings.values()} == {"independent"}, "the table is about K"
    assert {settings[f"codir-{k}"]["objectives.crd.k"] for k in (100, 500, 1000)} == {100, 500, 1000}
    assert study.baseline == "codir-1000"
    searched = plan(wanted("table4", "paper")).studies["mlm-pre"]
    assert all("objectives.crd.k" not in searched.choices_of(name) for name in searched.recipes)


@pytest.mark.parametrize("table", ["table1", "table2", "table4", "table5"])
def test_the_papers_scale_draws_and_batches_as_the_paper(wanted, table):
    """K negatives of its own for each example, texts in any order, no clipping, in every trial that is planned."""
    drawn = 0
    for study in plan(wanted(table, "paper")).studies.values():
        recipes = resolve_recipes(study)
        for trial in all_trials(study):
            recipe = recipes[trial.recipe]
            assert recipe.training["train_sampling_strategy"] == "random"
            assert recipe.training["max_grad_norm"] == 0
            assert study.teacher_training.train_sampling_strategy == "random"
            assert study.teacher_training.max_grad_norm == 0
            if "crd" in recipe.objectives:
                drawn += 1
                assert recipe.objectives["crd"]["sharing"] == "independent"
    assert drawn


def test_settings_by_recipe_go_to_the_studies_that_have_it(wanted):
    few = "study.settings={codir-fine: {objectives.crd.k: 8}}"
    made = plan(wanted("table2", pretrained={"kd-pre": "x"}, overrides=(few,)))
    assert made.studies["mlm-pre"].settings == {"codir-fine": {"objectives.crd.k": 8}}
    assert made.studies["kd-pre"].settings == {}
    with pytest.raises(ConfigError, match="did you mean 'codir-fine'"):
        plan(wanted("table2", overrides=("study.settings={codir-fin: {objectives.crd.k: 8}}",)))


def test_given_students_and_teachers_are_used(wanted):
    made = plan(wanted("table2", pretrained={"kd-pre": "runs/kd-pre"}, teachers={"cola": "runs/cola"}, seeds="4-5"))
    assert made.studies["kd-pre"].student.model == "runs/kd-pre"
    assert made.studies["mlm-pre"].teachers == {"cola": "runs/cola"}
    assert made.studies["kd-pre"].teachers["cola"] == "runs/cola"
    assert made.studies["mlm-pre"].seeds == [4, 5]
    assert any("CoDIR-Pre, standard: needs" in line for line in made.notes)
    with pytest.raises(ConfigError, match="did you mean 'kd-pre'"):
        plan(wanted("table2", pretrained={"kdpre": "x"}))


def test_plan_runs_nothing(wanted, text):
    console = Console(file=io.StringIO(), width=200)
    asked = wanted("table2", corpus=(text,))
    workflow.show_plan(asked, console)
    assert "study of codir-pre: 4 trials" in console.file.getvalue()
    assert not asked.output.exists()


# ---- the table ---------------------------------------------------------------------------------------------------


def test_ours_stand_beside_the_papers(wanted):
    table = load_table("table2")
    made = ["L_MLM, standard", "L_MLM, KD", "L_MLM, CoDIR-Fine"]
    scores = {
        (row, column): {seed: value + seed / 100 for seed in (1, 3)}
        for row, value in zip(made[:2], (0.5, 0.6), strict=True)
        for column in ("CoLA", "MRPC")
    }
    shown = side_by_side(table, ["cola", "mrpc"], made, scores)
    assert [column.heading for column in shown.columns][-2:] == ["Ave.", "average of CoLA, MRPC"]
    rows = shown.cells()
    average = f"{(55.4 + 88.0) / 2:.1f}"
    assert rows[0] == ["L_MLM, standard", "paper", "55.4", "92.0", "88.0", "90.2", "67.1", "78.5", average]
    assert rows[1] == ["", "ours", "52.0 ±1.4", "-", "52.0 ±1.4", "-", "-", "-", "52.0 ±1.4"]
    # a row that was planned and has no results yet has dashes, one that is left out has no line
    assert rows[5][1:3] == ["ours", "-"]
    assert [row[1] for row in rows[6:]] == ["paper", "paper"]


def test_table5_shows_its_own_statistics():
    table = load_table("table5")
    values = dict(enumerate([0.50, 0.52, 0.60, 0.51]))
    names = [row.name for row in table.rows]
    shown = side_by_side(table, ["cola"], names, {(name, "CoLA"): values for name in names})
    assert [row[2] for row in shown.cells() if row[1] == "ours"] == ["51.5", "60.0", "4.57"]


# ---- from start to end -------------------------------------------------------------------------------------------

TINY = (
    *(
        "study.training.num_train_epochs=1",
        "study.teacher_training.num_train_epochs=1",
        "study.training.per_device_train_batch_size=16",
    ),
    *("study.training.precision=fp32", "study.teacher_training.precision=fp32"),
    "study.settings={codir-fine: {objectives.crd.k: 8}}",
)


def test_table5_from_start_to_end_and_again(wanted, trained):
    asked = wanted("table5", tasks=["cola"], seeds="1-2", overrides=TINY, workers=0)
    console = Console(file=io.StringIO(), width=200)
    workflow.reproduce(asked, console)
    assert len(trained) == 2
    rows = list(csv.reader(io.StringIO((asked.output / "table5.csv").read_text())))
    assert rows[1][:2] == ["Median", "paper"]
    assert rows[2][1] == "ours"
    assert float(rows[2][2]) <= 100
    text = (asked.output / "table5.md").read_text()
    assert "Scaled down" in text
    assert "Changed by \\-\\-set" in text or "Changed by --set" in text
    assert "\\begin{tabular}" in (asked.output / "table5.tex").read_text()
    workflow.reproduce(asked, console)  # goes on, and finds everything finished
    assert len(trained) == 2


@pytest.mark.slow
def test_table2_from_start_to_end_with_its_pretraining(wanted, text, trained):
    steps = "{max_steps: 2, global_batch_size: 8, per_device_train_batch_size: 8, precision: fp32}"
    stages = ("head", "stage1", "mlm-pre", "kd-pre", "codir-pre")
    overrides = (*TINY, "block=16", *(f"pretraining.{stage}.training={steps}" for stage in stages))
    asked = wanted("table2", tasks=["mrpc"], seeds="1", corpus=(text,), overrides=overrides, workers=0)
    made = workflow.reproduce(asked, Console(file=io.StringIO(), width=200))
    ours = [row for row in made.made.cells() if row[1] == "ours"]
    assert len(ours) == 5
    assert all(re.fullmatch(r"\d+\.\d", row[4]) for row in ours)


def test_table3_measures_the_papers_models_and_ours(wanted, monkeypatch):
    seen = {}

    def quick(models, batches, rounds, device):
        """The paper's models are too large for a test; what they are made of is counted all the same."""
        seen.update({name: [tuple(each["input_ids"].shape) for each in some] for name, some in batches.items()})
        runs = {"BERT-base": (2.0, 4.0, 12.0), "its half": (1.0, 2.0, 6.0)}
        return {name: np.array([[128 * each / 1000] for each in runs.get(name, (1.0,) * 3)]) for name in models}

    build = workflow.AutoModelForSequenceClassification.from_config

    def without_weights(config):
        with torch.device("meta"):
            return build(config)

    monkeypatch.setattr(workflow.AutoModelForSequenceClassification, "from_config", without_weights)
    monkeypatch.setattr(workflow, "time_in_turns", quick)
    made = plan(wanted("table3"))
    rows = workflow.speed_table(made).cells()
    assert set(map(tuple, seen.values())) == {((32, 128),) * 4}
    counts = {above[0]: (ours[2], ours[3], ours[4]) for above, ours in pairwise(rows) if above[0]}
    assert counts["BERT-base"] == ("12", "109.5M", "23.8M")
    assert counts["DistilBERT"] == ("6", "67.0M", "23.8M")
    assert counts["RoBERTa-base"][0::2] == ("12", "39.0M")
    assert counts["CoDIR-Pre"][0::2] == ("6", "39.0M")
    assert rows[-2][2] == "2"
    assert rows[-1][5].startswith("3.00 "), "the mean of the runs, as in the paper, not the median of 2"
    assert rows[-1][6] == "2.00x", "6 / 3: means against means"
    assert rows[-1][2] == "1"
    assert "Measured on cpu" in made.notes[0]
