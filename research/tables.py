"""The tables of the evidence, as Markdown, from compared trials."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from figures import ends_correlation
from trials import Comparison, Difference, Row, Spread, Study, Trial, spread_of

NOTHING = "-"
COLA_SOURCES = Path(__file__).resolve().parent / "cola-sources.json"
_DEAD = 0.1  # a contrastive loss below this moves little more


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Returns a table; the first `left` columns are aligned to the left."""
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join("---" if place < left else "---:" for place in range(len(heads))) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def inline(text: object) -> str:
    """Returns text in which Markdown and HTML mean nothing."""
    return re.sub(r"[\\`*_{}\[\]<>#|~$&]", r"\\\g<0>", str(text))


def scores(found: Comparison) -> str:
    """Scores by task, what is kept, agreement with the teacher, paired gain over the baseline; the best row first."""
    tasks, several, baseline = found.tasks, len(found.tasks) > 1, found.baseline
    metrics = {trial.task: trial.metric.replace("_", " ") for trial in reversed(found.trials)}
    agreeing, meaning = _agreement_tasks(found)
    heads = ["recipe", *(f"{task} ({metrics[task]})" for task in tasks), "kept, %"]
    heads += [*(["of the average, %"] if several else []), *(["agreement, %"] if agreeing else [])]
    heads += [f"against {baseline}, points"] if baseline else []
    teachers = [found.teacher(task) for task in tasks]
    ends = [""] if baseline else []
    whole = ["100"] * (1 + several + bool(agreeing))
    body = [["teacher", *map(_points, teachers), *whole, *ends]]
    constants = [found.constant(task) for task in tasks]
    known = [each for each in constants if each is not None]
    if known:
        kept = [NOTHING] * (1 + several)
        if len(known) == len(tasks):
            shares = [share / score for share, score in zip(known, teachers, strict=True)]
            kept = [f"{100 * statistics.fmean(shares):.1f}"]
            kept += [f"{100 * sum(known) / sum(teachers):.1f}"] if several else []
        body.append(["one answer for all", *map(_points, constants), *kept, *([""] if agreeing else []), *ends])
    cells = {(row, task): spread_of(list(found.scores(row, task).values())) for row in found.rows for task in tasks}
    counts = sorted({cell.n for cell in cells.values() if cell is not None})
    one = counts == [1]
    for row in found.order():
        line = [inline(row) + (f" ({_seeds(found, row)})" if len(counts) > 1 else "")]
        line += [_spread(cells[row, task]) for task in tasks]
        line.append(_with_interval(found.kept(row, None if several else tasks[0])))
        line += [_with_interval(found.average_kept(row))] if several else []
        line += [_agreement(found.by_row[row], agreeing)] if agreeing else []
        line += [_difference(found.differences.get((row, None if several else tasks[0])))] if baseline else []
        body.append(line)
    over = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds (in brackets)"
    said = [
        "Points (score x 100)" + (" of one seed." if one else f": mean ± sample standard deviation over {over}."),
        f"Kept: {'mean over the tasks of the ' if several else ''}score over the teacher's"
        + ("." if one else ", with its 95 % interval over seeds."),
    ]
    if several:
        said.append("Of the average: the average score over the teachers' average, as the paper counts.")
    if several and len(counts) > 1:
        said.append("Both, and the average difference, over the seeds that have finished every task.")
    said += [meaning] if meaning else []
    if baseline:
        how = "paired by seed, 95 % t interval; **bold** where Holm's p is below 0.05 too."
        how = "the same seed; differences of one seed of a point or two are noise." if one else how
        said.append(f"Against {inline(baseline)}: {'average of the tasks, ' if several else ''}{how}")
    return f"{markdown(heads, body)}\n\n{' '.join(said)}"


def _seeds(found: Comparison, row: Row) -> str:
    """Returns the number of seeds, or that of each task where they differ."""
    counts = [len(found.scores(row, task)) for task in found.tasks]
    return str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))


def _agreement_tasks(found: Comparison) -> tuple[list[str], str]:
    """Returns the tasks on which agreement with the teacher is shown, and what it is.

    Tasks with classes, where it is a share of the examples; of scores it is a correlation, shown where nothing else is.
    """
    kinds = {each.task: each.conditions["data"]["kind"] for each in found.trials if each.agreement is not None}
    tasks = [task for task in found.tasks if task in kinds]
    classes = [task for task in tasks if kinds[task] == "classification"]
    if not tasks:
        return [], ""
    if not classes:
        return tasks, "Agreement: Pearson's correlation of the student's scores with the teacher's, x 100."
    of = ", mean over the tasks" + ("" if len(classes) == len(tasks) else " with classes")
    of = "" if len(classes) == len(found.tasks) == 1 else of
    return classes, f"Agreement: share of the examples on which student and teacher give the same answer{of}."


