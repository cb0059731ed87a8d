"""The model card is built from the run's folder: the Hub can read it, and nothing the user named breaks it."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from codir.errors import CodirError
from codir.files import write_json
from codir.measure.comparison import Comparison, ModelRow
from codir.measure.masked_scores import MaskedRow, MaskedTable
from codir.measure.timing import Timing
from codir.record.card import hub_ancestor, run_card, started_from
from codir.record.environment import environment, git_state, short_command, short_paths

MADE_BY = {
    "command": "codir distill --teacher roberta-base",
    "seed": 42,
    "precision": "fp32",
    "versions": {"python": "3.11.2", "torch": "2.13.0", "absent": None},
    "machine": {"cpu": "A CPU", "cores": 2, "gpus": []},
    "git": {"commit": "0" * 40, "dirty": True},
}
TIMING = Timing(5.0, 0.1, 2.0, 1.9, 2.1, (5.0, 5.0, 5.1), 256, 32, 128, False, "cpu", "float32", 2)
ROWS = [
    ModelRow("teacher", {"accuracy": 0.9}, "accuracy", timing=TIMING),
    ModelRow(
        "CoDIR student",
        {"accuracy": 0.88, "macro_f1": 0.87, "extra/accuracy": 0.5},
        "accuracy",
        timing=TIMING,
    ),
]
DISTILL = {
    "command": "distill",
    "recipe": "codir-fine",
    "teacher": "textattack/roberta-base-SST-2",
    "data": {"task": "sst2", "data_dir": None, "max_length": 128},
    "student": {"layers": 6},
    "objectives": {"task": {}, "kd": {}, "crd": {"k": 4}},
}
RESULTS = {
    "task": "sst2",
    "main_metric": "accuracy",
    "comparison": Comparison(ROWS).to_json(),
    "train_examples": 67349,
    "validation_examples": {"validation": 872},
    "notes": ["Of 10 rows 9 are used."],
}
FINETUNE = {"command": "finetune", "model": "roberta-base", "data": {"train": "my.csv", "text_pair": None}}
TUNED = {
    "task": "my",
    "main_metric": "accuracy",
    "metrics": {"accuracy": 0.5},
    "train_examples": 8,
    "validation_examples": {"validation": 4},
}


@pytest.fixture
def run(tiny_model_dir: Callable[..., Path]) -> Callable[..., Path]:
    """Returns a factory of folders with the files of a finished run."""

    def make(settings: Any, results: Any, made_by: Any = MADE_BY, **model: Any) -> Path:
        folder = tiny_model_dir(layers=1, **model)
        (folder / "codir.yaml").write_text(yaml.safe_dump(settings))
        write_json(folder / "metrics.json", results)
        write_json(folder / "environment.json", made_by)
        return folder

    return make


def read(folder: Path) -> tuple[dict[str, Any], str]:
    """Returns front matter and text of a run's card, after the Hub's own parser has read them."""
    text = run_card(folder)
    ModelCard(text, ignore_metadata_errors=False)
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    code = body.partition("```python\n")[2].partition("\n```")[0]
    compile(code, "card", "exec")
    return yaml.safe_load(front), body


def test_what_the_hub_and_the_reader_need(run: Callable[..., Path]) -> None:
    folder = run(DISTILL, RESULTS)
    front, body = read(folder)
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", "text-classification")
    assert front["tags"] == ["codir", "knowledge-distillation"]
    assert (front["base_model"], front["base_model_relation"]) == (DISTILL["teacher"], "finetune")
    assert front["datasets"] == ["nyu-mll/glue"]
    assert not {"license", "language"} & front.keys()
    found = cast(Any, ModelCard(run_card(folder)).data).eval_results
    assert [(r.metric_type, r.metric_value, r.dataset_type, r.dataset_config, r.dataset_split) for r in found] == [
        ("accuracy", 0.88, "nyu-mll/glue", "sst2", "validation"),
        ("f1", 0.87, "nyu-mll/glue", "sst2", "validation"),
        ("accuracy", 0.5, "nyu-mll/glue", "sst2", "extra"),
    ]
    for piece in (
        f"# {folder.name}",
        "contrastive distillation on intermediate representations, recipe `codir-fine`",
        "| CoDIR student | 0.8800 | 97.8% |",
        "keeps 97.8% of the teacher's accuracy",
        "cannot say whether distilling helped",
        "(cpu, 2 threads, float32, batches of 32, at most 128 tokens, 256 sequences, median of 3 rounds)",
        "| extra/accuracy | 0.5000 |\n\n## Use",
        r"| macro\_f1 | 0.8700 |",
        f"path = {folder.name!r}  # this folder",
        "max_length=128",
        "model.config.id2label",
        "- source: GLUE (nyu-mll/glue/sst2 on the Hub)",
        "- classes: negative, positive",
        "- training: 67,349 examples\n- validation: 872 examples\n- texts are cut after 128 tokens\n- Of 10 rows 9 are",
        "```console\ncodir distill --teacher roberta-base\n```",
        "```yaml\ncommand: distill",
        "- torch 2.13.0\n- machine: A CPU, 2 cores, no GPU\n- git: 000",
        "with local changes\n- seed: 42",
        "those of one seed",
        "The method is that of the paper:",
        "@inproceedings{sun2020codir",
    ):
        assert piece in body, piece
    assert "absent" not in body


def test_a_fine_tuned_model(run: Callable[..., Path]) -> None:
    front, body = read(run(FINETUNE, TUNED))
    assert (front["tags"], front["base_model"]) == (["codir"], "roberta-base")
    assert "A text classifier for my, fine-tuned from `roberta-base` with codir." in body
    assert "codir implements the method of the paper:" in body
    assert "student takes over" not in body
    assert "- source: my.csv" in body


def test_regression_on_pairs_of_ones_own(run: Callable[..., Path]) -> None:
    results = {**TUNED, "task": "my data: v|2", "metrics": {"pearson": 0.5, "mse": float("nan")}}
    settings = {**FINETUNE, "data": {"train": "my.csv", "text_pair": "b"}}
    front, body = read(run(settings, results, {}, regression=True))
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "my-data-v-2"
    assert front["metrics"] == ["pearsonr"]
    assert "| mse | - |" in body
    assert "tokenizer(text, second_text, truncation=True" in body
    assert "print(logits.item())" in body
    assert "(regression)" in body
    assert "classes:" not in body


def test_a_pretrained_model(run: Callable[..., Path]) -> None:
    table = MaskedTable([MaskedRow("student", 2, 32, 10, 5, 2.0, 0.4, 0.5)], 100, 4)
    corpus = {"path": "/home/ann/corpora/wiki", "key": "k", "blocks": 8000, "block": 16}
    settings = {
        "command": "pretrain",
        "recipe": "codir-pre",
        "teacher": "bert-base-uncased",
        "objectives": {"mlm": {}},
    }
    front, body = read(run(settings, {"corpus": corpus, "scores": table.to_json()}))
    assert (front["pipeline_tag"], front["base_model"]) == ("fill-mask", "bert-base-uncased")
    assert {metric["type"] for metric in front["model-index"][0]["results"][0]["metrics"]} == {
        "perplexity",
        "accuracy",
    }
    assert "distilled from `bert-base-uncased`, made with codir (recipe `codir-pre`)" in body
    assert "by itself it fills in masked tokens" in body
    assert "- corpus: wiki, 8,000 blocks of up to 16 tokens" in body
    assert "AutoModelForMaskedLM.from_pretrained(path)" in body
    table.head_trained = False
    front, body = read(run({**settings, "teacher": None}, {"corpus": corpus, "scores": table.to_json()}))
    assert "its head that predicts tokens was not trained" in body
    assert not {"model-index", "metrics", "base_model"} & front.keys()


@pytest.mark.parametrize(
    ("recipe", "objectives", "words"),
    [
        ("codir-fine", {"crd_official": {}}, "The method is that of the paper:"),
        (
            "tinybert",
            {"hidden_mse": {}, "crd": None},
            "made with another one. That of the recipe `tinybert`: ",
        ),
        ("mine.yaml", {"kd": {}}, "this model was made with another one.\n"),
    ],
)
def test_whose_method_it_is(run: Callable[..., Path], recipe: str, objectives: Any, words: str) -> None:
    _, body = read(run({**DISTILL, "recipe": recipe, "objectives": objectives}, RESULTS))
    assert words in body
    assert ("contrastive distillation on" in body) == ("crd_official" in objectives)


def test_nothing_the_user_named_breaks_the_card(run: Callable[..., Path]) -> None:
    nasty = "a: b\n---\n# <b>`x`</b> | *y* 'q' \"r\" {{ x }}"
    results = {**TUNED, "task": nasty, "notes": [nasty], "metrics": {nasty: 0.5}}
    settings = {**FINETUNE, "model": nasty, "data": {"train": nasty, "text": "```\n# no heading\n"}}
    folder = run(settings, results, {"command": f"codir '{nasty}'"}, labels=(nasty, "b"))
    folder = folder.rename(folder.parent / "a: {{ b }}# <b>`x` | *y* 'q'")
    front, body = read(folder)
    assert front["model-index"][0]["name"] == folder.name
    assert "````yaml\n" in body
    text = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", body)  # what is not code
    assert re.findall(r"(?m)^# .*", text) == [body.splitlines()[1]]
    assert "<b>" not in re.sub("`.*?`", "", text)
    assert "---" not in text.splitlines()


def test_paths_of_this_machine_are_not_in_it(run: Callable[..., Path], tmp_path: Path) -> None:
    teacher = tmp_path / "my_runs" / "my teacher"
    teacher.mkdir(parents=True)
    (teacher / "codir.yaml").write_text(yaml.safe_dump({"command": "finetune", "model": "owner/encoder"}))
    data = {"train": str(tmp_path / "a b" / "train.csv"), "validation": "dev.csv"}
    settings = {**DISTILL, "teacher": str(teacher), "data": data, "output": str(tmp_path / "out")}
    results = {**RESULTS, "notes": [f"{data['train']} is read as UTF-16, as the mark at its beginning says."]}
    made_by = {**MADE_BY, "command": f"codir distill '--teacher={teacher}' --train '{data['train']}'"}
    front, body = read(run(settings, results, made_by))
    assert str(tmp_path) not in body.replace("\\", "")
    assert front["base_model"] == "owner/encoder"  # traced through the folder
    assert "distilled from `.../my teacher`" in body
    assert "source: .../train.csv, dev.csv" in body
    assert "- .../train.csv is read as UTF-16" in body
    assert "codir distill '--teacher=.../my teacher' --train .../train.csv" in body


def test_a_model_with_code_of_codirs_own_says_how_to_load_it(run: Callable[..., Path]) -> None:
    folder = run(FINETUNE, TUNED)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "codir-bilstm"}))
    assert "```python\nimport codir.models.bilstm" in run_card(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [("metrics.json", '{"comparison": {"rows": 3}}'), ("metrics.json", "{"), ("codir.yaml", "[]")],
)
def test_damage_is_named(run: Callable[..., Path], name: str, text: str) -> None:
    folder = run(DISTILL, RESULTS)
    (folder / name).write_text(text)
    with pytest.raises(CodirError, match=f"{name} is damaged"):
        run_card(folder)


# Paths


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/home/ann/runs/a", ".../a"),
        ("/data/my glue", ".../my glue"),
        ("/r/a/train.csv, /r/a/dev.csv, cut at 3 tokens", ".../train.csv, .../dev.csv, cut at 3 tokens"),
        (r"C:\Users\ann\runs\a", ".../a"),
        (str(Path.home()), "..."),
        ("runs/teacher", "runs/teacher"),
        ("owner/model", "owner/model"),
        ("/", "/"),
        ("https://x.org/a/b", "https://x.org/a/b"),
        ("a sentence / with a slash", "a sentence / with a slash"),
    ],
)
def test_absolute_paths_are_cut(text: str, short: str) -> None:
    assert short_paths({"a": [text, 3, None]}) == {"a": [short, 3, None]}


def test_what_was_cut_is_known_in_texts() -> None:
    found: dict[str, str] = {}
    assert short_paths({"command": "codir x --models a=/r/my_a,b=/r/b --k 3"}, found) == {
        "command": "codir x --models a=.../my_a,b=.../b --k 3"
    }
    text = short_paths("read from /r/my_a/x.csv\nand /r/my\\_a, /r/bc", found)
    assert text == "read from .../my_a/x.csv\nand .../my_a, .../bc"
    assert found == {"/r/my_a": ".../my_a", "/r/b": ".../b"}
    assert "/a/b" not in short_command("codir 'open /a/b/c")


# Lineage


def as_run(folder: Path, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "codir.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_a_student_of_a_local_teacher_is_traced_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_run(tmp_path / "runs" / "teacher", command="finetune", model="FacebookAI/roberta-base")
    student = as_run(tmp_path / "runs" / "student", command="distill", teacher="runs/teacher")
    monkeypatch.chdir(tmp_path)
    assert hub_ancestor("runs/student") == "FacebookAI/roberta-base"
    monkeypatch.chdir("/")
    assert hub_ancestor(str(student)) == "FacebookAI/roberta-base"
    assert hub_ancestor("runs/teacher") is None  # not an id, although it looks like one


NO_IDS = (None, "/gone/away", "a/b/c", "", "./model", "with space")


@pytest.mark.parametrize(
    ("name", "ancestor"),
    [("roberta-base", "roberta-base"), ("a/b", "a/b"), *((name, None) for name in NO_IDS)],
)
def test_ids_are_told_from_folders(name: str | None, ancestor: str | None) -> None:
    assert hub_ancestor(name) == ancestor


def test_circles_and_damage_end(tmp_path: Path) -> None:
    circle = as_run(tmp_path / "a", command="finetune", model=str(tmp_path / "a"))
    assert hub_ancestor(str(circle)) is None
    for text in (b"\xff: [", b"- a", b"a: ["):
        (circle / "codir.yaml").write_bytes(text)
        assert hub_ancestor(str(circle)) is None
    assert hub_ancestor(str(tmp_path)) is None  # a folder that says nothing


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"command": "finetune", "model": "m"}, "m"),
        ({"command": "distill", "teacher": "t", "student": {"layers": 2, "init": [1, 2]}}, "t"),
        ({"command": "distill", "teacher": "t", "student": {"init": "random"}}, None),
        ({"command": "distill", "teacher": "t", "student": {"config": {"model_type": "bert"}}}, None),
        ({"command": "distill", "teacher": "t", "student": {"model": "s"}}, "s"),
        ({"command": "pretrain", "teacher": None, "student": {"model": "s"}}, "s"),
        ({}, None),
    ],
)
def test_what_weights_started_from(settings: dict[str, Any], expected: str | None) -> None:
    assert started_from(settings) == expected


# Environment


def test_the_environment_is_plain_and_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "very-secret-token")
    monkeypatch.setattr(sys, "argv", ["/home/somebody/bin/codir", "distill", "--text", "two words"])
    found = environment(seed=3, precision="bf16", task="sst2")
    assert found["command"] == "codir distill --text 'two words'"
    assert (found["seed"], found["precision"], found["task"]) == (3, "bf16", "sst2")
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert found["machine"]["cores"] >= 1
    text = json.dumps(found, allow_nan=False)
    assert "very-secret-token" not in text
    assert "somebody" not in text
    node = platform.node()
    assert len(node) < 4 or node not in text
    monkeypatch.setattr(sys, "argv", ["/somewhere/codir/__main__.py", "plan"])
    assert environment()["command"] == "codir plan"


def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init", "-q")
    assert git_state(tmp_path) is None  # no commit yet
    for dirty in (False, True):
        (tmp_path / "a").write_text(str(dirty))
        if not dirty:
            git("add", "a")
            git("commit", "-q", "-m", "one")
        state = git_state(tmp_path)
        assert state is not None
        assert (len(state["commit"]), state["dirty"]) == (40, dirty)
    monkeypatch.setenv("PATH", "")
    assert git_state(tmp_path) is None  # no git installed
