"""What the evidence says of a recipe, and what it does not cover, in sentences. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from codir.config.evidence import Entry
from codir.studies.recommend_gains import gain_in_words
from codir.studies.recommend_standing import (
    ENOUGH_SEEDS,
    REFERENCE,
    Case,
    Standing,
    standing_of,
    task_names,
)


def in_a_sentence(standing: Standing) -> str:
    """Says what was measured of a recipe, with the numbers it rests on."""
    entries = standing.budgets.entries
    parts = [
        f"on {_tasks(task_names(entries))} of {_range([each.examples for each in entries], '{:,}')} examples",
        f"{_depths(entries)}",
        f"`{standing.recipe}` kept {standing.kept:.1f} % of the teacher "
        f"({_range([each.seeds for each in entries])} seeds, {_range([each.epochs for each in entries])} epochs)",
    ]
    sentence = ", ".join(parts)
    if standing.recipe == REFERENCE:
        sentence += "; it is what the others are compared with"
    elif standing.gain is None:
        sentence += f"; it was not paired with `{REFERENCE}`"
    else:
        wider = "" if len(entries) == len(standing.entries) else f" ({_basis(standing.entries)})"
        sentence += f"; paired gain over `{REFERENCE}`{wider} {gain_in_words(standing.gain)}"
    if (over := standing.over_undistilled) is not None:
        sentence += f"; over the same student without distillation {gain_in_words(over)}"
    return f"{sentence}."


def budget_in_words(standing: Standing) -> str:
    """Says what the best budget of a recipe was compared with, and what could not be compared."""
    tried = standing.budgets
    if len(tried.kept) > 1:
        others = ", ".join(f"{budget}: {kept:.1f} %" for budget, kept in tried.kept.items())
        text = f"{tried.best} kept most of the teacher with `{standing.recipe}` ({others})."
    elif tried.apart:
        tasks = ", ".join(task_names(tried.entries))
        text = f"{tried.best}, as in the evidence on `{standing.recipe}` ({tasks})."
    else:
        text = (
            f"{tried.best}, as in the evidence on `{standing.recipe}`; what is near to your case has no other budget "
            "of it."
        )
    if tried.apart:
        apart = ", ".join(f"{budget} ({', '.join(tasks)})" for budget, tasks in tried.apart.items())
        text += f" Not compared, since on other tasks: {apart}."
    return text


def caveats_of(entries: Sequence[Entry], case: Case, few: Sequence[Entry]) -> list[str]:
    """Says how a case differs from the evidence.

    Args:
        entries: that were taken.
        case: what is wanted.
        few: entries of fewer seeds, which were not.
    """
    found = []
    same, other = (
        [each for each in entries if (each.kind == case.kind) is wanted] for wanted in (True, False)
    )
    if not same:
        found.append(
            f"There is no evidence on {case.kind} with these recipes: what follows was measured on {entries[0].kind}."
        )
    elif other:
        found.append(
            f"Of {case.kind} there is {_tasks(task_names(same))} alone: the rest was measured on {other[0].kind}."
        )
    sizes = [each.examples for each in entries]
    if not any(case.is_of_one_size(each) for each in entries):
        found.append(
            f"Your data has {case.examples:,} training examples, the evidence {_range(sizes, '{:,}')}: with more data "
            "the distances between recipes shrink as a rule, with less they and the noise grow."
        )
    if case.layers is not None and not any(case.is_like(each) for each in entries):
        narrower = f", {case.width} wide," if case.width else ""
        found.append(
            f"No student of {case.layers} of {case.teacher_blocks} blocks{narrower} was measured with {ENOUGH_SEEDS} "
            f"seeds, only {_depths(entries, widths=bool(case.width))}: shallower and narrower students keep less."
            f"{_kept_by_few(few, case)}"
        )
    teachers = sorted({(each.teacher_blocks, each.teacher_width) for each in entries})
    if (case.teacher_blocks, case.teacher_width) not in teachers:
        seen = ", ".join(f"{blocks} blocks x {width}" for blocks, width in teachers)
        found.append(
            f"Your teacher has {case.teacher_blocks} blocks x {case.teacher_width}, those measured {seen}: whether "
            "the order of the recipes holds for yours is not known."
        )
    fewest = min(each.seeds for each in entries)
    if fewest < ENOUGH_SEEDS:
        found.append(f"Some of it rests on {fewest} seed{'s' * (fewest > 1)}: their differences mean little.")
    if len({each.task for each in entries}) == 1:
        found.append(f"All of it is from one task, {entries[0].task}.")
    return found


def _kept_by_few(few: Sequence[Entry], case: Case) -> str:
    """Says what trials of few seeds kept with a student like the wanted one."""
    alike = [each for each in few if each.kind == case.kind and case.is_like(each)]
    if not alike:
        return ""
    seeds = max(each.seeds for each in alike)
    tasks = task_names(alike)
    standings = [
        standing_of(recipe, [each for each in alike if each.recipe == recipe], alike, case)
        for recipe in dict.fromkeys(each.recipe for each in alike)
    ]
    kept = ", ".join(f"`{each.recipe}` {each.kept:.1f} %" for each in standings)
    return f" With {seeds} seed{'s' * (seeds > 1)} on {_tasks(tasks)}, {_depths(alike)} kept: {kept} of the teacher."


def _basis(entries: Sequence[Entry]) -> str:
    return f"{', '.join(task_names(entries))}; {_range([each.epochs for each in entries])} epochs"


def _tasks(names: Sequence[str]) -> str:
    return f"{len(names)} tasks ({', '.join(names)})" if len(names) > 1 else f"one task ({names[0]})"


def _depths(entries: Sequence[Entry], widths: bool = False) -> str:
    """Says how deep the students were, and how wide: the narrower ones, or all of them."""
    shapes = sorted({(each.layers, each.teacher_blocks, each.width, each.teacher_width) for each in entries})
    return " and ".join(
        f"{layers} of {blocks} blocks" + (f", {width} wide" if widths or width != teacher_width else "")
        for layers, blocks, width, teacher_width in shapes
    )


def _range(values: Sequence[float], pattern: str = "{:g}") -> str:
    low, high = pattern.format(min(values)), pattern.format(max(values))
    return low if low == high else f"{low} to {high}"
