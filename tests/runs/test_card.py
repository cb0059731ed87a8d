"""The model card: its front matter is what the Hub reads, and nothing the user named can break the rest."""

from __future__ import annotations

from typing import Any, cast

import pytest
import yaml
from huggingface_hub import ModelCard

from codir.data.task import Task
from codir.runs.card import CardInfo, model_card
from codir.runs.comparison import Comparison, ModelRow
from codir.runs.lineage import looks_like_hub_id
from codir.runs.timing import Timing

ENVIRONMENT = {
    "command": "codir distill --teacher roberta-base",
    "seed": 42,
    "precision": "fp32",
    "versions": {"python": "3.11.2", "torch": "2.13.0", "absent": None},
    "machine": {"cpu": "A CPU", "cores": 2, "gpus": []},
    "git": {"commit": "0" * 40, "dirty": True},
}


def info(**more: Any) -> CardInfo:
    labels = ("negative", "positive")
    task = Task(
        "sst2", "classification", ("sentence",), "label", labels, ("accuracy", "macro_f1"), "accuracy"
    )
    timing = Timing(5.0, 0.1, 2.0, 1.9, 2.1, (5.0, 5.0, 5.1), 256, 32, 128, False, "cpu", "float32", 2)
    rows = [
        ModelRow("teacher", {"accuracy": 0.9}, "accuracy", timing=timing),
        ModelRow("CoDIR student", {"accuracy": 0.88}, "accuracy", timing=timing),
    ]
    values: dict[str, Any] = {
        "name": "student",
        "task": task,
        "source": "nyu-mll/glue/sst2",
        "metrics": {"accuracy": 0.88, "macro_f1": 0.87, "extra/accuracy": 0.5},
        "config_yaml": "task: sst2\nobjectives:\n  crd:\n    k: 4\n",
        "environment": ENVIRONMENT,
        "examples": {"train": 67349, "validation": 872},
        "recipe": "codir-fine",
        "base_model": "textattack/roberta-base-SST-2",
        "comparison": Comparison(rows),
        "dataset_id": "nyu-mll/glue",
        "max_length": 128,
        "notes": ["Of 10 rows 9 are used."],
    }
    return CardInfo(**{**values, **more})


def parsed(text: str) -> tuple[dict[str, Any], str]:
    assert text.startswith("---\n")
    front, _, body = text[4:].partition("\n---\n")
    return yaml.safe_load(front), body


def test_front_matter_is_read_by_the_hubs_own_parser() -> None:
    text = model_card(info())
    front, _ = parsed(text)
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "text-classification"
    assert front["tags"] == ["codir", "knowledge-distillation"]
    assert front["base_model"] == "textattack/roberta-base-SST-2"
    assert front["datasets"] == ["nyu-mll/glue"]
    assert not {"license", "language"} & front.keys()
    results = cast(Any, ModelCard(text, ignore_metadata_errors=False).data).eval_results
    assert results is not None
    assert [(r.metric_type, r.metric_value, r.dataset_type, r.dataset_split) for r in results] == [
        ("accuracy", 0.88, "nyu-mll/glue", "validation"),
        ("f1", 0.87, "nyu-mll/glue", "validation"),
        ("accuracy", 0.5, "nyu-mll/glue", "extra"),
    ]


def test_body_has_what_the_reader_needs() -> None:
    _, body = parsed(model_card(info()))
    for piece in (
        "# student",
        "| CoDIR student | 0.8800 | 97.8% |",
        "keeps 97.8% of the teacher's accuracy",
        "cannot say whether distilling helped",
        "cpu, 2 threads, float32, batches of 32, at most 128 tokens, 256 sequences, median of 3 rounds",
        "| extra/accuracy | 0.5000 |",
        r"| macro\_f1 | 0.8700 |",
        "AutoModelForSequenceClassification.from_pretrained(path)",
        "max_length=128",
        "- train: 67,349 examples",
        "- Of 10 rows 9 are used.",
        "```console\ncodir distill --teacher roberta-base\n```",
        "```yaml\ntask: sst2\nobjectives:",
        "- torch 2.13.0",
        "with local changes",
        "- seed: 42",
        "one seed",
        "@inproceedings{sun2020codir",
    ):
        assert piece in body, piece
    assert "absent" not in body
    code = body.partition("```python\n")[2].partition("\n```")[0]
    compile(code, "card", "exec")


def test_a_fine_tuned_teacher_has_no_distillation_in_its_card() -> None:
    front, body = parsed(model_card(info(recipe=None, comparison=None, base_model="roberta-base")))
    assert front["tags"] == ["codir"]
    assert front["base_model"] == "roberta-base"
    assert "fine-tuned from `roberta-base` with codir" in body
    assert "takes over its teacher" not in body