def _agreement(trials: Sequence[Trial], tasks: Sequence[str]) -> str:
    """Returns the mean over the tasks of the mean over the seeds; nothing unless every task has some."""
    by_task = [
        [each.agreement for each in trials if each.task == task and each.agreement is not None] for task in tasks
    ]
    return f"{100 * statistics.fmean(map(statistics.fmean, by_task)):.1f}" if all(by_task) else NOTHING


def gains(found: Comparison) -> str:
    """The paired differences from the baseline, task by task and on the average."""
    panels: list[str | None] = [*found.tasks, *([None] if len(found.tasks) > 1 else [])]
    rows = [row for row in found.order() if any((row, panel) in found.differences for panel in panels)]
    heads = ["recipe", *(panel or "average" for panel in panels), "p of the average (t; Holm)"]
    body = []
    for row in rows:
        cells = [found.differences.get((row, panel)) for panel in panels]
        last = cells[-1]
        p = NOTHING if last is None or last.p is None else f"{_p(last.p)}; {_p(last.adjusted)}"
        body.append([inline(row), *map(_difference, cells), p])
    against = inline(found.baseline)
    if any(each.interval for each in found.differences.values()):
        note = (
            f"Points, paired by seed against {against}, 95 % t intervals over the seeds; **bold**: the interval "
            f"excludes zero and Holm's p over the {_compared(found, rows, panels)} is below 0.05."
        )
        pairs = {each.n for place, each in found.differences.items() if place[0] in rows}
        if len(panels) > 1 and len(pairs) > 1:
            note += " Average: over the seeds that have finished every task."
        if 1 in pairs:
            note += " Without an interval: one seed, where a point or two are noise."
    else:
        note = f"Points, against {against} with the same seed; differences of one seed of a point or two are noise."
    return f"{markdown(heads, body)}\n\n{note}"


def _compared(found: Comparison, rows: Sequence[Row], panels: Sequence[str | None]) -> str:
    """Returns how many recipes Holm's correction is over, which counts those that are not in the table, too."""
    counts = sorted({found.compared.get(panel, 0) for panel in panels} - {0})
    said = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"{said} recipes compared" + (", those not shown too," if counts[-1] > len(rows) else "")


def costs(found: Comparison) -> str:
    """What the students and their trainings cost."""
    steps = [f"steps, {task}" for task in found.tasks]
    heads = ["recipe", "parameters, M", "epochs", *steps, "minutes", "times the baseline's"]
    reference = next((found.minutes(row) for row in found.rows if row.recipe == found.baseline), None)
    body = []
    for row in sorted(found.rows, key=found.minutes):
        trials, time = found.by_row[row], found.minutes(row)
        by_task = [{each.values["steps"] for each in trials if each.task == task} for task in found.tasks]
        body.append(
            [
                inline(row),
                _range({each.values["parameters"] / 1e6 for each in trials}, ".1f"),
                _range({each.values["epochs"] or math.nan for each in trials}, ".3g"),
                *(_range(each, ",d") if each else NOTHING for each in by_task),
                f"{time:.1f}",
                NOTHING if reference is None else f"{time / reference:.2f}",
            ]
        )
    note = "Minutes of a training: median over the seeds, mean over the tasks, on the machine of the studies."
    return f"{markdown(heads, body)}\n\n{note}"


def negatives(found: Comparison) -> str:
    """How the contrastive term moves and where it ends, and what the student scores: a table for each task."""
    parts = []
    for task in found.tasks:
        heads = [
            "recipe",
            "loss: first",
            "end of epoch 1",
            "end",
            f"below {_DEAD} from step",
            "accuracy, end",
        ]
        heads += ["cosine +", "cosine -", f"score ({task})", f"against {found.baseline}"]
        body = []
        for row in found.order():
            trials = [trial for trial in found.by_row[row] if trial.task == task]
            if trials:
                body.append(
                    [
                        f"{inline(row)} ({len(trials)})",
                        _mean_of(trials, _first),
                        _mean_of(trials, _after_epoch),
                        _mean_of(trials, lambda trial: trial.end_of("loss_crd")),
                        _dies(trials),
                        _mean_of(trials, lambda trial: trial.end_of("crd_accuracy")),
                        _mean_of(trials, lambda trial: trial.end_of("crd_positive")),
                        _mean_of(trials, lambda trial: trial.end_of("crd_negative")),
                        _spread(spread_of(list(found.scores(row, task).values()))),
                        _difference(found.differences.get((row, task))),
                    ]
                )
        count, rho = ends_correlation(found, task)
        said = NOTHING if rho is None else f"{rho:+.2f}"
        parts.append(
            f"**{inline(task)}**\n\n{markdown(heads, body)}\n\nSpearman's correlation of the loss at the end "
            f"with the score, over the {count} trials with a contrastive term: {said}."
        )
    parts.append(
        "Means over the seeds (their number in brackets). First: the first logged mean; end: over the last fifth "
        f"of the training; `below {_DEAD}`: median over the seeds of the step from which the logged loss stays "
        "below, and how many of the seeds get there. Cosines: of the anchor with its positive, and with "
        "the negatives that count."
    )
    return "\n\n".join(parts)


