"""A flipped bit, a missing file, a manifest that is none: told by whoever reads the folder, never computed with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from fault_world import QUICK, codir, refused, sentences, succeeded, write_csv
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

Damage = Callable[[Path], object]


def flip(path: Path) -> None:
    """Changes one bit in the middle of a file; of JSON the last digit, so that it stays JSON and looks as before."""
    content = bytearray(path.read_bytes())
    places = (
        [place for place, byte in enumerate(content) if chr(byte).isdigit()] if path.suffix == ".json" else []
    )
    content[places[-1] if places else len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train.csv`, `dev.csv`, `texts.txt`."""
    folder = tmp_path_factory.mktemp("world")
    write_csv(folder / "train.csv", sentences(16))
    write_csv(folder / "dev.csv", sentences(8, seed=1))
    (folder / "texts.txt").write_text("the good film\na bad book\n")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_classifier, tiny_tokenizer) -> Path:
    """A small model from elsewhere: no run, no manifest."""
    folder = tmp_path_factory.mktemp("base")
    tiny_classifier(layers=2).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def training(world: Path, base: Path) -> list[object]:
    """The command that made `run`, without its output."""
    data = ["--train", world / "train.csv", "--validation", world / "dev.csv"]
    return ["finetune", "--model", base, *data, *QUICK]


@pytest.fixture(scope="module")
def distilling(world: Path, made: Path) -> list[object]:
    """The command that made `student`, without its output."""
    data = ["--train", world / "train.csv", "--validation", world / "dev.csv"]
    few = ["--student-layers", "1", "--recipe", "kd", "--cache-dir", world / "cache"]
    return ["distill", "--teacher", made, *data, *few, *QUICK]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, training: list[object]) -> Path:
    """A finished run."""
    output = tmp_path_factory.mktemp("made") / "run"
    succeeded(*training, "--output", output)
    return output


@pytest.fixture
def run(tmp_path: Path, made: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory, distilling: list[object]) -> Path:
    """A finished distillation, with another student beside it to compare with; its cache is `world/cache`."""
    output = tmp_path_factory.mktemp("distilled") / "student"
    succeeded(*distilling, "--output", output)
    return output


@pytest.fixture
def student(tmp_path: Path, distilled: Path) -> Path:
    """A copy of the finished distillation, to be damaged."""
    return Path(shutil.copytree(distilled, tmp_path / "student"))


# --- finished runs


FEW = ("predict", "distill", "resume")  # the others load a model as one of these does


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"]
)
def test_whoever_loads_a_run_notices_a_flipped_bit(
    run: Path, world: Path, training: list[object], name: str, few: bool
) -> None:
    flip(run / name)
    data = ["--train", world / "train.csv", "--validation", world / "dev.csv"]
    commands = {
        "predict": ["predict", run, "--input", world / "texts.txt", "--output", run.parent / "out.jsonl"],
        "evaluate": ["evaluate", run, "--validation", world / "dev.csv"],
        "distill": [
            "distill",
            "--teacher",
            run,
            *data,
            "--student-layers",
            "1",
            "--output",
            run.parent / "student",
        ],
        "export": ["export", run, "--format", "torch-bf16", "--no-data", "--output", run.parent / "exported"],
        "latency": ["latency", run, "--rounds", "1", "--no-memory"],
        "finetune": ["finetune", "--model", run, *data, *QUICK, "--output", run.parent / "again"],
        "resume": [*training, "--output", run, "--resume"],
        "publish": ["publish", run, "me/model", "--dry-run"],
    }
    for command in FEW if few and name != "model.safetensors" else commands:
        message = refused(*commands[command], leaves_nothing=run.parent)
        assert name in message, command
        assert "delete" in message
        assert "codir-manifest.json" in message


def test_what_is_missing_or_cut_is_told_too(run: Path, world: Path) -> None:
    predicting = ["predict", run, "--input", world / "texts.txt", "--output", run.parent / "out.jsonl"]
    (run / "tokenizer_config.json").unlink()  # transformers would go on with its defaults
    assert "tokenizer_config.json is missing" in refused(*predicting)


def test_a_comparison_student_is_checked_like_its_run(
    student: Path, distilling: list[object], world: Path
) -> None:
    other = next((student / "comparison").iterdir())
    flip(other / "model.safetensors")
    assert "model.safetensors" in refused("evaluate", other, "--validation", world / "dev.csv")
    assert "model.safetensors" in refused(*distilling, "--output", student, "--resume")
    succeeded("evaluate", student, "--validation", world / "dev.csv")


