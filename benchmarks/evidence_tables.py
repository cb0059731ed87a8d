"""The tables of the evidence, as Markdown, from chosen trials."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from codir.markdown import inline
from codir.studies.findings import Row
from codir.studies.statistics import PairedDifference, Spread
from evidence_choice import Chosen, interval
from evidence_data import EvidenceTrial, Study
from evidence_figures import ends_correlation, minutes

NOTHING = "-"
_DEAD = 0.1  # a contrastive loss below this moves little more


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Returns a table; the first `left` columns are aligned to the left."""
    lines = ["| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join("---" if place < left else "---:" for place in range(len(heads))) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def scores(chosen: Chosen) -> str:
    """Scores by task, what is kept, agreement with the teacher, paired gain over the baseline; the best row first."""
    findings = chosen.findings
    tasks, several = findings.tasks, len(findings.tasks) > 1
    metrics = {task: cell.metric.replace("_", " ") for (_, task), cell in findings.cells.items()}
    heads = ["recipe", *(f"{task} ({metrics[task]})" for task in tasks), "kept, %"]
    agreeing, meaning = _agreement_tasks(chosen)
    heads += [*(["of the average, %"] if several else []), *(["agreement, %"] if agreeing else [])]
    heads += [f"against {findings.baseline}, points"] if findings.baseline else []
    teachers = [findings.teachers[task] for task in tasks]
    ends = [""] if findings.baseline else []
    whole = ["100"] * (1 + several + bool(agreeing))
    body = [["teacher", *(_points(score) for score in teachers), *whole, *ends]]
    if findings.constants:
        shares = [findings.constants.get(task) for task in tasks]
        kept = [NOTHING] * (2 if several else 1)
        if None not in shares:
            known = [share or 0.0 for share in shares]
            ratios = [share / score for share, score in zip(known, teachers, strict=True)]
            kept = [f"{100 * statistics.fmean(ratios):.1f}"]
            kept += [f"{100 * sum(known) / sum(teachers):.1f}"] if several else []
        body.append(
            [
                "one answer for all",
                *(_points(share) for share in shares),
                *kept,
                *([""] if agreeing else []),
                *ends,
            ]
        )
    for row in chosen.order():
        cells = [findings.cells.get((row, task)) for task in tasks]
        kept_spread = chosen.kept(row, None if several else tasks[0])
        line = [inline(str(row)), *(_spread(cell.spread if cell else None) for cell in cells)]
        line.append(_with_interval(kept_spread))
        if several:
            line.append(_with_interval(chosen.average_kept(row)))
        if agreeing:
            line.append(_agreement(chosen.by_row[row], agreeing))
        if findings.baseline:
            line.append(_difference(findings.differences.get((row, None if several else tasks[0]))))
        body.append(line)
    counts = sorted({cell.spread.n for cell in findings.cells.values() if cell.spread is not None})
    one = counts == [1]
    if len(counts) > 1:
        for line, row in zip(body[-len(findings.rows) :], chosen.order(), strict=True):
            line[0] += f" ({_seeds(chosen, row)})"
    said = [
        "Points (score x 100)"
        + (" of one seed." if one else f": mean ± sample standard deviation over {_counted(counts)}."),
        "Kept: "
        + ("mean over the tasks of the " if several else "")
        + "score over the teacher's"
        + ("." if one else ", with its 95 % interval over seeds."),
    ]
    if several:
        said.append("Of the average: the average score over the teachers' average, as the paper counts.")
        if len(counts) > 1:
            said.append("Both, and the average difference, over the seeds that have finished every task.")
    if meaning:
        said.append(meaning)
    if findings.baseline:
        said.append(
            f"Against {inline(findings.baseline)}: "
            + ("average of the tasks, " if several else "")
            + (
                "the same seed; differences of one seed of a point or two are noise."
                if one
                else "paired by seed, 95 % t interval; **bold** where Holm's p is below 0.05 too."
            )
        )
    return f"{markdown(heads, body)}\n\n{' '.join(said)}"


def _seeds(chosen: Chosen, row: Row) -> str:
    """Returns the number of seeds, or that of each task where they differ."""
    cells = [chosen.findings.cells.get((row, task)) for task in chosen.findings.tasks]
    counts = [len(cell.scores) if cell else 0 for cell in cells]
    return str(counts[0]) if len(set(counts)) == 1 else ", ".join(map(str, counts))


def _counted(counts: Sequence[int]) -> str:
    if len(counts) == 1:
        return f"{counts[0]} seeds"
    return f"{counts[0]} to {counts[-1]} seeds (in brackets)"


def _agreement_tasks(chosen: Chosen) -> tuple[list[str], str]:
    """Returns the tasks on which agreement with the teacher is shown, and what it is.

    Tasks with classes, where it is a share of the examples; of scores it is a correlation, shown where nothing else is.
    None where it is not known, as of the last evaluation.
    """
    known = {trial.result.task: trial for trial in chosen.trials if trial.result.agreement is not None}
    kinds = {task: trial.conditions["data"]["kind"] for task, trial in known.items()}
    tasks = [task for task in chosen.findings.tasks if task in known]
    classes = [task for task in tasks if kinds[task] == "classification"]
    if not tasks:
        return [], ""
    if not classes:
        return tasks, "Agreement: Pearson's correlation of the student's scores with the teacher's, x 100."
    of = (
        ""
        if len(classes) == len(chosen.findings.tasks) == 1
        else ", mean over the tasks" + ("" if len(classes) == len(tasks) else " with classes")
    )
    return classes, (
        f"Agreement: share of the examples on which student and teacher give the same answer{of}."
    )


def _agreement(trials: Sequence[EvidenceTrial], tasks: Sequence[str]) -> str:
    """Returns the mean over the tasks of the mean over the seeds; nothing unless every task has some."""
    by_task = [
        [
            trial.result.agreement
            for trial in trials
            if trial.result.task == task and trial.result.agreement is not None
        ]
        for task in tasks
    ]
    if not all(by_task):
        return NOTHING
    return f"{100 * statistics.fmean(statistics.fmean(each) for each in by_task):.1f}"


def gains(chosen: Chosen) -> str:
    """The paired differences from the baseline, task by task and on the average."""
    findings = chosen.findings
    panels: list[str | None] = [*findings.tasks, *([None] if len(findings.tasks) > 1 else [])]
    rows = [row for row in chosen.order() if any((row, panel) in findings.differences for panel in panels)]
    heads = [
        "recipe",
        *("average" if panel is None else panel for panel in panels),
        "p of the average (t; Holm)",
    ]
    body = []
    for row in rows:
        last = findings.differences.get((row, panels[-1]))
        p = NOTHING if last is None or last.p_value is None else f"{_p(last.p_value)}; {_p(last.adjusted)}"
        cells = [_difference(findings.differences.get((row, panel))) for panel in panels]
        body.append([inline(str(row)), *cells, p])
    against = inline(str(findings.baseline))
    if any(each.low is not None for each in findings.differences.values()):
        note = (
            f"Points, paired by seed against {against}, 95 % t intervals over the seeds; **bold**: the interval "
            f"excludes zero and Holm's p over the {_compared(chosen, rows, panels)} is below 0.05."
        )
        pairs = {
            findings.differences[row, panel].n
            for row in rows
            for panel in panels
            if (row, panel) in findings.differences
        }
        if len(panels) > 1 and len(pairs) > 1:
            note += " Average: over the seeds that have finished every task."
        if any(each.n == 1 for each in findings.differences.values()):
            note += " Without an interval: one seed, where a point or two are noise."
    else:
        note = f"Points, against {against} with the same seed; differences of one seed of a point or two are noise."
    return f"{markdown(heads, body)}\n\n{note}"


def _compared(chosen: Chosen, rows: Sequence[Row], panels: Sequence[str | None]) -> str:
    """Returns how many recipes Holm's correction is over, which counts those that are not in the table, too."""
    counts = sorted({chosen.compared.get(panel, 0) for panel in panels} - {0})
    said = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return f"{said} recipes compared" + (", those not shown too," if counts[-1] > len(rows) else "")


def costs(chosen: Chosen) -> str:
    """What the students and their trainings cost."""
    tasks = chosen.findings.tasks
    heads = [
        "recipe",
        "parameters, M",
        "epochs",
        *(f"steps, {task}" for task in tasks),
        "minutes",
        "times the baseline's",
    ]
    reference = next(
        (minutes(chosen, row) for row in chosen.findings.rows if row.recipe == chosen.findings.baseline), None
    )
    body = []
    for row in sorted(chosen.findings.rows, key=lambda row: minutes(chosen, row)):
        trials = chosen.by_row[row]
        steps = [sorted({each.result.steps for each in trials if each.result.task == task}) for task in tasks]
        time = minutes(chosen, row)
        body.append(
            [
                inline(str(row)),
                _range({each.result.parameters / 1e6 for each in trials}, ".1f"),
                _range({each.result.epochs or math.nan for each in trials}, ".3g"),
                *(_range(each, ",d") if each else NOTHING for each in steps),
                f"{time:.1f}",
                NOTHING if reference is None else f"{time / reference:.2f}",
            ]
        )
    return (
        markdown(heads, body)
        + "\n\nMinutes of a training: median over the seeds, mean over the tasks, on the machine of the studies."
    )


def negatives(chosen: Chosen) -> str:
    """How the contrastive term moves and where it ends, and what the student scores: a table for each task."""
    parts = []
    for task in chosen.findings.tasks:
        heads = [
            "recipe",
            "loss: first",
            "end of epoch 1",
            "end",
            f"below {_DEAD} from step",
            "accuracy, end",
            "cosine +",
            "cosine -",
            f"score ({task})",
            f"against {chosen.findings.baseline}",
        ]
        body = []
        for row in chosen.order():
            trials = [trial for trial in chosen.by_row[row] if trial.result.task == task]
            if not trials:
                continue
            cell = chosen.findings.cells.get((row, task))
            body.append(
                [
                    f"{inline(str(row))} ({len(trials)})",
                    _mean_of(trials, lambda trial: _first(trial, "loss_crd")),
                    _mean_of(trials, lambda trial: _after_epoch(trial, "loss_crd")),
                    _mean_of(trials, lambda trial: trial.end_of("loss_crd")),
                    _dies(trials),
                    _mean_of(trials, lambda trial: trial.end_of("crd_accuracy")),
                    _mean_of(trials, lambda trial: trial.end_of("crd_positive")),
                    _mean_of(trials, lambda trial: trial.end_of("crd_negative")),
                    _spread(cell.spread if cell else None),
                    _difference(chosen.findings.differences.get((row, task))),
                ]
            )
        count, rho = ends_correlation(chosen, task)
        said = NOTHING if rho is None else f"{rho:+.2f}"
        parts.append(
            f"**{inline(task)}**\n\n{markdown(heads, body)}\n\nSpearman's correlation of the loss at the end "
            f"with the score, over the {count} trials with a contrastive term: {said}."
        )
    note = (
        "Means over the seeds (their number in brackets). First: the first logged mean; end: over the last fifth "
        f"of the training; `below {_DEAD}`: median over the seeds of the step from which the logged loss stays "
        "below, and how many of the seeds get there. Cosines: of the anchor with its positive, and with "
        "the negatives that count."
    )
    return "\n\n".join(parts) + f"\n\n{note}"


def arms(chosen: Chosen) -> str:
    """What each recipe is."""
    body = []
    for row in chosen.findings.rows:
        trial = chosen.by_row[row][0]
        start = {f"student.{key}": value for key, value in trial.arm.get("start", {}).items()}
        settings = start | trial.settings
        said = ", ".join(f"`{key}={_plain(value)}`" for key, value in settings.items())
        body.append([inline(str(row)), f"`{trial.arm['recipe']}`", said or "as it is", trial.study])
    return markdown(["shown as", "recipe", "what is set", "study"], body, left=4)


def setting(studies: Sequence[Study]) -> str:
    """What the studies are: data, teachers, students, budget, machine, versions, commands."""
    parts = []
    for study in studies:
        content = study.content
        trials = content["trials"]
        lines = [
            (
                "study",
                f"`benchmarks/evidence/{study.name}.yaml`, {content['finished']} of {content['planned']} trials",
            )
        ]
        if content["failed"]:
            lines.append(("failed", ", ".join(content["failed"])))
        for task, data in content["tasks"].items():
            of_task = [each for each in trials if each["task"] == task]
            if not of_task:
                continue
            first, teacher = of_task[0], content["teachers"][task]
            extra = [
                f"{key} {_plain(value)}"
                for key, value in data.items()
                if key not in ("task", "kind", "limit_train")
            ]
            shape = f"{teacher['blocks']} x {teacher['width']}, " if teacher["blocks"] else ""
            lines.append(
                (
                    task,
                    f"{first['train_examples']:,} training examples, judged on {first['validation_examples']:,} of "
                    f"`{first['split']}`{'; ' + ', '.join(extra) if extra else ''}; teacher {shape}"
                    f"{teacher['parameters'] / 1e6:.1f} M, "
                    f"{teacher['metric'].replace('_', ' ')} {_points(teacher['score'])}",
                )
            )
        students = {
            name: next((each for each in trials if (each["student"] or "") == name), None)
            for name in content["students"]
        }
        said = [
            f"{name or 'one'}: {each['layers']} x {each['width']}, {each['parameters'] / 1e6:.1f} M"
            for name, each in students.items()
            if each
        ]
        lines.append(("student", "; ".join(said)))
        lines.append(("seeds", ", ".join(map(str, sorted({trial["seed"] for trial in content["trials"]})))))
        lines.append(
            (
                "budget",
                f"{_range({each['epochs'] for each in trials}, '.3g')} epochs, batch "
                f"{_range({each['batch_size'] for each in trials}, 'd')}, learning rate "
                f"{' or '.join(f'{each:g}' for each in sorted({each['learning_rate'] for each in trials}))}",
            )
        )
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
        lines.append(
            ("training time of all trials", f"{sum(each['seconds'] for each in trials) / 3600:.1f} hours")
        )
        parts.append(markdown(["", ""], lines, left=2))
    return "\n\n".join(parts)


def missing(chosen: Chosen) -> str:
    """What is unequal or not finished."""
    several = len(chosen.studies) > 1
    lines = [
        f"{study.name}: {line}" if several else line
        for study in chosen.studies
        for line in study.content["missing"]
    ]
    lines += chosen.findings.budget
    return "\n".join(f"- {inline(line)}" for line in lines) or "- Nothing: every trial is finished."


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
    ends = interval(spread)
    return f"{spread.mean:.1f}" + ("" if ends is None else f" [{ends[0]:.1f}, {ends[1]:.1f}]")


def _difference(difference: PairedDifference | None) -> str:
    if difference is None or not difference.n:
        return ""
    text = f"{100 * difference.difference:+.1f}"
    if difference.low is not None and difference.high is not None:
        text += f" [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    return f"**{text}**" if difference.shown else text


def _p(value: float | None) -> str:
    return NOTHING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _range(values: Iterable[float], form: str) -> str:
    found = sorted({format(each, form): each for each in values}.items(), key=lambda pair: pair[1])
    return found[0][0] if len(found) == 1 else f"{found[0][0]} to {found[-1][0]}"


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _mean_of(trials: Sequence[EvidenceTrial], value: Callable[[EvidenceTrial], float | None]) -> str:
    found = [each for trial in trials if (each := value(trial)) is not None]
    return f"{statistics.fmean(found):.2f}" if found else ""


def _first(trial: EvidenceTrial, name: str) -> float | None:
    _, values = trial.curve(name)
    return values[0] if values else None


def _after_epoch(trial: EvidenceTrial, name: str) -> float | None:
    """Returns the last logged value within the first epoch."""
    steps, values = trial.curve(name)
    if not steps or not trial.result.epochs:
        return None
    end = trial.result.steps / trial.result.epochs
    return next(
        (value for step, value in reversed(list(zip(steps, values, strict=True))) if step <= end + 1), None
    )


def _dies(trials: Sequence[EvidenceTrial]) -> str:
    """Returns the median step from which the loss stays below `_DEAD`, and in how many trials it does."""
    found, of = [], 0
    for trial in trials:
        steps, values = trial.curve("loss_crd")
        if not steps:
            continue
        of += 1
        alive = [place for place, value in enumerate(values) if value >= _DEAD]
        start = alive[-1] + 1 if alive else 0
        if start < len(steps):
            found.append(steps[start])
    if not of:
        return ""
    return f"{statistics.median(found):.0f} ({len(found)} of {of})" if found else f"never (0 of {of})"
