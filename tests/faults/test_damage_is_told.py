"""A flipped bit, a missing file, a manifest that is none: told by whoever reads the folder, never computed with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_world import QUICK, codir, flags, refused, sentences, succeeded, write_csv
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file; of JSON the last digit, so that it stays JSON and looks as before."""
    content = bytearray(path.read_bytes())
    digits = [n for n, byte in enumerate(content) if chr(byte).isdigit()] if path.suffix == ".json" else []
    content[digits[-1] if digits else len(content) // 2] ^= 1
    path.write_bytes(content)


class World:
    """Data, and what was made of them once: a finished run, a distillation, a stopped run, an export, a corpus."""

    def __init__(self, folder: Path, model: Path):
        self.folder, self.model = folder, model
        self.train = write_csv(folder / "train.csv", sentences(16))
        self.dev = write_csv(folder / "dev.csv", sentences(8, seed=1))
        self.texts = folder / "texts.txt"
        self.texts.write_text("the good film\na bad book\n")
        self.run, self.student, self.export = folder / "run", folder / "student", folder / "bf16"
        self.cache, self.stopped, self.corpus = folder / "cache", folder / "stopped", folder / "corpus"
        data = flags(train=self.train, validation=self.dev)
        self.training = ["finetune", *data, *QUICK, "--model", model]
        few = flags(student_layers=1, recipe="kd", cache_dir=self.cache)
        self.distilling = ["distill", *data, *few, *QUICK, "--teacher", self.run]
        succeeded(*self.training, output=self.run)
        succeeded(*self.distilling, output=self.student)
        succeeded("export", self.run, "--no-data", format="torch-bf16", output=self.export)
        # as a kill leaves it: two checkpoints and no model
        succeeded(*self.training, set="training.keep_checkpoints=true", output=self.stopped)
        for path in self.stopped.iterdir():
            if path.name not in ("codir.yaml", "checkpoints", "fingerprint.json", "environment.json"):
                path.unlink() if path.is_file() else shutil.rmtree(path)
        articles = folder / "articles.txt"
        articles.write_text("the good film was not bad .\n\na cat sees a dog .\n\n" * 40)
        succeeded("corpus", input=articles, tokenizer=model, block=16, workers=1, output=self.corpus)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, model: Path) -> World:
    return World(tmp_path_factory.mktemp("world"), model)


@pytest.fixture
def copy(world: World, tmp_path: Path) -> Callable[[str], Path]:
    """Returns a function that gives a copy of one of the folders, to be damaged."""
    return lambda name: Path(shutil.copytree(getattr(world, name), tmp_path / name))


# ---- finished runs


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"])
def test_whoever_loads_a_run_notices_a_flipped_bit(world: World, copy: Any, tmp_path: Path, name: str) -> None:
    run = copy("run")
    flip(run / name)
    data = flags(train=world.train, validation=world.dev)
    commands = {
        "predict": ["predict", run, *flags(input=world.texts, output=tmp_path / "out.jsonl")],
        "distill": ["distill", *data, *flags(teacher=run, student_layers=1, output=tmp_path / "new")],
        "resume": [*world.training, *flags(output=run, resume=True)],
        "evaluate": ["evaluate", run, *flags(validation=world.dev)],
        "export": ["export", run, "--no-data", *flags(format="torch-bf16", output=tmp_path / "new")],
        "latency": ["latency", run, *flags(rounds=1, no_memory=True)],
        "finetune": ["finetune", *data, *QUICK, *flags(model=run, output=tmp_path / "new")],
        "publish": ["publish", run, "me/model", "--dry-run"],
    }
    # the others load a model as one of the first three does
    for command in commands if name == "model.safetensors" else list(commands)[:3]:
        message = refused(*commands[command], leaves_nothing=tmp_path)
        assert name in message, command
        assert "delete" in message
        assert "codir-manifest.json" in message


def test_what_is_missing_is_told_too(world: World, copy: Any, tmp_path: Path) -> None:
    run = copy("run")
    (run / "tokenizer_config.json").unlink()  # transformers would go on with its defaults
    message = refused("predict", run, input=world.texts, output=tmp_path / "out.jsonl")
    assert "tokenizer_config.json is missing" in message


