"""What a study's findings allow to say in plain words, and no more."""

from __future__ import annotations

from collections.abc import Iterable

from codir.studies.findings import AVERAGE, Findings, Row
from codir.studies.statistics import PairedDifference


def plain_words(findings: Findings) -> list[str]:
    """Returns sentences: task by task who differs from the baseline beyond noise, then the reservations.

    A difference counts as shown only if its 95 % interval excludes zero and its p stays below 0.05 after Holm's
    correction; anything else is "no difference shown", which is not the same as no difference.
    """
    if not findings.trials:
        return ["No trial is finished, so there is nothing to compare."]
    lines: list[str] = []
    if findings.baseline is None:
        lines.append("Neither kd nor finetune was run and no baseline is named: nothing to compare with.")
    elif not findings.differences:
        lines.append(f"There is only {findings.baseline}, so there is nothing to compare it with.")
    for panel in findings.panels:
        lines += _on(findings, panel)
    lines += _reservations(findings)
    for task, constant in findings.constants.items():
        cells = ((row, findings.cells.get((row, task))) for row in findings.rows)
        low = [row for row, cell in cells if cell and cell.spread and cell.spread.mean <= constant + 1e-9]
        if low:
            lines.append(
                f"On {task} answering the same class to everything scores {100 * constant:.1f} points: no more than "
                f"that, on average, has {_names(low)}. Such a score does not show that the task was learned."
            )
    lines += [f"Unequal budget: {line}." for line in findings.budget]
    return [
        *lines,
        "The scores are those of the checkpoint that was best on the same dev split (where the trainings keep the best "
        "one): a little high for every recipe alike, and no scores of a test set.",
    ]


def _on(findings: Findings, panel: str | None) -> list[str]:
    found = {row: d for row in findings.rows if (d := findings.differences.get((row, panel))) is not None}
    where = f"on {panel}" if panel is not None else f"in the {AVERAGE} of {len(findings.tasks)} tasks"
    base, tested = findings.baseline, sum(d.has_interval for d in found.values())
    lines = []
    for row, d in found.items():
        if d.shown:
            flip = "" if d.p_flip is None else f" (sign-flip test, not corrected: {_p(d.p_flip)})"
            lines.append(
                f"{row} is {'above' if d.difference > 0 else 'below'} {base} beyond noise {where}: {_interval(d)}, "
                f"{_p(d.adjusted)} after Holm's correction over {tested} compared{flip}."
            )
        elif not d.includes_zero:
            lines.append(
                f"{row} {where}: {_interval(d)}; its interval excludes zero, but with {tested} compared "
                f"{_p(d.adjusted)} (Holm): no difference from {base} shown."
            )
    rest = [row for row, d in found.items() if d.has_interval and d.includes_zero]
    if rest and len(rest) == len(found):
        lines.append(f"No recipe is shown to differ from {base} beyond noise {where} ({_names(rest)}).")
    elif rest:
        lines.append(f"No difference from {base} shown {where}: {_names(rest)}.")
    for why in dict.fromkeys(d.without for d in found.values() if not d.has_interval):
        rows = _names(row for row, d in found.items() if d.without == why)
        lines.append(f"Nothing is said of the difference from {base} {where} of {rows}: {why}.")
    return lines


def _reservations(findings: Findings) -> list[str]:
    pairs = sorted({d.n for d in findings.differences.values() if d.has_interval})
    if not pairs:
        return []
    told = str(pairs[0]) if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    lines = [
        f"Each comparison is of {told} pairs, one a seed (paired t test). No difference shown does not mean that there "
        "is none: the interval says how large it may be. The intervals speak of other seeds on the same data and "
        "teacher, not of other data."
    ]
    if few := [n for n in pairs if 2 / 2**n >= 0.05]:
        lines.append(
            f"With {' or '.join(map(str, few))} pairs the sign-flip test cannot fall below p = {2 / 2 ** few[-1]:.4g}, "
            "whatever the scores; there the t test rests on differences that are about normal."
        )
    return lines


def _interval(d: PairedDifference) -> str:
    ends = f"{100 * (d.low or 0.0):+.1f} to {100 * (d.high or 0.0):+.1f}"
    return f"{100 * d.difference:+.1f} points (95 % interval {ends}, {d.n} pairs)"


def _p(value: float | None) -> str:
    return "p unknown" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _names(rows: Iterable[Row]) -> str:
    return ", ".join(map(str, rows))