def arms(found: Comparison) -> str:
    """What each recipe is."""
    body = []
    for row in found.rows:
        trial = found.by_row[row][0]
        settings = {f"student.{key}": value for key, value in trial.arm.get("start", {}).items()} | trial.settings
        said = ", ".join(f"`{key}={_plain(value)}`" for key, value in settings.items())
        body.append([inline(row), f"`{trial.arm['recipe']}`", said or "as it is", trial.study])
    return markdown(["shown as", "recipe", "what is set", "study"], body, left=4)


def setting(studies: Sequence[Study]) -> str:
    """What the studies are: data, teachers, students, budget, machine, versions."""
    return "\n\n".join(markdown(["", ""], _setting(study), left=2) for study in studies)


def _setting(study: Study) -> list[tuple[str, str]]:
    content, trials = study.content, study.content["trials"]
    finished = f"{content['finished']} of {content['planned']} trials"
    lines = [("study", f"`research/studies/{study.name}.yaml`, {finished}")]
    if content["failed"]:
        lines.append(("failed", ", ".join(content["failed"])))
    for task, data in content["tasks"].items():
        first = next((each for each in trials if each["task"] == task), None)
        if first is None:
            continue
        teacher = content["teachers"][task]
        more = [f"{key} {_plain(data[key])}" for key in data if key not in ("task", "kind", "limit_train")]
        shape = f"{teacher['blocks']} x {teacher['width']}, " if teacher["blocks"] else ""
        lines.append(
            (
                task,
                f"{first['train_examples']:,} training examples, judged on {first['validation_examples']:,} of "
                f"`{first['split']}`{'; ' + ', '.join(more) if more else ''}; teacher {shape}"
                f"{teacher['parameters'] / 1e6:.1f} M, "
                f"{teacher['metric'].replace('_', ' ')} {_points(teacher['score'])}",
            )
        )
    students = {name: next((t for t in trials if (t["student"] or "") == name), None) for name in content["students"]}
    said = [
        f"{name or 'one'}: {each['layers']} x {each['width']}, {each['parameters'] / 1e6:.1f} M"
        for name, each in students.items()
        if each
    ]
    rates = " or ".join(f"{each:g}" for each in sorted({each["learning_rate"] for each in trials}))
    lines += [
        ("student", "; ".join(said)),
        ("seeds", ", ".join(map(str, sorted({trial["seed"] for trial in trials})))),
        (
            "budget",
            f"{_range({each['epochs'] for each in trials}, '.3g')} epochs, batch "
            f"{_range({each['batch_size'] for each in trials}, 'd')}, learning rate {rates}",
        ),
    ]
    for each in content["environments"]:
        machine, versions = each["machine"], each["versions"]
        gpus = ", ".join(map(str, machine.get("gpus") or [])) or "no GPU"
        lines.append(
            (
                "machine",
                f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s) a trial, {gpus}, "
                f"{each['precision']}; codir {versions.get('codir')}, torch {versions.get('torch')}, transformers "
                f"{versions.get('transformers')}, Python {versions.get('python')}",
            )
        )
    hours = sum(each["seconds"] for each in trials) / 3600
    return [*lines, ("training time of all trials", f"{hours:.1f} hours")]


def missing(found: Comparison) -> str:
    """What is not finished, and where the trials of one task made different numbers of steps."""
    several = len(found.studies) > 1
    lines = [f"{each.name}: {line}" if several else line for each in found.studies for line in each.content["missing"]]
    for task in found.tasks:
        by_steps: dict[tuple[int, ...], list[Row]] = {}
        for row in found.rows:
            steps = {each.values["steps"] for each in found.by_row[row] if each.task == task}
            if steps:
                by_steps.setdefault(tuple(sorted(steps)), []).append(row)
        if len(by_steps) > 1 or any(len(steps) > 1 for steps in by_steps):
            told = "; ".join(
                f"{' or '.join(f'{count:,}' for count in steps)}: {', '.join(map(str, some))}"
                for steps, some in sorted(by_steps.items())
            )
            lines.append(f"{task}: the trials made different numbers of optimiser steps ({told})")
    return "\n".join(f"- {inline(line)}" for line in lines) or "- Nothing: every trial is finished."


