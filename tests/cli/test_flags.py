"""Flags become a configuration, or the arguments of a workflow, and what makes no sense is refused at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import codir
from codir.config.config import DistillConfig, FinetuneConfig
from codir.config.library import recipe_names
from codir.studies import run as studies

DISTILL = ["distill", "--teacher", "t", "--task", "sst2", "--output", "o"]
FINETUNE = ["finetune", "--model", "m", "--task", "sst2", "--output", "o"]


def value_at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


# --- flags --------------------------------------------------------------------------------------------------------

FILES = ["--train", "a.csv", "--validation", "b.csv", "--text", "review", "--label", "stars"]
SHARED = [
    (["--data-dir", "d"], "data.data_dir", Path("d")),
    (["--max-length", "64"], "data.max_length", 64),
    (["--limit-train", "10"], "data.limit_train", 10),
    (["--limit-validation", "11"], "data.limit_validation", 11),
    (["--epochs", "1.5"], "training.num_train_epochs", 1.5),
    (["--batch-size", "8"], "training.per_device_train_batch_size", 8),
    (["--learning-rate", "1e-5"], "training.learning_rate", 1e-5),
    (["--precision", "bf16"], "training.precision", "bf16"),
    (["--seed", "7"], "training.seed", 7),
    (["--set", "training.max_grad_norm=2e-1"], "training.max_grad_norm", 0.2),
    (["--set", "training.seed=1", "--set", "training.seed=2"], "training.seed", 2),
    (["--resume"], "resume", True),
    ([], "resume", False),
    ([], "data.task", "sst2"),
    ([], "output", Path("o")),
]
DISTILL_ONLY = [
    ([], "teacher", "t"),
    (["--student-layers", "3"], "student.layers", 3),
    (["--student-init", "last"], "student.init", "last"),
    (["--student-init", "2,4"], "student.init", [2, 4]),
    (["--student", "other"], "student.model", "other"),
    (["--student-config", "c.json"], "student.config", Path("c.json")),
    (["--recipe", "kd"], "recipe", "kd"),
    (["--no-cache"], "cache", False),
    ([], "cache", True),
    (["--cache-dir", "cc"], "cache_dir", Path("cc")),
    (["--no-baseline"], "baseline", False),
    ([], "baseline", True),
    (["--kd"], "kd", True),
    ([], "kd", False),
]


@pytest.mark.parametrize(("flags", "path", "value"), SHARED + DISTILL_ONLY)
def test_flags_of_distill(run: Any, flags: list[str], path: str, value: Any, calls: list[Any]) -> None:
    result = run(*DISTILL, *flags)
    assert result.exit_code == 0, result.output
    ((name, (config,), _),) = calls
    assert name == "distill"
    assert isinstance(config, DistillConfig)
    assert value_at(config, path) == value


@pytest.mark.parametrize(("flags", "path", "value"), [*SHARED, ([], "model", "m")])
def test_flags_of_finetune(run: Any, flags: list[str], path: str, value: Any, calls: list[Any]) -> None:
    result = run(*FINETUNE, *flags)
    assert result.exit_code == 0, result.output
    ((name, (config,), _),) = calls
    assert name == "finetune"
    assert isinstance(config, FinetuneConfig)
    assert value_at(config, path) == value


@pytest.mark.parametrize("start", [["distill", "--teacher", "t"], ["finetune", "--model", "m"]])
def test_files_by_column(run: Any, start: list[str], calls: list[Any]) -> None:
    result = run(*start, "--output", "o", *FILES, "--text-pair", "reply", "--kind", "regression")
    assert result.exit_code == 0, result.output
    data = calls[0][1][0].data
    assert (data.train, data.validation, data.text, data.text_pair) == ("a.csv", "b.csv", "review", "reply")
    assert (data.label, data.kind) == ("stars", "regression")


def test_every_setting_of_a_training_is_a_flag_and_a_setting(run: Any, calls: list[Any]) -> None:
    flags = [
        "--weight-decay",
        "0.01",
        "--report-to",
        "tensorboard,wandb",
        "--no-load-best-model-at-end",
        "--eval-steps",
        "50",
    ]
    assert run(*DISTILL, *flags, "--student-init", "1,3", "--cache-tokens-gb", "3").exit_code == 0
    config = calls[0][1][0]
    training = config.training
    assert (training.weight_decay, training.report_to) == (0.01, ["tensorboard", "wandb"])
    assert (training.load_best_model_at_end, training.eval_steps) == (False, 50)
    assert (config.student.init, config.cache_tokens_gb) == ([1, 3], 3.0)


def test_names_of_training_arguments_are_flags_and_short_ones_their_aliases(run: Any, calls: list[Any]) -> None:
    flags = ["--num-train-epochs", "2", "--lr", "1e-5", "--per-device-train-batch-size", "4"]
    assert run(*DISTILL, *flags, "--logging-steps=7", "--optim", "adamw_torch").exit_code == 0
    training = calls[0][1][0].training
    assert (training.num_train_epochs, training.learning_rate) == (2.0, 1e-5)
    assert training.per_device_train_batch_size == 4
    assert training.more() == {"logging_steps": 7, "optim": "adamw_torch"}
    assert run(*FINETUNE, "--epochs", "3", "--batch-size", "8", "--learning-rate", "1e-4").exit_code == 0
    assert calls[1][1][0].training.per_device_train_batch_size == 8


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epoch", "3"], "No such option: --epoch (did you mean '--epochs'?)"),
        (["--logging-steps"], "--logging-steps needs a value"),
        (["--logging-steps", "often"], "training.logging_steps is 'often': must be a number"),
        (["and", "more"], "Nothing is known to do with: and"),
        (["--bf16", "true"], "training.bf16 is no setting of its own: use training.precision instead"),
    ],
)
def test_other_flags_are_refused_by_name(run: Any, flags: list[str], words: str, calls: list[Any]) -> None:
    result = run(*DISTILL, *flags)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert not calls


def test_a_configuration_file_alone_is_enough(run: Any, calls: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("recipe: kd\nteacher: t\noutput: o\ndata:\n  task: mrpc\ntraining:\n  learning_rate: 1e-3\n")
    result = run("distill", "--config", str(path), "--set", "training.learning_rate=1e-5", "--seed", "3")
    assert result.exit_code == 0, result.output
    config = calls[0][1][0]
    assert (config.recipe, config.training.learning_rate, config.training.seed) == ("kd", 1e-5, 3)


def test_evaluate(run: Any, calls: list[Any]) -> None:
    assert run("evaluate", "runs/s", "--task", "sst2", "--batch-size", "4", "--limit-validation", "9").exit_code == 0
    (name, (model, data, batch_size), _) = calls[0]
    assert (name, model, data.task, data.limit_validation, batch_size) == ("evaluate", "runs/s", "sst2", 9, 4)
    assert run("evaluate", "runs/s", "--validation", "dev.csv", "--text", "a", "--label", "b").exit_code == 0
    assert calls[1][1][1].validation == "dev.csv"
    # held out from the training file, as `distill` did
    assert run("evaluate", "runs/s", "--train", "train.csv").exit_code == 0
    assert calls[2][1][1].train == "train.csv"


def test_predict(run: Any, calls: list[Any]) -> None:
    result = run("predict", "runs/s", "--input", "a.txt", "--output", "p.jsonl", "--text", "review")
    assert result.exit_code == 0, result.output
    name, args, kwargs = calls[0]
    assert (name, args) == ("predict", ("runs/s", Path("a.txt"), Path("p.jsonl")))
    assert kwargs == {"batch_size": 32, "text": "review", "max_length": None, "overwrite": False}
    flags = ["--text-pair", "reply", "--max-length", "64", "--overwrite", "--batch-size", "8"]
    flags += ["--encoding", "cp1252", "--delimiter", ";"]
    assert run("predict", "m", "--input", "a", "--output", "b", *flags).exit_code == 0
    assert calls[1][2] == {
        "batch_size": 8,
        "text_pair": "reply",
        "encoding": "cp1252",
        "delimiter": ";",
        "max_length": 64,
        "overwrite": True,
    }


def test_demo(run: Any, calls: list[Any]) -> None:
    assert run("demo").exit_code == 0
    assert run("demo", "--output", "x").exit_code == 0
    assert [args for _, args, _ in calls] == [(Path("runs/demo"),), (Path("x"),)]


def test_recipes_are_listed_with_their_source(run: Any) -> None:
    output = run("recipes").output
    for name in recipe_names():
        assert name in output
    assert output.count("from:") == output.count("needs:") == len(recipe_names())


def test_a_recipe_printed_is_a_configuration_file(run: Any, calls: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(run("recipes", "codir-fine").output, encoding="utf-8")
    assert run(*DISTILL, "--config", str(path)).exit_code == 0
    assert run(*DISTILL).exit_code == 0
    assert calls[0] == calls[1]


def test_version(run: Any) -> None:
    assert run("--version").output == f"codir {codir.__version__}\n"


@pytest.mark.parametrize("command", ["finetune", "distill", "evaluate", "predict", "demo", "recipes"])
def test_help_of_each_command(run: Any, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage: codir" in result.output or "Usage: root" in result.output


def test_help_comes_from_the_settings(run: Any) -> None:
    output = run("distill", "--help").output
    assert "texts are cut to this many tokens (default: 128)" in output
    assert "--no-cache" in output
    assert "--set" in output


# --- augment, corpus, export, latency -------------------------------------------------------------------------------


def called(run: Any, calls: list[Any], line: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Runs a command and returns what its workflow was given."""
    done = run(*line.split())
    assert done.exit_code == 0, done.output
    _, args, settings = calls.pop()
    return args, settings


