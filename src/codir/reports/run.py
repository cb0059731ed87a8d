"""A run folder as a report: its table, curves, what its models show of themselves, costs and facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from codir.data.glue import GLUE
from codir.errors import RunError
from codir.files import human_bytes
from codir.kinds.metrics import constant_score, is_metric
from codir.measure.comparison import TITLES, Comparison, ModelRow, main_role
from codir.measure.timing import model_size
from codir.reports.curves import curves_of
from codir.reports.files import RunFiles, finite, layers_in, numbers, read_log
from codir.reports.text import capital, duration, shortened
from codir.reports.times import add_times
from codir.reports.values import Model, Panel, Report, Wanted
from codir.reports.views import add_views

_FINE_TUNED = "fine-tuned model"
_MOST_NAMED = 4  # classes; more of them are counted


def read_run(folder: Path, wanted: Wanted) -> Report:
    """Brings together what a run folder holds and, unless not wanted, what its models say of validation data.

    Nothing is written. What cannot be had is named in `Report.missing`; a run may be unfinished or under way.

    Raises:
        RunError: the folder is no run, or a file that was named cannot be used.
        ModelError: its model gives several answers to a text, which its numbers misread.
    """
    report = Report(title="", kind="run", place=folder.resolve().name)
    run = RunFiles(folder, report)
    report.config, report.recipe = run.config_text, str(run.config.get("recipe") or "")
    report.finished, report.subtitle, report.facts = run.finished, _subtitle(run), _facts(run)
    comparison = _comparison(run, report)
    names = dict(TITLES) | ({row.role: row.name for row in comparison.rows} if comparison else {})
    main = main_role(run.section("objectives")) if run.section("objectives") else "codir"
    report.title, report.costs = _title(run), _costs(run, names)
    report.panels = _panels(run, comparison, main)
    data = run.section("data")
    given = [f"--task={data['task']}"] if data.get("task") else []
    given += [f"--data-dir={data['data_dir']}"] if given and data.get("data_dir") else []
    models = [str(each) for each in (run.config.get("teacher"), folder) if each]
    add_times(report, folder, wanted, ["codir", "latency", *models, *given])
    report.words = _words(run, comparison, report.panels)
    _add_curves(run, names, main, report)
    if run.command == "pretrain":
        why = "it is shown for runs of `codir distill`, on the validation data of a task"
        report.miss(why, "similarity", "disagreements", "representations", "confusions")
        return report
    students = {_FINE_TUNED if run.command == "finetune" else names[main]: folder}
    plain = folder / "comparison" / "finetune"
    if run.command == "distill" and (plain / "config.json").is_file():
        students[names["finetune"]] = plain
    examples = add_views(run, students, wanted, report)
    # a fine-tuning does not keep what one answer to everything scores, but all labels may be here
    for number, panel in enumerate(report.panels if run.command == "finetune" else ()):
        if examples is not None and len(examples.numbers) == examples.whole and is_metric(panel.metric):
            constant = constant_score(panel.metric, examples.labels)
            report.panels[number] = replace(panel, constant=constant)
    return report


# ---- the table -------------------------------------------------------------------------------------------------------


def _comparison(run: RunFiles, report: Report) -> Comparison | None:
    if (content := run.metrics.get("comparison")) is None:
        return None
    try:
        return Comparison.from_json(content)
    except RunError as error:
        report.miss(f"{run.path / 'metrics.json'} is damaged: {error}", "table")
        return None


def _panels(run: RunFiles, comparison: Comparison | None, main: str) -> list[Panel]:
    examples = run.metrics.get("validation_examples") or {}
    panel = Panel(_task(run), "", [], label=_task_in_words(run), examples=examples)
    if comparison is not None:
        many = next(iter(examples.values()), None)  # of the first split, which is the main one
        models = [_model(run, row, comparison, main, many) for row in comparison.rows]
        return [replace(panel, metric=comparison.main_metric, models=models, constant=comparison.constant)]
    if not run.metrics or run.command == "distill":
        return []
    if run.command == "pretrain":
        return [replace(panel, task="masked tokens", metric="accuracy", models=_masked_models(run))]
    metric, metrics = run.metrics["main_metric"], numbers(run.metrics["metrics"])
    model = Model(_FINE_TUNED, "teacher", _FINE_TUNED, metrics.get(metric), metrics=metrics, folders=(run.path,))
    model = replace(model, layers=layers_in(run.path), bytes=model_size(run.path) or None)
    return [replace(panel, metric=metric, models=[model])]


def _model(run: RunFiles, row: ModelRow, comparison: Comparison, main: str, examples: int | None) -> Model:
    folder = run.path if row.role == main else run.path / "comparison" / row.role
    if row.role == "teacher":
        folder = run.teacher or Path(str(run.config.get("teacher")))  # a name of the Hub, or a folder that is gone
    model = Model(
        name=row.name,
        role="codir" if row.role == main else row.role,  # the run's own student, whatever it learned from
        group=row.name,
        score=finite(row.score),
        metrics=numbers(row.metrics),
        kept=comparison.share_kept(row),
        agreement=finite(row.agreement),
        layers=layers_in(folder),
        parameters=row.parameters,
        embedding_parameters=row.embedding_parameters,
        bytes=row.bytes,
        folders=(folder,),
    ).with_error(comparison.main_metric, examples)
    return model if row.timing is None else model.timed(row.timing)


def _masked_models(run: RunFiles) -> list[Model]:
    own = {"teacher": ("teacher", run.teacher), "student": ("codir", run.path)}
    models = []
    for row in run.metrics["scores"]["rows"]:
        name, metrics = row["name"], numbers({key: row.get(key) for key in ("accuracy", "loss")})
        role, folder = own.get(name, ("other", None))
        values = {key: row.get(key) for key in ("layers", "parameters", "embedding_parameters", "agreement")}
        values["folders"] = (folder,) if folder else ()
        models.append(Model(name, role, name, metrics.get("accuracy"), metrics=metrics, **values))
    return models


# ---- words -----------------------------------------------------------------------------------------------------------


def _words(run: RunFiles, comparison: Comparison | None, panels: Sequence[Panel]) -> list[str]:
    words = [] if run.finished else [_how_far(run)]
    if comparison is not None:
        # with the speed-ups of the table, which `codir latency` may have measured anew
        panel, rows = panels[0], list(comparison.rows)
        if panel.teacher is not None and panel.teacher.speedup == 1.0:  # else they are against something else
            speedups = {model.name: model.speedup for model in panel.models if model.speedup is not None}
            for number, row in enumerate(rows):
                if row.timing is not None and row.name in speedups:
                    rows[number] = replace(row, timing=replace(row.timing, speedup=speedups[row.name]))
        export = panel.deployed
        fast = f" ({export.speedup:.2f} times as {export.group})" if export and export.speedup else ""
        return words + replace(comparison, rows=rows).plain_words(fast)
    if words:
        return words
    scores = {model.name: model.score for panel in panels for model in panel.models}
    if (score := scores.get(_FINE_TUNED)) is not None:
        return [f"The fine-tuned model scores {score:.4f} in {panels[0].metric}."]
    before, after = scores.get("student before"), scores.get("student")
    if before is not None and after is not None:
        say = f"The student predicts {after:.1%} of the held-out masked tokens"
        return [f"{say}, {before:.1%} before its pre-training."]
    return ["The run is finished; it has no scores to show."]


def _how_far(run: RunFiles) -> str:
    step = max((entry.get("step") or 0 for entry in run.log), default=0)
    state = {
        "running": "is under way (or was killed)",
        "interrupted": "was interrupted",
        "finished": "is finished, but its results are missing or damaged",
    }.get(run.state, run.state)
    error = run.attempts[-1].get("error") if run.attempts else None
    why = f" ({error})" if error else ""
    return f"This run {state}{why}: its main student has logged up to step {step:,}. What there is so far is below."


def _subtitle(run: RunFiles) -> str:
    recipe, teacher, model = (run.config.get(key) for key in ("recipe", "teacher", "model"))
    made = {"distill": "distilled", "finetune": "fine-tuned", "pretrain": "pre-trained"}[run.command]
    parts = [f"{made} with {recipe}" if recipe else made, f"on {_data_in_words(run) or 'unknown data'}"]
    parts += [f"teacher {teacher}"] if teacher else [f"from {model}"] if model else []
    return ", ".join(parts)


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
    if len(run.classes) == 1:
        return "scores of texts"
    few = 1 < len(run.classes) <= _MOST_NAMED and not run.classes[0].startswith("LABEL_")
    return " or ".join(shortened(name, 30) for name in run.classes) if few else "classes of texts"


def _title(run: RunFiles) -> str:
    """Returns the page's title: what the model answers, and what it is."""
    layers, whole = layers_in(run.path), layers_in(run.teacher)
    of_all = f" of {whole}" if whole and run.command == "distill" else ""
    size = f" with {layers}{of_all} layers" if layers else ""
    if run.command == "pretrain":
        return f"Pre-trained student{size}"
    task = str(run.section("data").get("task") or "")
    about = GLUE[task].folder if task in GLUE else capital(task or _task_in_words(run))
    return f"{about}: {'fine-tuned model' if run.command == 'finetune' else 'distilled student'}{size}"