def test_a_comparison_student_is_checked_like_its_run(world: World, copy: Any) -> None:
    student = copy("student")
    other = next((student / "comparison").iterdir())
    flip(other / "model.safetensors")
    assert "model.safetensors" in refused("evaluate", other, validation=world.dev)
    assert "model.safetensors" in refused(*world.distilling, output=student, resume=True)
    succeeded("evaluate", student, validation=world.dev)


def test_a_model_changed_on_purpose_is_taken_when_the_manifest_is_deleted(world: World, copy: Any) -> None:
    """Fine-tuned in place with transformers: what the message says to do works."""
    run = copy("run")
    model = AutoModelForSequenceClassification.from_pretrained(run)
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    model.save_pretrained(run)
    assert f"delete {run / 'codir-manifest.json'}" in refused("evaluate", run, validation=world.dev)
    (run / "codir-manifest.json").unlink()
    succeeded("evaluate", run, validation=world.dev)


def test_what_people_edit_and_what_is_not_part_of_the_model_may_change(world: World, copy: Any) -> None:
    run = copy("run")
    (run / "README.md").write_text("# My own words\n")
    (run / "codir.yaml").write_text("# a comment\n" + (run / "codir.yaml").read_text())
    (run / "notes.txt").write_text("mine")
    for name in ("metrics.json", "log.jsonl", "environment.json"):
        (run / name).unlink()
    succeeded("evaluate", run, validation=world.dev)
    AutoTokenizer.from_pretrained(run)


def test_models_from_elsewhere_have_no_manifest(world: World, own_model: Path) -> None:
    assert not (own_model / "codir-manifest.json").exists()
    flip(own_model / "model.safetensors")  # nobody can know
    (own_model / "manifest.json").write_text("[]")  # a file of that name that is no codir's
    succeeded("evaluate", own_model, validation=world.dev)


BROKEN = {
    "a list": "[]",
    "no files": '{"x": 5}',
    "files are a list": '{"files": ["model.safetensors"]}',
    "a file is a number": '{"files": {"model.safetensors": 5}}',
    "a size is text": '{"files": {"model.safetensors": {"bytes": "5", "digest": "x"}}}',
    "outside": '{"files": {"../x": {"bytes": 5, "digest": "x"}}}',
    "half": '{"files": {"model.saf',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_manifest_of_a_run_that_is_none(world: World, copy: Any, text: str) -> None:
    run = copy("run")
    (run / "codir-manifest.json").write_text(text)
    assert "codir-manifest.json" in refused("evaluate", run, validation=world.dev)
    assert "codir-manifest.json" in refused(*world.training, output=run, resume=True)


# ---- the results of a finished run


@pytest.mark.parametrize("damage", [Path.unlink, flip, lambda path: path.write_text('{"x": 5}')])
def test_results_that_are_damaged_are_computed_again(world: World, copy: Any, damage: Any) -> None:
    run = copy("run")
    before = json.loads((run / "metrics.json").read_text())["metrics"]
    weights = (run / "model.safetensors").read_bytes()
    damage(run / "metrics.json")
    assert "computed again" in succeeded(*world.training, output=run, resume=True).text
    assert json.loads((run / "metrics.json").read_text())["metrics"] == before
    assert (run / "model.safetensors").read_bytes() == weights
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    assert "nothing to resume" in succeeded(*world.training, output=run, resume=True).text


def test_the_table_of_a_distillation_is_computed_again(world: World, copy: Any) -> None:
    student = copy("student")
    content = json.loads((student / "metrics.json").read_text())
    before = [row["metrics"] for row in content["comparison"]["rows"]]
    content["comparison"]["rows"][0]["metrics"] = dict.fromkeys(before[0], 0.125)
    (student / "metrics.json").write_text(json.dumps(content))
    assert "0.125" not in succeeded(*world.distilling, output=student, resume=True).text
    content = json.loads((student / "metrics.json").read_text())
    assert [row["metrics"] for row in content["comparison"]["rows"]] == before


@pytest.mark.parametrize("text", ["[]", '{"state": "finished", "attempts": [1]}', "{"])
def test_a_state_that_is_damaged(world: World, copy: Any, text: str) -> None:
    run = copy("run")
    (run / "run.json").write_text(text)
    assert "run.json" in refused(*world.training, output=run, resume=True)
    (run / "run.json").unlink()  # what the message says
    succeeded(*world.training, output=run, resume=True)


# ---- checkpoints


def newest(run: Path) -> Path:
    return max((run / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))


def test_a_manifest_of_a_checkpoint_that_is_none(world: World, copy: Any) -> None:
    run = copy("stopped")
    (newest(run) / "manifest.json").write_text("[]")
    succeeded(*world.training, set="training.keep_checkpoints=true", output=run, resume=True)
    assert (run / "model.safetensors").is_file()


def test_files_where_folders_should_be(world: World, copy: Any) -> None:
    run = copy("stopped")
    resuming = [*world.training, *flags(set="training.keep_checkpoints=true", output=run, resume=True)]
    checkpoint = newest(run)
    shutil.rmtree(checkpoint)
    checkpoint.write_text("no folder")
    succeeded(*resuming)
    assert checkpoint.is_dir()
    for name in ("model.safetensors", "trained.json", "run.json"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("no folder")
    assert f"{run / 'checkpoints'} is a file" in refused(*resuming)
    (run / "checkpoints").unlink()  # what the message says
    succeeded(*resuming)


# ---- caches and corpora


def test_a_manifest_of_a_cache_that_is_none(world: World, copy: Any, tmp_path: Path) -> None:
    entries = [path / "manifest.json" for path in copy("cache").iterdir() if path.is_dir()]
    assert entries
    for path in entries:
        assert path.is_file()
        path.write_text("[]")
    after = tmp_path / "after"
    succeeded(*world.distilling, no_baseline=True, cache_dir=tmp_path / "cache", output=after)
    assert [path for path in entries if path.read_text() == "[]"] == []
    one, other = (load_file(folder / "model.safetensors") for folder in (world.student, after))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_flipped_bit_in_the_tokenizer_of_a_corpus(world: World, copy: Any, name: str) -> None:
    succeeded("plan", recipe="mlm-pre", corpus=world.corpus)
    corpus = copy("corpus")
    flip(corpus / "tokenizer" / name)
    message = refused("plan", recipe="mlm-pre", corpus=corpus)
    assert f"tokenizer/{name}" in message
    assert "codir corpus" in message


@pytest.mark.parametrize("what", ["[]", '{"x": 5}', '{"format": []}', "block", "key", "tokenizer", "options"])
def test_a_manifest_of_a_corpus_that_is_none(world: World, copy: Any, what: str) -> None:
    path = copy("corpus") / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {what: None}) if what.isidentifier() else what)
    assert "corpus.json" in refused("plan", recipe="mlm-pre", corpus=path.parent)


