"""The commands turn flags into a configuration and hand it to a workflow; failures become messages and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import codir.runs
from codir.cli.main import app
from codir.config.config import DistillConfig, FinetuneConfig
from codir.config.library import recipe_names
from codir.errors import DataError, InterruptedRunError

DISTILL = ["distill", "--teacher", "t", "--task", "sst2", "--output", "o"]
FINETUNE = ["finetune", "--model", "m", "--task", "sst2", "--output", "o"]


def run(*arguments: str) -> Result:
    # A wide terminal, so that help and messages are not broken into lines.
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, list(arguments))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Replaces every workflow by one that notes what it was called with."""
    noted: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    for name in ("finetune", "distill", "evaluate", "predict", "demo"):

        def workflow(*args: Any, _name: str = name, **kwargs: Any) -> None:
            noted.append((_name, args, kwargs))

        monkeypatch.setattr(codir.runs, name, SimpleNamespace(**{name: workflow}), raising=False)
    return noted


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, workflow: str = "distill") -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(codir.runs, workflow, SimpleNamespace(**{workflow: fail}), raising=False)


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
def test_flags_of_distill(flags: list[str], path: str, value: Any, calls: list[Any]) -> None:
    result = run(*DISTILL, *flags)
    assert result.exit_code == 0, result.output
    (name, (config,), _) = calls[0]
    assert name == "distill"
    assert isinstance(config, DistillConfig)
    assert value_at(config, path) == value


@pytest.mark.parametrize(("flags", "path", "value"), [*SHARED, ([], "model", "m")])
def test_flags_of_finetune(flags: list[str], path: str, value: Any, calls: list[Any]) -> None:
    result = run(*FINETUNE, *flags)
    assert result.exit_code == 0, result.output
    (name, (config,), _) = calls[0]
    assert name == "finetune"
    assert isinstance(config, FinetuneConfig)
    assert value_at(config, path) == value


@pytest.mark.parametrize("start", [["distill", "--teacher", "t"], ["finetune", "--model", "m"]])
def test_files_by_column(start: list[str], calls: list[Any]) -> None:
    result = run(*start, "--output", "o", *FILES, "--text-pair", "reply", "--kind", "regression")
    assert result.exit_code == 0, result.output
    data = calls[0][1][0].data
    assert (data.train, data.validation, data.text, data.text_pair) == ("a.csv", "b.csv", "review", "reply")
    assert (data.label, data.kind) == ("stars", "regression")


def test_every_setting_of_a_training_is_a_flag_and_a_setting(calls: list[Any]) -> None:
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


def test_names_of_training_arguments_are_flags_and_short_ones_their_aliases(calls: list[Any]) -> None:
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
def test_other_flags_are_refused_by_name(flags: list[str], words: str, calls: list[Any]) -> None:
    result = run(*DISTILL, *flags)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert not calls