# ---- curves, costs, facts --------------------------------------------------------------------------------------------


def _add_curves(run: RunFiles, names: Mapping[str, str], main: str, report: Report) -> None:
    metric = "accuracy" if run.command == "pretrain" else run.metrics.get("main_metric")
    own = {"distill": names[main], "pretrain": "student"}.get(run.command, _FINE_TUNED)
    report.curves = curves_of(run.log, own, metric)
    for path in sorted((run.path / "comparison").glob("*/log.jsonl")) if run.command == "distill" else []:
        name = names.get(path.parent.name, path.parent.name)
        report.curves += curves_of(read_log(path, report, run.finished), name, metric)
    if not report.curves:
        report.miss(f"{run.path / 'log.jsonl'} holds no steps", "curves")


def _costs(run: RunFiles, names: Mapping[str, str]) -> list[tuple[str, str]]:
    alone = {"student" if run.command == "pretrain" else "model": run.metrics.get("cost")}
    costs = {role: cost for role, cost in (run.metrics.get("costs") or alone).items() if cost}
    lines = []
    for role, cost in costs.items():
        best = (
            f"; the weights kept are those of step {cost['best_step']:,}" if cost.get("best_step") is not None else ""
        )
        lines.append(
            (f"training of the {names.get(role, role)}", f"{duration(cost['seconds'])}, {cost['steps']:,} steps{best}")
        )
    if run.seconds:
        lines.append(("the whole command", duration(run.seconds)))
        rest = run.seconds - sum(cost["seconds"] for cost in costs.values())
        if costs and rest > 0 and run.command == "distill":
            lines.append(("of it the teacher's pass, encoding, judging and timing", duration(rest)))
    if run.command == "distill":
        cached = run.config.get("cache", True)
        lines.append(("teacher", "ran once, into a cache" if cached else "ran in every step (no cache)"))
    if weights := model_size(run.path):
        lines.append(("the model's weights on disk", human_bytes(weights)))
    return lines


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    environment, metrics = run.environment, run.metrics
    examples = {"training examples": metrics.get("train_examples")}
    examples["unlabelled texts"] = (metrics.get("unlabeled") or {}).get("examples")
    examples |= {f"{split} examples": many for split, many in (metrics.get("validation_examples") or {}).items()}
    facts = [
        ("command", environment.get("command")),
        ("state", run.state),
        ("started", run.started),
        ("seed", environment.get("seed", metrics.get("seed"))),
        ("precision", environment.get("precision")),
        *((name, f"{many:,}") for name, many in examples.items() if many is not None),
        *environment_facts(environment),
        ("folder", run.path),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def environment_facts(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns machine, git state and versions of an `environment.json`, a line each."""
    machine, git, versions = (environment.get(key) or {} for key in ("machine", "git", "versions"))
    titles = {"platform": "system", "cpu": "processor", "cores": "cores", "threads": "threads", "cuda": "CUDA"}
    dirty = ", with changes that are not committed" if git.get("dirty") else ""
    facts: list[tuple[str, Any]] = [(title, machine.get(key)) for key, title in titles.items()]
    facts.append(("GPUs", ", ".join(map(str, machine.get("gpus") or []))))
    facts.append(("git commit", f"{git['commit']}{dirty}" if git.get("commit") else None))
    facts.append(("versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value)))
    return [(name, str(value)) for name, value in facts if value not in (None, "")]
