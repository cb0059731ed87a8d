"""A run folder as a report: its table, curves, what its models show of themselves, costs and facts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codir.data.glue import GLUE
from codir.errors import CodirError
from codir.files import human_bytes
from codir.kinds.metrics import constant_score, is_metric
from codir.measure.comparison import TITLES, Comparison, main_role
from codir.measure.timing import model_size
from codir.reports.curves import curves_of
from codir.reports.files import RunFiles, finite, items, layers_in, mapping, numbers, read_log, whole
from codir.reports.layers import add_views
from codir.reports.text import capital, duration, shortened
from codir.reports.times import Owners, Wanted, add_times
from codir.reports.values import Model, PairedOutcome, Panel, Report

_FINE_TUNED = "fine-tuned model"
_MOST_NAMED = 4  # classes; more of them are counted


def read_run(folder: Path, wanted: Wanted) -> Report:
    """Brings together what a run folder holds and, unless not wanted, what its models say of validation data.

    Nothing is written. What cannot be had is named in `Report.missing`; a run may be unfinished or under way.

    Raises:
        RunError: the folder is no run, or a file that was named cannot be used.
        ModelError: its model gives several answers to a text, which its numbers misread.
    """
    run = RunFiles(folder)
    report = Report(title="", kind="run", place=folder.resolve().name, missing=run.missing)
    report.config, report.recipe = run.config_text, str(run.config.get("recipe") or "")
    report.finished, report.subtitle, report.facts = run.finished, _subtitle(run), _facts(run)
    comparison = _comparison(run, report)
    names = dict(TITLES) | ({row.role: str(row.name) for row in comparison.rows} if comparison else {})
    main = main_role(run.section("objectives")) if run.section("objectives") else "codir"
    folders = [_folder_of(run, row.role, main) for row in comparison.rows] if comparison else [run.path]
    report.title, report.costs = _title(run), _costs(run, names)
    report.panels = _panels(run, comparison, folders, main)
    add_times(report, _owners(run, comparison, folders), wanted, _command(run))
    report.words = _words(run, comparison, report.panels)
    _add_curves(run, names, main, report)
    if run.command == "pretrain":
        why = "it is shown for runs of `codir distill`, on the validation data of a task"
        report.miss(why, "similarity", "disagreements", "representations", "confusions")
        return report
    students = {_FINE_TUNED if run.command == "finetune" else names[main]: run.path}
    plain = run.path / "comparison" / "finetune"
    if run.command == "distill" and (plain / "config.json").is_file():
        students[names["finetune"]] = plain
    examples = add_views(run, students, wanted.examples, wanted.data_dir, report)
    for number, panel in enumerate(report.panels):
        if panel.constant is None:  # which older runs do not say
            if examples is not None and len(examples.numbers) == examples.whole and is_metric(panel.metric):
                constant = constant_score(panel.metric, examples.labels)
                report.panels[number] = replace(panel, constant=constant)
            else:
                report.miss(
                    "the run does not say what answering one class to everything scores", "constant answer"
                )
    return report


def _comparison(run: RunFiles, report: Report) -> Comparison | None:
    content = run.metrics.get("comparison")
    if content is None:
        return None
    try:
        comparison = Comparison.from_json(content)
        comparison.plain_words()
        for row in comparison.rows:
            _model(row, comparison, None)
            if row.role not in (*TITLES, "other"):
                raise ValueError(f"there is no role {row.role!r}")
    except (CodirError, ValueError, TypeError, AttributeError, KeyError) as error:
        report.miss(f"{run.path / 'metrics.json'} is not what this codir writes: {error}", "table")
        return None
    return comparison


def _folder_of(run: RunFiles, role: str, main: str) -> Path | None:
    if role == "teacher":
        return run.teacher
    return run.path if role == main else run.path / "comparison" / role


def _owners(run: RunFiles, comparison: Comparison | None, folders: Sequence[Path | None]) -> Owners:
    named = run.config.get("teacher")
    teacher = run.teacher or (
        Path(str(named)) if named else None
    )  # a name of the Hub, or a folder that is gone
    of_rows = [[folder] if folder else [] for folder in folders]
    if comparison is not None and teacher is not None:
        of_rows = [
            [teacher] if r.role == "teacher" else f for r, f in zip(comparison.rows, of_rows, strict=True)
        ]
    elif run.command == "pretrain":
        of_rows = [[run.path] if row.get("name") == "student" else [] for row in _masked_rows(run)]
    length = run.section("data").get("max_length")
    return Owners(
        run.path,
        of_rows,
        [teacher] if teacher else [],
        run.examples,
        length if isinstance(length, int) else None,
    )


# ---- the table -------------------------------------------------------------------------------------------------------


def _panels(
    run: RunFiles, comparison: Comparison | None, folders: Sequence[Path | None], main: str
) -> list[Panel]:
    if comparison is not None:
        many = next(iter(run.examples.values()), None)  # of the first split, which is the main one
        models = []
        for row, folder in zip(comparison.rows, folders, strict=True):
            model = _model(row, comparison, folder).with_error(comparison.main_metric, many)
            # `codir` is the run's own student, whatever it learned from
            models.append(replace(model, role="codir") if row.role == main else model)
        tests = []
        if (plain := comparison.row("finetune")) is not None:
            for name, test in comparison.tests.items():
                with contextlib.suppress(TypeError, ValueError):  # of another version: the page does without
                    names = frozenset((str(plain.name), str(name)))
                    tests.append(PairedOutcome(names, bool(test.significant), test.in_words()))
        return [
            Panel(_task(run), comparison.main_metric, models, comparison.constant, tests, _task_in_words(run))
        ]
    if not run.metrics or run.command == "distill":
        return []
    if run.command == "pretrain":
        models = [_masked_model(row) for row in _masked_rows(run)]
        return [Panel("masked tokens", "accuracy", models)] if models else []
    metric, metrics = str(run.metrics.get("main_metric") or ""), mapping(run.metrics.get("metrics"))
    model = Model(
        name=_FINE_TUNED,
        role="teacher",
        group=_FINE_TUNED,
        score=finite(metrics.get(metric)),
        metrics=numbers(metrics),
        layers=layers_in(run.path),
        bytes=model_size(run.path) or None,
    )
    return [Panel(_task(run), metric, [model], label=_task_in_words(run))]


def _model(row: Any, comparison: Comparison, folder: Path | None) -> Model:
    model = Model(
        name=str(row.name),
        role=str(row.role),
        group=str(row.name),
        score=finite(row.score),
        metrics=numbers(row.metrics),
        kept=comparison.share_kept(row),
        agreement=finite(row.agreement),
        layers=layers_in(folder),
        parameters=whole(row.parameters),
        embedding_parameters=whole(row.embedding_parameters),
        bytes=whole(row.bytes),
    )
    return model if row.timing is None else model.timed(row.timing)


def _masked_rows(run: RunFiles) -> list[dict[str, Any]]:
    return [mapping(row) for row in items(mapping(run.metrics.get("scores")).get("rows"))]


def _masked_model(row: Mapping[str, Any]) -> Model:
    name = str(row.get("name"))
    return Model(
        name=name,
        role={"teacher": "teacher", "student": "codir"}.get(name, "other"),
        group=name,
        score=finite(row.get("accuracy")),
        metrics=numbers({key: row.get(key) for key in ("accuracy", "loss")}),
        agreement=finite(row.get("agreement")),
        layers=whole(row.get("layers")),
        parameters=whole(row.get("parameters")),
        embedding_parameters=whole(row.get("embedding_parameters")),
    )


# ---- words -----------------------------------------------------------------------------------------------------------


def _words(run: RunFiles, comparison: Comparison | None, panels: Sequence[Panel]) -> list[str]:
    words = [] if run.finished else [_how_far(run)]
    if comparison is not None:
        export = panels[0].deployed if panels else None
        fast = f" ({export.speedup:.2f} times as {export.group})" if export and export.speedup else ""
        return words + _as_shown(comparison, panels).plain_words(fast)
    if words:
        return words
    metric, metrics = str(run.metrics.get("main_metric")), mapping(run.metrics.get("metrics"))
    if (score := finite(metrics.get(metric))) is not None:
        on = f" on {_task(run)}" if run.section("data").get("task") else ""
        return [f"The fine-tuned model scores {score:.4f} in {metric}{on}."]
    rows = {str(row.get("name")): row for row in _masked_rows(run)}
    before, after = (finite(rows.get(name, {}).get("accuracy")) for name in ("student before", "student"))
    if before is not None and after is not None:
        say = f"The student predicts {after:.1%} of the held-out masked tokens"
        return [f"{say}, {before:.1%} before its pre-training."]
    return ["The run is finished; it has no scores to show."]


def _as_shown(comparison: Comparison, panels: Sequence[Panel]) -> Comparison:
    """Returns the comparison with the speed-ups of the table, which `codir latency` may have measured anew."""
    speedups = {model.name: model.speedup for model in panels[0].models}
    teacher = comparison.row("teacher")
    if teacher is None or speedups.get(str(teacher.name)) != 1.0:  # they are against something else
        return comparison
    rows = []
    for row in comparison.rows:
        if row.timing is not None and (speedup := speedups.get(str(row.name))) is not None:
            row = replace(row, timing=replace(row.timing, speedup=speedup))
        rows.append(row)
    return replace(comparison, rows=rows)


def _how_far(run: RunFiles) -> str:
    step = max((int(finite(entry.get("step")) or 0) for entry in run.log), default=0)
    state = {
        "running": "is under way (or was killed)",
        "interrupted": "was interrupted",
        "new": "has not begun",
        "finished": "is finished, but its results are missing or damaged",
    }.get(run.state, run.state)
    error = run.attempts[-1].get("error") if run.attempts else None
    why = f" ({error})" if error else ""
    return f"This run {state}{why}: its main student has logged up to step {step:,}. What there is so far is below."


def _subtitle(run: RunFiles) -> str:
    recipe, teacher = run.config.get("recipe"), run.config.get("teacher")
    made = {"distill": "distilled", "finetune": "fine-tuned", "pretrain": "pre-trained"}[run.command]
    parts = [f"{made} with {recipe}" if recipe else made, f"on {_data_in_words(run) or 'unknown data'}"]
    origin = (
        f"teacher {teacher}" if teacher else f"from {run.config['model']}" if run.config.get("model") else ""
    )
    return ", ".join([*parts, origin] if origin else parts)


def _data_in_words(run: RunFiles) -> str:
    data = run.section("data")
    if run.command == "pretrain":
        return str(run.config.get("corpus") or "")
    if data.get("task"):
        return f"{data['task']} from {data['data_dir']}" if data.get("data_dir") else str(data["task"])
    return ", ".join(f"{key} {data[key]}" for key in ("train", "validation") if data.get(key))


def _task(run: RunFiles) -> str:
    """Returns the task's name as the results say it, or as the configuration does."""
    data = run.section("data")
    named = run.metrics.get("task") or data.get("task")
    return str(named or (Path(str(data["train"])).stem if data.get("train") else "unknown"))


