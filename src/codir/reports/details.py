"""Costs and facts of a run in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codir.errors import CodirError
from codir.losses.registry import needs_of, views_of
from codir.models.loading import class_names, load_config
from codir.models.representations import EncoderShape
from codir.reports.escaping import capital, shortened
from codir.reports.measured import blocks_in
from codir.reports.run_files import RunFiles, items, mapping
from codir.runs.comparison import TITLES
from codir.runs.timing import model_size
from codir.storage import human_bytes
from codir.teacher.cache import cache_bytes

_MACHINE = {"platform": "system", "cpu": "processor", "cores": "cores", "threads": "threads", "cuda": "CUDA"}


def costs_of(run: RunFiles, names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns what a run cost, a line each.

    Args:
        run: the run.
        names: what its students are called, by role.
    """
    costs = mapping(run.metrics.get("costs"))
    if not costs and (cost := mapping(run.metrics.get("cost"))):
        costs = {"student" if run.command == "pretrain" else "model": cost}
    lines, training = [], 0.0
    for role, cost in costs.items():
        cost = mapping(cost)
        seconds = cost.get("seconds")
        if not isinstance(seconds, int | float) or not math.isfinite(seconds):
            continue
        training += seconds
        steps, best = cost.get("steps"), cost.get("best_step")
        words = duration(seconds) + (f", {steps:,} steps" if isinstance(steps, int) else "")
        if isinstance(best, int):
            words += f"; the weights kept are those of step {best:,}"
        lines.append((f"training of the {names.get(role, TITLES.get(role, role))}", words))
    whole = run.seconds
    if whole is not None:
        lines.append(("the whole command", duration(whole)))
        rest = whole - training
        if training and rest > 0 and run.command == "distill":
            lines.append(("of it the teacher's pass, encoding, judging and timing", duration(rest)))
    if run.command == "distill":
        lines.append(("teacher", _teachers_pass(run)))
    weights = model_size(run.path)
    if weights:
        lines.append(("the model's weights on disk", human_bytes(weights)))
    return lines


def _teachers_pass(run: RunFiles) -> str:
    if not run.config.get("cache", True):
        return "ran in every step (no cache)"
    words = "ran once over the training data, into a cache"
    folder = run.find(str(run.config.get("teacher") or ""))
    examples = run.metrics.get("train_examples")
    if folder is None or not isinstance(examples, int):
        return words
    unlabelled = mapping(run.metrics.get("unlabeled")).get("examples")
    if isinstance(unlabelled, int):
        examples += unlabelled
    try:
        config = load_config(folder)
        shape = EncoderShape(config.num_hidden_layers, config.hidden_size)
        objectives = run.section("objectives")
        needs = needs_of(objectives)
        tokens = views_of(objectives, EncoderShape(blocks_in(run.path) or 1, shape.width), shape).teacher
        outputs = config.num_labels or 1
    except (CodirError, AttributeError, TypeError, ValueError):
        # gone, of a family that does not say, or objectives of another version
        return words
    size = human_bytes(cache_bytes(examples, outputs, shape, needs.pooled))
    blocks = ", pooled blocks" if needs.pooled else ""
    on_top = "; the vectors of single tokens that the recipe reads come on top" if tokens else ""
    return f"{words} of {size} (logits{blocks}{on_top})"


def facts_of(run: RunFiles) -> list[tuple[str, str]]:
    """Returns what a run was made with, a line each."""
    environment = run.environment
    facts: list[tuple[str, Any]] = [
        ("command", environment.get("command")),
        ("state", run.state),
        ("started", run.started),
        ("recipe", run.config.get("recipe")),
        ("teacher", run.config.get("teacher")),
        ("data", data_in_words(run)),
        ("seed", environment.get("seed", run.metrics.get("seed"))),
        ("precision", environment.get("precision")),
        ("training examples", _count(run.metrics.get("train_examples"))),
        ("unlabelled texts", _count(mapping(run.metrics.get("unlabeled")).get("examples"))),
        *(
            (f"{split} examples", _count(number))
            for split, number in mapping(run.metrics.get("validation_examples")).items()
        ),
    ]
    known = [(name, str(value)) for name, value in facts if value not in (None, "")]
    return [*known, *environment_facts(environment), ("folder", str(run.path))]


def environment_facts(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns machine, git state and versions of an `environment.json`, a line each."""
    machine = mapping(environment.get("machine"))
    facts: list[tuple[str, Any]] = [(title, machine.get(key)) for key, title in _MACHINE.items()]
    facts.append(("GPUs", ", ".join(map(str, items(machine.get("gpus")))) or None))
    git = mapping(environment.get("git"))
    if git.get("commit"):
        dirty = ", with changes that are not committed" if git.get("dirty") else ""
        facts.append(("git commit", f"{git['commit']}{dirty}"))
    versions = mapping(environment.get("versions"))
    facts.append(("versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value)))
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def data_in_words(run: RunFiles) -> str:
    """Names a run's task or files."""
    data = run.section("data")
    if run.command == "pretrain":
        return str(run.config.get("corpus") or "")
    if data.get("task"):
        folder = f" from {data['data_dir']}" if data.get("data_dir") else ""
        return f"{data['task']}{folder}"
    return ", ".join(f"{key} {data[key]}" for key in ("train", "validation") if data.get(key))


_GLUE = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "qqp": "QQP",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
}
_MOST_NAMED = 4  # classes; more of them are counted


def task_in_words(run: RunFiles) -> str:
    """Says what the answers are, where the data are files, whose names say little; empty for a task by name."""
    if run.command == "pretrain" or run.section("data").get("task"):
        return ""
    kind = run.section("data").get("kind")
    try:
        names = list(class_names(load_config(run.path)).values())
    except (CodirError, AttributeError, TypeError, ValueError):
        names = []
    if kind == "regression" or len(names) == 1:
        return "scores of texts"
    if not names:
        return "classes of texts"
    if len(names) > _MOST_NAMED or all(str(name).startswith("LABEL_") for name in names):
        return f"{len(names)} classes of texts"
    return " or ".join(shortened(name, 30) for name in names)


def title_of(run: RunFiles) -> str:
    """Returns the page's title: what the model answers, and what it is."""
    blocks = blocks_in(run.path)
    if run.command == "pretrain":
        return f"Pre-trained student{f' with {blocks} blocks' if blocks else ''}"
    task = str(run.section("data").get("task") or "")
    about = _GLUE.get(task, capital(task)) if task else capital(task_in_words(run))
    if run.command == "finetune":
        return f"{about}: fine-tuned model" + (f" with {blocks} blocks" if blocks else "")
    teacher = run.find(str(run.config.get("teacher") or ""))
    whole = blocks_in(teacher)
    size = f" with {blocks}{f' of {whole}' if whole else ''} blocks" if blocks else ""
    return f"{about}: distilled student{size}"


def task_name(run: RunFiles) -> str:
    """Returns the task's name as the results say it, or as the configuration does."""
    if run.command == "pretrain":
        return "masked tokens"
    named = run.metrics.get("task") or run.section("data").get("task")
    if named:
        return str(named)
    train = run.section("data").get("train")
    return Path(str(train)).stem if train else "unknown"


def duration(seconds: float) -> str:
    """Returns a time as people say it: `45 s`, `4 min 46 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _count(value: Any) -> str | None:
    return f"{value:,}" if isinstance(value, int) else None