def test_a_configuration_file_alone_is_enough(calls: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(
        "recipe: kd\nteacher: t\noutput: o\ndata:\n  task: mrpc\ntraining:\n  learning_rate: 1e-3\n"
    )
    result = run("distill", "--config", str(path), "--set", "training.learning_rate=1e-5", "--seed", "3")
    assert result.exit_code == 0, result.output
    config = calls[0][1][0]
    assert (config.recipe, config.training.learning_rate, config.training.seed) == ("kd", 1e-5, 3)


def test_evaluate(calls: list[Any]) -> None:
    assert (
        run("evaluate", "runs/s", "--task", "sst2", "--batch-size", "4", "--limit-validation", "9").exit_code
        == 0
    )
    (name, (model, data, batch_size), _) = calls[0]
    assert (name, model, data.task, data.limit_validation, batch_size) == ("evaluate", "runs/s", "sst2", 9, 4)
    assert run("evaluate", "runs/s", "--validation", "dev.csv", "--text", "a", "--label", "b").exit_code == 0
    assert calls[1][1][1].validation == "dev.csv"
    # held out from the training file, as `distill` did
    assert run("evaluate", "runs/s", "--train", "train.csv").exit_code == 0
    assert calls[2][1][1].train == "train.csv"


def test_predict(calls: list[Any]) -> None:
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


def test_demo(calls: list[Any]) -> None:
    assert run("demo").exit_code == 0
    assert run("demo", "--output", "x").exit_code == 0
    assert [args for _, args, _ in calls] == [(Path("runs/demo"),), (Path("x"),)]


def test_recipes_are_listed_with_their_source() -> None:
    output = run("recipes").output
    for name in recipe_names():
        assert name in output
    assert output.count("from:") == output.count("needs:") == len(recipe_names())


def test_a_recipe_printed_is_a_configuration_file(calls: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(run("recipes", "codir-fine").output, encoding="utf-8")
    assert run(*DISTILL, "--config", str(path)).exit_code == 0
    assert run(*DISTILL).exit_code == 0
    assert calls[0] == calls[1]


def test_version() -> None:
    assert run("--version").output == f"codir {codir.__version__}\n"


@pytest.mark.parametrize("command", ["finetune", "distill", "evaluate", "predict", "demo", "recipes"])
def test_help_of_each_command(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage: codir" in result.output or "Usage: root" in result.output


def test_help_comes_from_the_settings() -> None:
    output = run("distill", "--help").output
    assert "texts are cut to this many tokens (default: 128)" in output
    assert "--no-cache" in output
    assert "--set" in output


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distill"], ["--teacher runs/teacher", "--output runs/student", "--task sst2"]),
        (["finetune"], ["--model roberta-base", "--task sst2"]),
        (["evaluate", "runs/s"], ["--task sst2", "--validation dev.csv"]),
        ([*DISTILL, "--train", "a.csv"], ["exclude each other", "--task", "--train"]),
        ([*DISTILL, "--epochs", "0"], ["--epochs: training.num_train_epochs is 0.0"]),
        ([*DISTILL, "--precision", "fp8"], ["--precision", "'fp8'", "'bf16'"]),
        ([*DISTILL, "--student-init", "frist"], ["--student-init", "did you mean 'first'"]),
        (
            [*DISTILL, "--student", "m", "--student-layers", "3"],
            ["--student", "--student-layers", "leave out"],
        ),
        ([*DISTILL, "--set", "training.learnin_rate=1"], ["did you mean 'learning_rate'"]),
        ([*DISTILL, "--set", "nonsense"], ["key=value"]),
        ([*DISTILL, "--recipe", "codir"], ["no recipe 'codir'", "codir-fine"]),
        ([*DISTILL, "--config", "no-such.yaml"], ["no-such.yaml", "No such file"]),
        (["recipes", "kdd"], ["did you mean 'kd'"]),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    arguments: list[str], words: list[str], calls: list[Any]
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert not calls
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    "arguments", [["distil"], [*DISTILL, "--epoch", "3"], [*DISTILL, "--seed", "x"], ["predict", "m"]]
)
def test_misspelt_commands_and_flags(arguments: list[str], calls: list[Any]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert not calls
    assert "Traceback" not in result.output


def test_an_error_of_a_workflow_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, DataError("dev.csv, line 3: [no label] " + "x" * 300))
    result = run(*DISTILL)
    assert result.exit_code == 2
    # whole, with its brackets, in one line: it can be searched for and copied
    assert result.stderr == "Error: dev.csv, line 3: [no label] " + "x" * 300 + "\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
        (errno.EDQUOT, "quota"),
    ],
)
def test_disks_that_cannot_be_written(number: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, OSError(number, os.strerror(number), "runs/student/model.safetensors"))
    result = run(*DISTILL)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "runs/student/model.safetensors" in result.stderr


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "input/output error")])
def test_bugs_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, error)
    result = run(*DISTILL)
    assert result.exception is error


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    result = run(*DISTILL)
    assert result.exit_code == 130
    assert "--resume" in result.stderr
    failing(monkeypatch, KeyboardInterrupt(), "predict")
    result = run("predict", "m", "--input", "a", "--output", "b")
    assert result.exit_code == 130
    assert "--resume" not in result.stderr


def test_a_run_that_saved_before_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, InterruptedRunError("Stopped at step 12."))
    result = run(*DISTILL)
    assert (result.exit_code, result.stderr) == (130, "Stopped at step 12.\n")


def test_a_real_process_that_gets_ctrl_c() -> None:
    program = (
        "import codir.runs, os, signal, time\n"
        "from types import SimpleNamespace\n"
        "def wait(config):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(30)\n"
        "codir.runs.distill = SimpleNamespace(distill=wait)\n"
        "from codir.cli.main import run\n"
        "run()\n"
    )
    # A shell without job control starts its background jobs with SIGINT ignored; children inherit that.
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import signal; signal.signal({int(signal.SIGINT)}, signal.default_int_handler)\n{program}",
            *DISTILL,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 130
    assert "--resume" in result.stderr
    assert "Traceback" not in result.stderr