def test_unknown_things_are_left_out(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    bare = info(
        base_model="runs/teacher", dataset_id=None, metrics={"accuracy": float("nan")}, environment={}
    )
    front, body = parsed(model_card(bare))
    assert not {"base_model", "datasets", "model-index", "metrics"} & front.keys()
    assert "| accuracy | - |" in body
    own = info(dataset_id=None)
    own.task = Task("my data: v|2", "regression", ("a", "b"), "y", None, ("pearson",), "pearson")
    own.metrics = {"pearson": 0.5}
    front, body = parsed(model_card(own))
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "my-data-v-2"
    assert front["metrics"] == ["pearsonr"]
    assert "logits.item()" in body
    assert "text, second_text" in body


def test_nothing_the_user_named_breaks_the_card() -> None:
    nasty = "a: b\n---\n# <b>`x`</b> | *y* 'q' \"r\""
    bad = info(name=nasty, source=nasty, notes=[nasty], config_yaml="text: |\n  ```\n  # no heading\n  ```\n")
    bad.comparison = Comparison([ModelRow(nasty, {"accuracy": 0.5}, "accuracy")])
    text = model_card(bad)
    front, body = parsed(text)
    assert front["model-index"][0]["name"] == nasty
    assert "````yaml\n" in body
    lines = body.splitlines()
    assert "---" not in lines
    assert [line for line in lines if line.startswith("# ")] == [lines[1]]
    assert "<b>" not in "\n".join(line for line in lines if not line.startswith(("path", "|")))
    [row] = [line for line in lines if line.startswith("| a: b")]
    assert row.replace("\\|", "").count("|") == 10


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("roberta-base", True),
        ("FacebookAI/roberta-base", True),
        ("/home/me/model", False),
        ("./model", False),
        ("a/b/c", False),
        ("with space", False),
        ("", False),
    ],
)
def test_looks_like_hub_id(name: str, expected: bool) -> None:
    assert looks_like_hub_id(name) is expected


def test_glue_is_named_as_the_hub_names_it_wherever_it_was_read_from() -> None:
    from codir.data.glue import glue_task

    task = glue_task("mrpc")
    assert task is not None
    mine = info(task=task, dataset_id=None, source="/data/MRPC", metrics={"f1": 0.8, "accuracy": 0.7})
    front, body = parsed(model_card(mine))
    assert front["datasets"] == ["nyu-mll/glue"]
    dataset = front["model-index"][0]["results"][0]["dataset"]
    assert dataset == {"name": "GLUE MRPC", "type": "nyu-mll/glue", "config": "mrpc", "split": "validation"}
    assert "GLUE (nyu-mll/glue/mrpc on the Hub), read from /data/MRPC" in body
    # a file that happens to be called mrpc.csv is not GLUE
    mine.task = Task("mrpc", "classification", ("text",), "label", ("a", "b"), ("accuracy",), "accuracy")
    front, _ = parsed(model_card(mine))
    assert "datasets" not in front


@pytest.mark.parametrize(
    ("started", "base"), [(None, "textattack/roberta-base-SST-2"), ("a/student", "a/student"), ("", None)]
)
def test_the_base_model_is_what_the_weights_come_from(started: str | None, base: str | None) -> None:
    front, body = parsed(model_card(info(started_from=started)))
    assert front.get("base_model") == base
    assert front.get("base_model_relation") == ("finetune" if base else None)
    assert "distilled from `textattack/roberta-base-SST-2`" in body


def test_only_a_contrastive_recipe_is_called_one() -> None:
    _, body = parsed(model_card(info()))
    assert "contrastive distillation" in body
    assert "The method is that of the paper:" in body
    _, body = parsed(
        model_card(info(recipe="tinybert", config_yaml="objectives:\n  hidden_mse: {}\n  crd: null\n"))
    )
    assert "contrastive distillation on" not in body
    assert "made with another one" in body
    assert "That of the recipe `tinybert`: " in body
    _, body = parsed(model_card(info(recipe="mine.yaml", config_yaml="a: [")))
    assert "made with another one." in body


def test_a_model_with_code_of_codirs_own_says_how_to_load_it() -> None:
    _, body = parsed(model_card(info(needs_codir=True)))
    code = body.partition("```python\n")[2].partition("\n```")[0]
    compile(code, "card", "exec")
    assert code.splitlines()[0].startswith("import codir.models.bilstm")