def test_augment(run: Any, calls: list[Any]) -> None:
    (model, data, output), settings = called(run, calls, "augment --model mlm --task cola --output o.jsonl")
    assert (model, output) == ("mlm", Path("o.jsonl"))
    assert (data.task, data.holdout, data.limit_train) == ("cola", None, None)
    # the paper's
    assert (settings["copies"], settings["probability"], settings["candidates"]) == (20, 0.4, 15)
    line = "augment --model m --train t.csv --text review --label stars --holdout 0.2 --max-length 32"
    (_, data, _), settings = called(
        run, calls, f"{line} --copies 3 --seed 7 --precision fp32 --resume --output o.jsonl"
    )
    assert (data.train, data.text, data.label, data.holdout) == ("t.csv", "review", "stars", 0.2)
    assert (settings["copies"], settings["seed"], settings["precision"]) == (3, 7, "fp32")
    assert (settings["resume"], settings["overwrite"]) == (True, False)


@pytest.mark.parametrize(
    ("flags", "inputs"),
    [
        ("--input a.jsonl b.txt c.txt", ["a.jsonl", "b.txt", "c.txt"]),
        ("--input a --input b", ["a", "b"]),
        ("a b", ["a", "b"]),
        ("--input org/name:en:train", ["org/name:en:train"]),
    ],
)
def test_inputs_of_a_corpus(run: Any, calls: list[Any], flags: str, inputs: list[str]) -> None:
    args, settings = called(run, calls, f"corpus {flags} --tokenizer t --output o")
    assert args == (inputs, "t", Path("o"))
    assert (settings["block"], settings["workers"], settings["resume"]) == (512, None, False)
    more = "--block 128 --text body --documents file --validation 0.2 --workers 3 --seed 4 --resume"
    _, settings = called(run, calls, f"corpus {flags} --tokenizer t --output o {more}")
    assert (settings["block"], settings["text"], settings["documents"]) == (128, "body", "file")
    assert (settings["validation"], settings["workers"], settings["seed"]) == (0.2, 3, 4)


