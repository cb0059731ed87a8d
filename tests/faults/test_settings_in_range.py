"""Every setting has a type and a range: an absurd value is refused by its name, before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fault_world import Outcome, codir, flags, refused

import codir as library

# as they are written in YAML and by --set
ABSURD = ("0", "-1", "1" + 30 * "0", "9" * 5000, ".nan", "1e300", "''", "text", "[]", "{}", "null", "true")
# what no number of any setting may be: refused for each of them, and not by the missing model
NEVER = ("1" + 30 * "0", "9" * 5000, ".nan", ".inf", "text", "[1, 2]", "{a: 1}")
NO_MODEL = "no-such-model"


def _settings(model: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, annotation) of every setting of a configuration."""
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from _settings(field.annotation, f"{above}{name}.")
        elif name not in ("output", "objectives", "arguments"):
            yield f"{above}{name}", field.annotation


def _numeric(annotation: Any) -> bool:
    return annotation in (int, float, int | None, float | None)


DISTILL = dict(_settings(library.DistillConfig))
OBJECTIVES = {
    "crd": ("dim", "temperature", "momentum", "candidates", "max_similarity", "score_margin"),
    "kd": ("temperature", "weight", "start", "end"),
}
PRETRAIN = (
    *(f"training.{key}" for key in ("max_steps", "per_device_train_batch_size", "global_batch_size")),
    *(f"training.{key}" for key in ("neighbours", "eval_steps", "save_steps")),
    *(f"masking.{key}" for key in ("probability", "masked", "random")),
)


def _asked(command: str, settings: Sequence[tuple[str, str]], tmp_path: Path) -> Outcome:
    given = {
        "distill": ["--teacher", tmp_path / NO_MODEL, "--task", "acceptability"],
        "finetune": ["--model", tmp_path / NO_MODEL, "--task", "acceptability"],
        "pretrain": ["--corpus", tmp_path / NO_MODEL],
    }[command]
    output = tmp_path / "run"
    done = codir(command, *given, "--output", output, *(part for k, v in settings for part in ("--set", f"{k}={v}")))
    assert done.code == 2, done.text[:2000]
    assert "Traceback" not in done.text
    assert done.text.count("Error:") == 1
    assert not output.exists()
    return done


def _named(command: str, keys: Iterable[str], value: str, tmp_path: Path) -> None:
    """All keys get the value at once: one message names each of them."""
    keys = list(keys)
    message = _asked(command, [(key, value) for key in keys], tmp_path).text
    assert NO_MODEL not in message
    for key in keys:
        (said,) = [line for line in message.split("--set ")[1:] if line.startswith(f"{key}=")]
        assert "must be" in said or "not allowed" in said, said


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: value[:12])
def test_no_value_of_a_setting_is_a_traceback(value: str, tmp_path: Path) -> None:
    # what a value means for one setting may hide another: two rounds
    for start in range(2):
        _asked("distill", [(key, value) for key in list(DISTILL)[start::2]], tmp_path)