def _task_in_words(run: RunFiles) -> str:
    """Says what the answers are, where the data are files, whose names say little; empty for a task by name."""
    if run.command == "pretrain" or run.section("data").get("task"):
        return ""
    if run.section("data").get("kind") == "regression" or len(run.classes) == 1:
        return "scores of texts"
    if len(run.classes) > _MOST_NAMED or all(name.startswith("LABEL_") for name in run.classes):
        return f"{len(run.classes)} classes of texts" if run.classes else "classes of texts"
    return " or ".join(shortened(name, 30) for name in run.classes)


def _title(run: RunFiles) -> str:
    """Returns the page's title: what the model answers, and what it is."""
    layers, whole = layers_in(run.path), layers_in(run.teacher)
    size = f" with {layers} layers" if layers else ""
    if run.command == "pretrain":
        return f"Pre-trained student{size}"
    task = str(run.section("data").get("task") or "")
    about = GLUE[task].folder if task in GLUE else capital(task or _task_in_words(run))
    if run.command == "finetune":
        return f"{about}: fine-tuned model{size}"
    size = f" with {layers} of {whole} layers" if layers and whole else size
    return f"{about}: distilled student{size}"


# ---- curves, costs, facts --------------------------------------------------------------------------------------------


def _add_curves(run: RunFiles, names: Mapping[str, str], main: str, report: Report) -> None:
    named = run.metrics.get("main_metric")
    metric = named if isinstance(named, str) else None
    own = {"distill": names[main], "pretrain": "student"}.get(run.command, _FINE_TUNED)
    report.curves = curves_of(run.log, own, "accuracy" if run.command == "pretrain" else metric)
    for path in sorted((run.path / "comparison").glob("*/log.jsonl")) if run.command == "distill" else []:
        name = names.get(path.parent.name, path.parent.name)
        report.curves += curves_of(read_log(path, report.missing, run.finished), name, metric)
    if not report.curves:
        report.miss(f"{run.path / 'log.jsonl'} holds no steps", "curves")