EXPORT = "export runs/student --format onnx --output deploy/student"


def test_export(run: Any, calls: list[Any]) -> None:
    args, settings = called(run, calls, EXPORT)
    assert args == ("runs/student", Path("deploy/student"), "onnx")
    assert settings == {"data": None, "use_run_data": True}
    limits = "--max-difference 0.1 --min-agreement 0.9 --max-drop 1 --calibration 50 --batch-size 4"
    data = "--task mrpc --data-dir glue --max-length 64 --limit-validation 9 --quantize int8"
    _, settings = called(run, calls, f"{EXPORT} {limits} {data}")
    given = settings.pop("data")
    assert (given.task, given.data_dir, given.max_length) == ("mrpc", Path("glue"), 64)
    assert given.limit_validation == 9
    values = {
        "max_difference": 0.1,
        "min_agreement": 0.9,
        "max_drop": 1.0,
        "calibration": 50,
        "batch_size": 4,
    }
    assert settings == {**values, "quantize": "int8", "use_run_data": True}
    _, settings = called(run, calls, f"{EXPORT} --max-length 40")
    assert settings["data"] == {"max_length": 40}  # over what the run says


def test_latency(run: Any, calls: list[Any]) -> None:
    (models, data), settings = called(run, calls, "latency runs/teacher")
    assert (models, data) == (["runs/teacher"], None)
    assert settings == {"use_run_data": True, "output": None, "overwrite": False}
    flags = "--engines torch,openvino-int8 --validation dev.csv --text review --batch 8 --max-length 64 --rounds 5"
    flags += " --sequences 100 --threads 2 --device cuda --no-memory --output latency.json --overwrite"
    (models, data), settings = called(run, calls, f"latency runs/teacher runs/student {flags}")
    assert models == ["runs/teacher", "runs/student"]
    assert (data.validation, data.text) == ("dev.csv", "review")
    sizes = {"batch": 8, "max_length": 64, "rounds": 5, "sequences": 100, "threads": 2}
    others = {"engines": "torch,openvino-int8", "use_run_data": True, "device": "cuda", "memory": False}
    assert settings == {**sizes, **others, "output": Path("latency.json"), "overwrite": True}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("augment --model m --output o", "There are no training texts"),
        ("augment --model m --output o --task cola --train t.csv", "exclude each other"),
        ("augment --model m --output o --task cola --precision bf17", "Known: auto, fp32, bf16, fp16"),
        ("augment --model m --output o --task cola --holdout 2", "holdout"),
        ("corpus --tokenizer t --output o", "There is no input: add --input"),
        ("export m --format onnx", "Missing option '--output'"),
        (f"{EXPORT} --task mrpc --no-data", "--task names data and --no-data leaves them out"),
        ("latency m --task mrpc --validation dev.csv", "exclude each other"),
        ("latency m --batch many", "'--batch'"),
        ("latency", "Missing argument"),
        ("study", "Nothing to study"),
        ("study --status", "Add --output"),
        ("study --status --output /nowhere/s", "holds no study"),
        ("study --report --output /nowhere/s", "holds no study"),
        ("study --recipes kd --tasks mrpc --model m --output o --teachers mrpc", "expected NAME=MODEL"),
        ("study --recipes kd --tasks mrpc --model m --output o --seeds a", "give seeds such as 1-5"),
        ("study --recipes kd --tasks mrpc --model m --output o --set wrokers=2", "did you mean 'workers'"),
        ("reproduce table4 --model m --output o --teacher runs/mrpc", "expected NAME=MODEL"),
        ("reproduce table4 --model m --output o --pretrained =x", "expected NAME=MODEL"),
        ("reproduce table9 --model m --output o", "table9"),
        ("reproduce table4 --model m --output o --scale tiny", "tiny"),
    ],
)
def test_bad_flags_are_refused(run: Any, calls: list[Any], line: str, message: str) -> None:
    done = run(*line.split())
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())
    assert not calls