# ---- exports


def test_an_export_without_its_manifest_is_no_plain_model(world: World, copy: Any, tmp_path: Path) -> None:
    export, new = copy("export"), tmp_path / "new"
    predicting = ["predict", export, *flags(input=world.texts, output=tmp_path / "out.jsonl")]
    succeeded(*predicting)
    (export / "deployment.json").unlink()
    for command in (
        [*predicting, "--overwrite"],
        ["evaluate", export, *flags(validation=world.dev)],
        ["distill", *flags(teacher=export, train=world.train, output=new)],
        ["latency", export, *flags(rounds=1)],
    ):
        message = refused(*command)
        assert "deployment.json" in message
        assert "codir export" in message
    # what transformers saves of it is a model like any other
    AutoModelForSequenceClassification.from_pretrained(export, dtype=torch.float32).save_pretrained(new)
    AutoTokenizer.from_pretrained(export).save_pretrained(new)
    succeeded("evaluate", new, validation=world.dev)


def test_a_flipped_bit_in_an_export(world: World, copy: Any, tmp_path: Path) -> None:
    export = copy("export")
    flip(export / "model.safetensors")
    data = flags(train=world.train, validation=world.dev)
    assert "model.safetensors" in refused("evaluate", export, validation=world.dev)
    distilling = ["distill", *data, *flags(student_layers=1, output=tmp_path / "new")]
    assert "model.safetensors" in refused(*distilling, teacher=export)


@pytest.mark.parametrize("what", ["[]", "[" * 100_000, "engine", "settings", "metrics_before", "files"], ids=len)
def test_a_manifest_of_an_export_that_is_none(world: World, copy: Any, what: str) -> None:
    path = copy("export") / "deployment.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {what: [3, [], {}]}) if what.isidentifier() else what)
    message = refused("evaluate", path.parent, validation=world.dev)
    assert "deployment.json" in message
    assert "codir export" in message
    assert codir("report", path.parent).code == 2