@pytest.mark.parametrize("value", [*NEVER, "true", "-10000000000"], ids=lambda value: value[:12])
def test_a_number_is_refused_by_name(value: str, tmp_path: Path) -> None:
    _named("distill", (key for key, kind in DISTILL.items() if _numeric(kind)), value, tmp_path)
    _named("pretrain", PRETRAIN, value, tmp_path)
    objectives = [f"objectives.{name}.{key}" for name, keys in OBJECTIVES.items() for key in keys]
    _named("distill", objectives, value, tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.per_device_train_batch_size", "100000000000000000000"),
        ("training.max_steps", "1e30"),
        ("training.learning_rate", "1e30"),
        ("training.eval_accumulation_steps", "0"),
        ("training.torch_compile", "5"),
        ("training.push_to_hub", "true"),
        ("training.per_device_eval_batch_size", "0"),
        ("training.dataloader_num_workers", "1000000"),
        ("training.logging_steps", "0"),
        ("training.ddp_timeout", "-5"),
        ("training.log_level", "loud"),
        ("training.optim", "no-such"),
        ("training.lr_scheduler_kwargs", "{nothing: 1}"),
        ("training.batch_eval_metrics", "true"),
        ("training.dataloader_in_order", "'yes'"),
        ("training.nothing", "1"),
    ],
)
def test_what_is_passed_on_is_checked_before_data_and_models(key: str, value: str, tmp_path: Path) -> None:
    command = "distill" if "steps" in key else "finetune"
    message = _asked(command, [(key, value)], tmp_path).message
    assert key.rpartition(".")[2] in message
    assert NO_MODEL not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("--epochs", "nan"),
        ("--batch-size", 10**20),
        ("--learning-rate", "-1"),
        ("--max-length", 10**10),
        ("--student-layers", 10**10),
        ("--seed", 10**20),
        ("--holdout", "nan"),
    ],
)
def test_flags_are_checked_alike(name: str, value: object, tmp_path: Path) -> None:
    given = ["distill", *flags(teacher=tmp_path / NO_MODEL, task="acceptability", output=tmp_path / "run")]
    message = refused(*given, name, value, leaves_nothing=tmp_path / "run")
    assert NO_MODEL not in message
    assert name[2:].rpartition("-")[2] in message


@pytest.mark.parametrize(
    "asked",
    [
        ("predict", "m", "--input", "i", "--output", "o", "--batch-size", 10**20),
        ("predict", "m", "--input", "i", "--output", "o", "--max-length", 10**20),
        ("evaluate", "m", "--task", "acceptability", "--batch-size", 10**20),
        ("latency", "m", "--rounds", 10**20),
        ("latency", "m", "--batch", 10**20),
        ("corpus", "i", "--tokenizer", "t", "--output", "o", "--block", 10**20),
        ("corpus", "i", "--tokenizer", "t", "--output", "o", "--validation", "nan"),
        ("plan", "--paper", "--gpus", 10**20),
        ("plan", "--paper", "--efficiency", "nan"),
        ("augment", "--model", "m", "--train", "i", "--output", "o", "--copies", 10**20),
        ("report", "run", "--examples", 10**20),
    ],
    ids=lambda asked: " ".join(map(str, asked[:1] + asked[-2:-1])),
)
def test_numbers_of_the_other_commands(asked: tuple[object, ...], tmp_path: Path) -> None:
    message = refused(*asked, cwd=tmp_path)
    assert f"{asked[-2]} is" in message


def test_python_and_yaml_are_checked_alike(tmp_path: Path) -> None:
    for settings in (
        {"training": {"per_device_train_batch_size": 10**20}},
        {"objectives": {"crd": {"dim": float("nan")}}},
    ):
        with pytest.raises(library.CodirError if hasattr(library, "CodirError") else Exception, match="must be"):
            library.distill(teacher="x", data={"task": "acceptability"}, output=tmp_path / "run", **settings)
    file = tmp_path / "my.yaml"
    file.write_text("recipe: codir-fine\ntraining:\n  num_train_epochs: " + "9" * 5000 + "\n")
    given = ["distill", "--teacher", "x", "--task", "acceptability", "--output", tmp_path / "run"]
    assert "my.yaml, line 3" in refused(*given, "--config", file)


def test_an_allocation_is_refused_by_its_memory(
    tmp_path: Path, tiny_model_dir: Callable[..., Path], train_csv: Path
) -> None:
    teacher, output, cache = tiny_model_dir(layers=2), tmp_path / "run", tmp_path / "cache"
    given = ["distill", "--teacher", teacher, "--train", train_csv, "--output", output, "--cache-dir", cache]
    settings = ["objectives.crd.dim=4000000000", "objectives.crd.k=10"]
    message = refused(*given, recipe="codir-fine", set=settings, leaves_nothing=output)
    assert "dim=4000000000" in message
    assert "of memory" in message
    assert not cache.exists()