def test_a_model_changed_on_purpose_is_taken_when_the_manifest_is_deleted(run: Path, world: Path) -> None:
    """Fine-tuned in place with transformers: what the message says to do works."""
    evaluating = ["evaluate", run, "--validation", world / "dev.csv"]
    model = AutoModelForSequenceClassification.from_pretrained(run)
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    model.save_pretrained(run)
    message = refused(*evaluating)
    assert f"delete {run / 'codir-manifest.json'}" in message
    (run / "codir-manifest.json").unlink()
    succeeded(*evaluating)


def test_what_people_edit_and_what_is_not_part_of_the_model_may_change(run: Path, world: Path) -> None:
    (run / "README.md").write_text("# My own words\n")
    (run / "codir.yaml").write_text("# a comment\n" + (run / "codir.yaml").read_text())
    (run / "notes.txt").write_text("mine")
    for name in ("metrics.json", "log.jsonl", "environment.json"):
        (run / name).unlink()
    succeeded("evaluate", run, "--validation", world / "dev.csv")


def test_models_from_elsewhere_and_of_earlier_versions_load_as_before(
    run: Path, base: Path, world: Path
) -> None:
    assert not (base / "codir-manifest.json").exists()
    flip(base / "model.safetensors")  # nobody can know
    succeeded("evaluate", base, "--validation", world / "dev.csv")
    flip(base / "model.safetensors")
    (run / "codir-manifest.json").unlink()
    succeeded("evaluate", run, "--validation", world / "dev.csv")
    # a file of that name that is no codir's
    (base / "manifest.json").write_text("[]")
    succeeded("evaluate", base, "--validation", world / "dev.csv")
    (base / "manifest.json").unlink()


