"""What a study's findings allow to say in plain words, and no more."""

from __future__ import annotations

from codir.studies.findings import AVERAGE, Findings, Row
from codir.studies.statistics import PairedDifference


def plain_words(findings: Findings) -> list[str]:
    """Returns sentences: task by task who differs from the baseline beyond noise, the reservations.

    A difference counts as shown only if its 95 % interval excludes zero and its p stays below 0.05 after Holm's
    correction; anything else is "no difference shown", which is not the same as no difference.
    """
    if not findings.trials:
        return ["No trial is finished, so there is nothing to compare."]
    lines: list[str] = []
    if findings.baseline is None:
        lines.append(
            "Neither kd nor finetune was run and no baseline is named, so no recipe is compared with one."
        )
    elif not findings.differences:
        lines.append(f"There is only {findings.baseline}, so there is nothing to compare it with.")
    for panel in findings.panels:
        lines += _on(findings, panel)
    if findings.baseline is not None and findings.differences:
        lines += _reservations(findings)
    lines += _constants(findings)
    lines += [f"Unequal budget: {line}." for line in findings.budget]
    lines.append(
        "The scores are those of the checkpoint that was best on the same dev split (where the trainings keep the best "
        "one): a little high for every recipe alike, and no scores of a test set."
    )
    return lines


def _on(findings: Findings, panel: str | None) -> list[str]:
    found = {
        row: findings.differences[row, panel] for row in findings.rows if (row, panel) in findings.differences
    }
    if not found:
        return []
    where = f"on {panel}" if panel is not None else f"in the {AVERAGE} of {len(findings.tasks)} tasks"
    tested = {row: d for row, d in found.items() if d.has_interval}
    lines = []
    shown = [row for row, d in tested.items() if d.shown]
    for row in shown:
        d = tested[row]
        side = "above" if d.difference > 0 else "below"
        lines.append(
            f"{row} is {side} {findings.baseline} beyond noise {where}: {_difference_in_words(d)}, "
            f"{_p(d.adjusted)} after Holm's correction over {len(tested)} compared"
            f"{_flip_in_words(d)}."
        )
    uncorrected = [row for row, d in tested.items() if not d.includes_zero and not d.shown]
    for row in uncorrected:
        lines.append(
            f"{row} {where}: {_difference_in_words(tested[row])}; its interval excludes zero, but with {len(tested)} "
            f"compared {_p(tested[row].adjusted)} (Holm): no difference from {findings.baseline} shown."
        )
    rest = [row for row, d in tested.items() if d.includes_zero]
    if rest and len(rest) == len(found):
        lines.append(
            f"No recipe is shown to differ from {findings.baseline} beyond noise {where} ({_names(rest)})."
        )
    elif rest:
        lines.append(f"No difference from {findings.baseline} shown {where}: {_names(rest)}.")
    without: dict[str, list[Row]] = {}
    for row, d in found.items():
        if not d.has_interval:
            without.setdefault(d.without, []).append(row)
    lines += [
        f"Nothing is said of the difference from {findings.baseline} {where} of {_names(rows)}: {why}."
        for why, rows in without.items()
    ]
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
    smallest = max(2 / 2**n for n in pairs)
    if smallest >= 0.05:
        few = [n for n in pairs if 2 / 2**n >= 0.05]
        lines.append(
            f"With {' or '.join(map(str, few))} pairs the sign-flip test cannot fall below p = {2 / 2 ** few[-1]:.4g}, "
            "whatever the scores; there the t test rests on differences that are about normal."
        )
    return lines


def _constants(findings: Findings) -> list[str]:
    lines = []
    for task, constant in findings.constants.items():
        spreads = {
            row: findings.cells[row, task].spread for row in findings.rows if (row, task) in findings.cells
        }
        not_above = [row for row, spread in spreads.items() if spread and spread.mean <= constant + 1e-9]
        if not_above:
            lines.append(
                f"On {task} answering the same class to everything scores {100 * constant:.1f} points: "
                f"no more than that, on average, has {_names(not_above)}. Such a score does not show that the task was "
                "learned."
            )
    return lines


def _difference_in_words(d: PairedDifference) -> str:
    assert d.low is not None
    assert d.high is not None
    return f"{100 * d.difference:+.1f} points (95 % interval {100 * d.low:+.1f} to {100 * d.high:+.1f}, {d.n} pairs)"


def _flip_in_words(d: PairedDifference) -> str:
    return "" if d.p_flip is None else f" (sign-flip test, not corrected: {_p(d.p_flip)})"


def _p(value: float | None) -> str:
    return "p unknown" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _names(rows: list[Row]) -> str:
    return ", ".join(map(str, rows))
