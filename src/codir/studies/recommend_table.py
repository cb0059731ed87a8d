"""Shows a recommendation in the terminal: what was timed, what the evidence says, what is proposed and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codir.printing import Console, Table, table, text
from codir.runs.comparison import short_count
from codir.studies.recommend_cost import show_hours
from codir.studies.recommend_gains import show_gain, verdict
from codir.studies.recommend_standing import UNDISTILLED
from codir.studies.recommend_tried import most_kept, place_of

if TYPE_CHECKING:
    from codir.studies.recommend_result import Recommendation
    from codir.studies.recommend_student import Choice


def show(found: Recommendation, console: Console) -> None:
    """Prints everything."""
    console.print()
    console.print(_students(found.choice))
    console.print()
    console.print(_recipes(found))
    console.print()
    proposed = table("Proposed", show_header=False, box=None, pad_edge=False)
    proposed.add_column(no_wrap=True)
    proposed.add_column(overflow="fold")
    training = found.config.training
    values = {
        "student": f"{found.choice.chosen.layers} of {found.choice.teacher.layers} blocks",
        "recipe": found.config.recipe,
        "budget": f"{training.epochs:g} epoch{'s' * (training.epochs != 1)}, learning rate {training.learning_rate:g}",
    }
    for what, why in found.why.items():
        head = text(f"{values[what]}\n", "bold") if what in values else text("")
        proposed.add_row(f"  {what}  ", text("").append_text(head).append_text(text(why)))
    console.print(proposed)
    for line in found.choice.otherwise:
        console.print(f"- {line}", highlight=False, markup=False)
    if found.caveats:
        console.print("\nWhat this does not know:", highlight=False)
        for line in found.caveats:
            console.print(f"- {line}", highlight=False, markup=False)
    for name, why in found.left_out.items():
        console.print(f"- `{name}` is left out: {why}", highlight=False, markup=False)
    console.print("\nThe command:", highlight=False)
    console.print(found.command, highlight=False, markup=False, soft_wrap=True, style="bold")


def _students(choice: Choice) -> Table:
    shown = table("Students")
    shown.add_column("", no_wrap=True)
    for name in ("blocks", "width", "params", "MB", "int8 MB", "p50 ms", "p95 ms", "speed-up"):
        shown.add_column(name, justify="right", no_wrap=True)
    for each in (choice.teacher, *choice.options):
        name = "teacher" if each is choice.teacher else "-> proposed" if each is choice.chosen else "cut"
        time = each.time
        shown.add_row(
            name,
            str(each.layers),
            str(each.width),
            short_count(each.parameters),
            f"{each.bytes / 1e6:.1f}",
            f"{each.int8_bytes / 1e6:.1f}",
            "-" if time is None else f"{time.p50:.2f}",
            "-" if time is None else f"{time.p95:.2f}",
            "-" if time is None else f"{time.speedup:.2f}x",
            style="bold" if each is choice.chosen else None,
        )
    return shown


def _recipes(found: Recommendation) -> Table:
    on = ", ".join(dict.fromkeys(task for task, *_ in found.ranking.common))
    on = on or "its own tasks, so that rows do not compare"
    shown = table(
        "What the evidence nearest to your case says",
        f"kept %: on {on}, at the epochs that kept most; verdicts: after Holm's correction",
    )
    shown.add_column("recipe", no_wrap=True)
    shown.add_column("tasks")
    for name in ("seeds", "kept %", "epochs", "points over kd"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("")
    for name in ("cost of kd", "time here"):
        shown.add_column(name, justify="right", no_wrap=True)
    here = {each.recipe: each.hours.total for each in found.candidates}
    common = found.ranking.common
    for each in found.ranking.standings:
        chosen = each.recipe == found.config.recipe
        word = verdict(each.gain) if each.gain is not None and each.recipe != "kd" else ""
        if each.recipe not in found.ranking.trusted:
            word = "too few tasks"
        kept = most_kept(each.entries, common or [place_of(entry) for entry in each.entries])
        shown.add_row(
            f"{'-> ' * chosen}{each.recipe}{' (undistilled)' * (each.recipe == UNDISTILLED)}",
            ", ".join(each.tasks),
            str(each.seeds),
            "-" if kept is None else f"{kept[0]:.1f}",
            "-" if kept is None else ", ".join(f"{epochs:g}" for epochs in kept[1]),
            "-" if each.recipe == "kd" else show_gain(each.gain),
            word,
            "-" if each.cost is None else f"{each.cost:.2f}x",
            show_hours(here[each.recipe]) if each.recipe in here else "-",
            style="bold" if chosen else None,
        )
    return shown