def test_a_run_loads_with_transformers(run: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(run)
    AutoTokenizer.from_pretrained(run)


BROKEN = {
    "a list": "[]",
    "no files": '{"x": 5}',
    "a number": "7",
    "files are a list": '{"files": ["model.safetensors"]}',
    "no file": '{"files": {}}',
    "a file is a number": '{"files": {"model.safetensors": 5}}',
    "a size is text": '{"files": {"model.safetensors": {"bytes": "5", "digest": "x"}}}',
    "a digest is none": '{"files": {"model.safetensors": {"bytes": 5, "digest": null}}}',
    "outside": '{"files": {"../x": {"bytes": 5, "digest": "x"}}}',
    "half": '{"files": {"model.saf',
    "nothing": "",
    "deep": "[" * 100_000,
    "a long number": '{"files": ' + "9" * 5000 + "}",
    "no text": "\x00\x01",
}


# Of each kind one: what else is read by the same lines is for the slow tests.
MORE = ("a number", "no file", "a digest is none", "nothing", "a long number", "no text")


def some(values: dict[str, Any], slow: Collection[str]) -> list[Any]:
    """Returns values as parameters with their names, some of them for the slow tests."""
    return [
        pytest.param(value, id=name, marks=[pytest.mark.slow] if name in slow else [])
        for name, value in values.items()
    ]


@pytest.mark.parametrize("text", some(BROKEN, MORE))
def test_a_manifest_of_a_run_that_is_none(run: Path, world: Path, training: list[object], text: str) -> None:
    (run / "codir-manifest.json").write_text(text)
    message = refused("evaluate", run, "--validation", world / "dev.csv")
    assert "codir-manifest.json" in message
    assert "codir-manifest.json" in refused(*training, "--output", run, "--resume")


# --- the results of a finished run


RESULTS: dict[str, Damage] = {
    "missing": Path.unlink,
    "flipped": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "a list": lambda path: path.write_text("[]"),
    "other": lambda path: path.write_text('{"x": 5}'),
    "deep": lambda path: path.write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", some(RESULTS, ("cut", "a list", "other", "deep")))
def test_results_that_are_damaged_are_computed_again(
    run: Path, training: list[object], damage: Damage
) -> None:
    before = json.loads((run / "metrics.json").read_text())["metrics"]
    weights = (run / "model.safetensors").read_bytes()
    damage(run / "metrics.json")
    said = succeeded(*training, "--output", run, "--resume").text
    assert "computed again" in said
    assert json.loads((run / "metrics.json").read_text())["metrics"] == before
    assert (run / "model.safetensors").read_bytes() == weights
    assert json.loads((run / "run.json").read_text())["state"] == "finished"
    assert "nothing to resume" in succeeded(*training, "--output", run, "--resume").text


def test_the_table_of_a_distillation_is_computed_again(student: Path, distilling: list[object]) -> None:
    content = json.loads((student / "metrics.json").read_text())
    before = [row["metrics"] for row in content["comparison"]["rows"]]
    content["comparison"]["rows"][0]["metrics"] = dict.fromkeys(before[0], 0.125)
    (student / "metrics.json").write_text(json.dumps(content))
    assert "0.125" not in succeeded(*distilling, "--output", student, "--resume").text
    content = json.loads((student / "metrics.json").read_text())
    assert [row["metrics"] for row in content["comparison"]["rows"]] == before


def test_results_of_an_earlier_version_that_are_damaged_are_no_traceback(
    run: Path, training: list[object]
) -> None:
    (run / "codir-manifest.json").unlink()
    (run / "metrics.json").write_text('{"x": 5}')
    message = refused(*training, "--output", run, "--resume")
    assert "metrics.json" in message
    assert "Delete it" in message
    (run / "metrics.json").unlink()
    assert "computed again" in succeeded(*training, "--output", run, "--resume").text


STATES = [
    "[]",
    '{"state": 5}',
    '{"state": "finished", "attempts": 3}',
    '{"state": "finished", "attempts": [1]}',
    "{",
]


@pytest.mark.parametrize("text", STATES)
def test_a_state_that_is_damaged(run: Path, training: list[object], text: str) -> None:
    (run / "run.json").write_text(text)
    assert "run.json" in refused(*training, "--output", run, "--resume")
    (run / "run.json").unlink()  # what the message says
    succeeded(*training, "--output", run, "--resume")


# --- checkpoints


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, training: list[object]) -> Path:
    """A run as a kill leaves it: two checkpoints of 1 and 2 steps, and no model."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    keeping = ["--set", "training.keep_checkpoints=true"]
    succeeded(*training, *keeping, "--output", output)
    for path in output.iterdir():
        if path.name not in ("codir.yaml", "checkpoints", "fingerprint.json", "environment.json"):
            path.unlink() if path.is_file() else shutil.rmtree(path)
    return output


@pytest.mark.parametrize(
    "text",
    ["[]", *(pytest.param(each, marks=pytest.mark.slow) for each in ('{"x": 5}', '{"files": {"a": 5}}'))],
)
def test_a_manifest_of_a_checkpoint_that_is_none(
    tmp_path: Path, stopped: Path, training: list[object], text: str
) -> None:
    output = Path(shutil.copytree(stopped, tmp_path / "run"))
    newest = max((output / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    (newest / "manifest.json").write_text(text)
    succeeded(*training, "--set", "training.keep_checkpoints=true", "--output", output, "--resume")
    assert (output / "model.safetensors").is_file()


def test_files_where_folders_should_be(tmp_path: Path, stopped: Path, training: list[object]) -> None:
    output = Path(shutil.copytree(stopped, tmp_path / "run"))
    resuming = [*training, "--set", "training.keep_checkpoints=true", "--output", output, "--resume"]
    newest = max((output / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.rmtree(newest)
    newest.write_text("no folder")
    succeeded(*resuming)
    assert newest.is_dir()
    (output / "model.safetensors").unlink()
    (output / "trained.json").unlink()
    (output / "run.json").unlink()
    shutil.rmtree(output / "checkpoints")
    (output / "checkpoints").write_text("no folder")
    message = refused(*resuming)
    assert f"{output / 'checkpoints'} is a file" in message
    (output / "checkpoints").unlink()  # what the message says
    succeeded(*resuming)


# --- caches


@pytest.mark.parametrize("text", ["[]", pytest.param('{"files": {"mean.npy": 5}}', marks=pytest.mark.slow)])
def test_a_manifest_of_a_cache_that_is_none(
    tmp_path: Path, distilling: list[object], distilled: Path, world: Path, text: str
) -> None:
    cache = Path(shutil.copytree(world / "cache", tmp_path / "cache"))
    entries = [path / "manifest.json" for path in cache.iterdir() if path.is_dir()]
    assert entries
    assert all(path.is_file() for path in entries)
    for path in entries:
        path.write_text(text)
    succeeded(*distilling, "--no-baseline", "--cache-dir", cache, "--output", tmp_path / "after")
    assert [path for path in entries if path.read_text() == text] == []
    one, other = (load_file(folder / "model.safetensors") for folder in (distilled, tmp_path / "after"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


# --- corpora


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A prepared corpus."""
    place = tmp_path_factory.mktemp("corpus")
    (place / "articles.txt").write_text("the good film was not bad .\n\na cat sees a dog .\n\n" * 40)
    making = [
        "corpus",
        "--input",
        place / "articles.txt",
        "--tokenizer",
        base,
        "--block",
        "16",
        "--workers",
        "1",
    ]
    succeeded(*making, "--documents", "blank", "--output", place / "corpus")
    return place / "corpus"


def test_a_flipped_bit_in_the_tokenizer_of_a_corpus(tmp_path: Path, corpus: Path) -> None:
    succeeded("plan", "--recipe", "mlm-pre", "--corpus", corpus)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        copied = Path(shutil.copytree(corpus, tmp_path / name))
        flip(copied / "tokenizer" / name)
        message = refused("plan", "--recipe", "mlm-pre", "--corpus", copied)
        assert f"tokenizer/{name}" in message
        assert "codir corpus" in message


@pytest.mark.parametrize(
    "text", ["[]", '{"x": 5}', '{"format": 1}', '{"format": 1, "files": 3}', '{"format": []}']
)
def test_a_manifest_of_a_corpus_that_is_none(tmp_path: Path, corpus: Path, text: str) -> None:
    copied = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    (copied / "corpus.json").write_text(text)
    assert "corpus.json" in refused("plan", "--recipe", "mlm-pre", "--corpus", copied)


@pytest.mark.parametrize("name", ["block", "vocab_size", "key", "tokenizer", "options"])
def test_facts_of_a_corpus_of_another_kind(tmp_path: Path, corpus: Path, name: str) -> None:
    copied = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    content = json.loads((copied / "corpus.json").read_text())
    (copied / "corpus.json").write_text(json.dumps({**content, name: None}))
    assert "corpus.json is damaged" in refused("plan", "--recipe", "mlm-pre", "--corpus", copied)


# --- exports


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Path:
    """An export that is a folder of transformers' files, in bf16."""
    output = tmp_path_factory.mktemp("exported") / "bf16"
    succeeded("export", made, "--format", "torch-bf16", "--no-data", "--output", output)
    return output


def test_an_export_without_its_manifest_is_no_plain_model(
    tmp_path: Path, exported: Path, world: Path
) -> None:
    copied = Path(shutil.copytree(exported, tmp_path / "copy"))
    predicting = ["--input", world / "texts.txt", "--output", tmp_path / "out.jsonl"]
    succeeded("predict", copied, *predicting)
    (copied / "deployment.json").unlink()
    for command in (
        ["predict", copied, *predicting, "--overwrite"],
        ["evaluate", copied, "--validation", world / "dev.csv"],
        ["distill", "--teacher", copied, "--train", world / "train.csv", "--output", tmp_path / "student"],
        ["latency", copied, "--rounds", "1"],
    ):
        message = refused(*command)
        assert "deployment.json" in message
        assert "codir export" in message
    # what transformers saves of it is a model like any other
    model = AutoModelForSequenceClassification.from_pretrained(copied, dtype=torch.float32)
    model.save_pretrained(tmp_path / "plain")
    AutoTokenizer.from_pretrained(copied).save_pretrained(tmp_path / "plain")
    succeeded("evaluate", tmp_path / "plain", "--validation", world / "dev.csv")


def test_a_flipped_bit_in_an_export(tmp_path: Path, exported: Path, world: Path) -> None:
    copied = Path(shutil.copytree(exported, tmp_path / "copy"))
    flip(copied / "model.safetensors")
    data = ["--train", world / "train.csv", "--validation", world / "dev.csv"]
    for command in (
        ["evaluate", copied, "--validation", world / "dev.csv"],
        ["distill", "--teacher", copied, *data, "--student-layers", "1", "--output", tmp_path / "student"],
    ):
        assert "model.safetensors" in refused(*command)


WRONG = [
    *("[]", '{"x": 5}', "[" * 100_000),
    *(
        "engine",
        "inputs",
        "settings",
        "max_length",
        "checks",
        "metrics_before",
        "versions",
        "examples",
        "files",
    ),
]


FAST = ("[]", "[" * 100_000, "engine", "settings", "metrics_before", "files")  # texts, maps, numbers, lists


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, id=str(number), marks=[] if what in FAST else [pytest.mark.slow])
        for number, what in enumerate(WRONG)
    ],
)
def test_a_manifest_of_an_export_that_is_none(tmp_path: Path, exported: Path, world: Path, what: str) -> None:
    copied = Path(shutil.copytree(exported, tmp_path / "copy"))
    path = copied / "deployment.json"
    content = (
        what if not what.isidentifier() else json.dumps({**json.loads(path.read_text()), what: [3, [], {}]})
    )
    path.write_text(content)
    message = refused("evaluate", copied, "--validation", world / "dev.csv")
    assert "deployment.json" in message
    assert "codir export" in message
    assert codir("report", copied).code == 2