def by_source(found: Comparison) -> str:
    """CoLA's scores apart for sentences of sources that the training data have, and of others.

    They were measured by `benchmarks/cola_sources.py` at the tag `before-the-house`, which wrote the file. A training
    is known again by its recipe, seed and score.
    """
    content = json.loads(COLA_SOURCES.read_text(encoding="utf-8"))
    measured = {(each["recipe"], each["seed"], each["score"]): each for each in content["students"]}
    students: dict[Row, list[dict[str, Any]]] = {}
    for row, trials in found.by_row.items():
        for trial in trials:
            key = (trial.values["recipe"], trial.seed, trial.values["score"])
            if trial.task == "cola" and key in measured:
                students.setdefault(row, []).append(measured[key])
    teacher, (known, other) = content["teacher"], content["sentences"]
    heads = [
        "recipe",
        "seeds",
        "known sources",
        "kept, %",
        "other sources",
        "kept, %",
        "agreement, %",
        "others",
    ]
    rows = [["teacher", ""]]
    for side in ("known", "other"):
        rows[0] += [f"{teacher[side]['score']:.1f}", "100"]
    rows[0] += ["100", "100"]
    of = {
        row: statistics.fmean(e["known"]["score"] + e["other"]["score"] for e in some) for row, some in students.items()
    }
    for row in sorted(students, key=lambda row: -of[row]):
        line, agreements = [inline(row), str(len(students[row]))], []
        for side in ("known", "other"):
            spread = spread_of([each[side]["score"] for each in students[row]])
            if spread is not None:
                deviation = "" if spread.std is None else f" ±{spread.std:.1f}"
                line += [f"{spread.mean:.1f}{deviation}", f"{100 * spread.mean / teacher[side]['score']:.1f}"]
            agreements.append(f"{statistics.fmean(each[side]['agreement'] for each in students[row]):.1f}")
        rows.append([*line, *agreements])
    return (
        f"{markdown(heads, rows)}\n\nMatthews x 100 on {known:,} sentences of sources that the training data "
        f"have, and on {other:,} of others: mean ± sample standard deviation over the seeds. Kept: of the teacher's. "
        "Agreement: share of the sentences on which student and teacher give the same answer."
    )


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _points(value: float | None) -> str:
    return NOTHING if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    return _points(spread.mean) + ("" if spread.std is None else f" ±{_points(spread.std)}")


def _with_interval(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    ends = spread.interval
    return f"{spread.mean:.1f}" + ("" if ends is None else f" [{ends[0]:.1f}, {ends[1]:.1f}]")


def _difference(difference: Difference | None) -> str:
    if difference is None or not difference.n:
        return ""
    text = f"{100 * difference.mean:+.1f}"
    if difference.interval is not None:
        text += f" [{100 * difference.interval[0]:+.1f}, {100 * difference.interval[1]:+.1f}]"
    return f"**{text}**" if difference.shown else text


def _p(value: float | None) -> str:
    return NOTHING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _range(values: Iterable[float], form: str) -> str:
    found = sorted({format(each, form): each for each in values}.items(), key=lambda pair: pair[1])
    return found[0][0] if len(found) == 1 else f"{found[0][0]} to {found[-1][0]}"


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _mean_of(trials: Sequence[Trial], value: Callable[[Trial], float | None]) -> str:
    found = [each for trial in trials if (each := value(trial)) is not None]
    return f"{statistics.fmean(found):.2f}" if found else ""


def _first(trial: Trial) -> float | None:
    return next(iter(trial.curve("loss_crd")[1]), None)


def _after_epoch(trial: Trial) -> float | None:
    """Returns the last logged contrastive loss within the first epoch."""
    steps, values = trial.curve("loss_crd")
    if not steps or not trial.values["epochs"]:
        return None
    end = trial.values["steps"] / trial.values["epochs"]
    within = [value for step, value in zip(steps, values, strict=True) if step <= end + 1]
    return within[-1] if within else None


def _dies(trials: Sequence[Trial]) -> str:
    """Returns the median step from which the loss stays below `_DEAD`, and in how many trials it does."""
    found, of = [], 0
    for steps, values in (trial.curve("loss_crd") for trial in trials):
        if steps:
            of += 1
            alive = [place for place, value in enumerate(values) if value >= _DEAD]
            start = alive[-1] + 1 if alive else 0
            found += steps[start : start + 1]
    if not of:
        return ""
    return f"{statistics.median(found):.0f} ({len(found)} of {of})" if found else f"never (0 of {of})"