# --- study, reproduce -----------------------------------------------------------------------------------------------

STUDY = "study --recipes finetune,kd --tasks mrpc --model m --output o"


def test_study(run: Any, calls: list[Any], tmp_path: Path) -> None:
    more = "--seeds 1-3 --epochs 2 --student-layers 3 --limit-train 50 --workers 2 --teachers mrpc=runs/t"
    (config,), settings = called(run, calls, f"{STUDY} {more} --set training.warmup_steps=0.1 --retry-failed")
    assert (config.seeds, config.workers, config.teachers) == ([1, 2, 3], 2, {"mrpc": "runs/t"})
    trained = config.training.model_dump(exclude_unset=True)
    assert trained == {"num_train_epochs": 2.0, "warmup_steps": 0.1}
    assert (config.student.layers, config.tasks["mrpc"].limit_train) == (3, 50)
    assert settings == {"retry_failed": True}

    study = tmp_path / "study.yaml"  # flags win over the file
    study.write_text("recipes: [kd, finetune]\ntasks: [mrpc]\nmodel: m\nseeds: 1-5\ntraining: {num_train_epochs: 3}\n")
    (config,), _ = called(run, calls, f"study {study} --output {tmp_path / 's'} --seeds 7 --epochs 1")
    assert config.seeds == [7]
    assert config.training.model_dump(exclude_unset=True) == {"num_train_epochs": 1.0}
    assert list(config.recipes) == ["kd", "finetune"]

    # --resume alone takes the study in the folder
    (config,), _ = called(run, calls, f"study --output {tmp_path} --resume --workers 3")
    assert (config.resume, config.workers, config.output) == (True, 3, tmp_path)


def test_a_study_with_failures_ends_with_1(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "study", lambda config, **_: SimpleNamespace(failed={"a": "b"}))
    assert run(*STUDY.split()).exit_code == 1


def test_reproduce(run: Any, calls: list[Any]) -> None:
    flags = "--scale small --teacher mrpc=a=b --pretrained mlm-pre=c --tasks mrpc,cola --seeds 1-3 --workers 2"
    more = "--corpus x.txt --corpus y.txt --set data.limit_train=5"
    (wanted,), _ = called(run, calls, f"reproduce table4 --model m --output out {flags} {more}")
    assert (wanted.table, wanted.scale, wanted.model) == ("table4", "small", "m")
    assert (wanted.teachers, wanted.pretrained) == ({"mrpc": "a=b"}, {"mlm-pre": "c"})
    assert (wanted.tasks, wanted.seeds, wanted.workers) == (["mrpc", "cola"], "1-3", 2)
    assert wanted.corpus == ("x.txt", "y.txt")
    assert wanted.overrides == ("data.limit_train=5",)
    assert run("reproduce", "table4", "--model", "m", "--output", "out", "--plan").exit_code == 0
    assert calls.pop()[0] == "show_plan"