def _costs(run: RunFiles, names: Mapping[str, str]) -> list[tuple[str, str]]:
    costs = mapping(run.metrics.get("costs"))
    if not costs and (cost := mapping(run.metrics.get("cost"))):
        costs = {"student" if run.command == "pretrain" else "model": cost}
    lines, training = [], 0.0
    for role, cost in costs.items():
        cost = mapping(cost)
        if (seconds := finite(cost.get("seconds"))) is None:
            continue
        training += seconds
        steps, best = cost.get("steps"), cost.get("best_step")
        words = duration(seconds) + (f", {steps:,} steps" if isinstance(steps, int) else "")
        words += f"; the weights kept are those of step {best:,}" if isinstance(best, int) else ""
        lines.append((f"training of the {names.get(role, role)}", words))
    if run.seconds:
        lines.append(("the whole command", duration(run.seconds)))
        if training and run.seconds > training and run.command == "distill":
            rest = duration(run.seconds - training)
            lines.append(("of it the teacher's pass, encoding, judging and timing", rest))
    if run.command == "distill":
        cached = run.config.get("cache", True)
        how = "ran once over the training data, into a cache" if cached else "ran in every step (no cache)"
        lines.append(("teacher", how))
    if weights := model_size(run.path):
        lines.append(("the model's weights on disk", human_bytes(weights)))
    return lines


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    environment, metrics = run.environment, run.metrics
    examples = {"training examples": metrics.get("train_examples")}
    examples["unlabelled texts"] = mapping(metrics.get("unlabeled")).get("examples")
    examples |= {f"{split} examples": many for split, many in run.examples.items()}
    facts = [
        ("command", environment.get("command")),
        ("state", run.state),
        ("started", run.started),
        ("recipe", run.config.get("recipe")),
        ("teacher", run.config.get("teacher")),
        ("data", _data_in_words(run)),
        ("seed", environment.get("seed", metrics.get("seed"))),
        ("precision", environment.get("precision")),
        *((name, f"{many:,}") for name, many in examples.items() if isinstance(many, int)),
    ]
    known = [(name, str(value)) for name, value in facts if value not in (None, "")]
    return [*known, *environment_facts(environment), ("folder", str(run.path))]


def environment_facts(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns machine, git state and versions of an `environment.json`, a line each."""
    machine, git, versions = (mapping(environment.get(key)) for key in ("machine", "git", "versions"))
    titles = {
        "platform": "system",
        "cpu": "processor",
        "cores": "cores",
        "threads": "threads",
        "cuda": "CUDA",
    }
    dirty = ", with changes that are not committed" if git.get("dirty") else ""
    facts: list[tuple[str, Any]] = [(title, machine.get(key)) for key, title in titles.items()]
    facts += [
        ("GPUs", ", ".join(map(str, items(machine.get("gpus"))))),
        ("git commit", f"{git['commit']}{dirty}" if git.get("commit") else None),
        ("versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value)),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _command(run: RunFiles) -> list[str]:
    """Returns the command that measures this run's models, without its output."""
    data = run.section("data")
    task = ["--task", str(data["task"])] if data.get("task") else []
    folder = ["--data-dir", str(data["data_dir"])] if task and data.get("data_dir") else []
    return [
        "codir",
        "latency",
        *(str(each) for each in (run.config.get("teacher"), run.path) if each),
        *task,
        *folder,
    ]
