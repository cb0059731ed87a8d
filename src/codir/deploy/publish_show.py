"""What is to be published, on the terminal: files and sizes, what stays, the front matter, what was replaced."""

from __future__ import annotations

from collections.abc import Sequence

from codir.deploy.hub import Remote
from codir.deploy.publish_files import CARD, size_of
from codir.deploy.publish_plan import Plan
from codir.printing import Console, table
from codir.runs.card_metadata import front_matter_text
from codir.storage import human_bytes


def show(plan: Plan, console: Console, remote: Remote | None = None, stale: Sequence[str] = ()) -> None:
    """Prints what would be sent, what stays, the card's front matter, and what was replaced."""
    state = "private" if plan.private else "public"
    if remote is not None and remote.exists:
        state = f"{'private' if remote.private else 'public'}, exists"
    branch = f", branch {plan.revision}" if plan.revision != "main" else ""
    files = table(f"{plan.folder} to {plan.repo} ({state}{branch})", show_footer=True)
    files.add_column("file", footer=f"{len(plan.files)} files", overflow="fold")
    files.add_column("size", footer=human_bytes(plan.bytes), justify="right")
    files.add_column("", overflow="fold")
    for name, content in plan.files.items():
        origin = plan.origins[name].parent
        remarks = [] if origin == plan.folder else [f"from {origin}"]
        if name == CARD:
            remarks.append("the card, under its new name")
        elif isinstance(content, bytes):
            remarks.append("changed: see below")
        files.add_row(name, human_bytes(size_of(content)), ", ".join(remarks))
    for name in stale:
        files.add_row(name, "-", "deleted: a left-over of the model there")
    console.print(files)
    for folder, names in plan.left.items():
        console.print(f"Stays in {folder}: {', '.join(names)}")
    console.print("\nFront matter of the card:")
    console.print(front_matter_text(plan.metadata))
    if plan.redactions:
        replaced = table("Replaced, because it tells of this machine")
        for heading in ("stands here", "becomes", "where"):
            replaced.add_column(heading, overflow="fold")
        places: dict[tuple[str, str], list[str]] = {}
        for each in plan.redactions:
            place = each.file if each.line is None else f"{each.file}:{each.line}"
            places.setdefault((each.found, each.becomes), []).append(place)
        for (found, becomes), where in places.items():
            replaced.add_row(found, becomes, ", ".join(where))
        console.print()
        console.print(replaced)
    else:
        console.print("\nNothing had to be replaced: no file names a path of this machine.")
    for name, words in plan.relisted.items():
        console.print(f"{name} lists the files as they are sent: {words}.")
    for note in plan.notes:
        console.print(f"Note: {note}")
