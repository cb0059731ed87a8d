"""Prepares a pre-training corpus and reports what is in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codir.data.corpus import Corpus
from codir.data.corpus_build import available_cpus, build_corpus
from codir.printing import Console, RenderableType, progress_bar, terminal
from codir.table import Column, Table
from codir.training.callbacks import SECONDS_BETWEEN_LINES

_SEPARATED = {
    "line": "one document a line",
    "blank": "blank lines between documents",
    "heading": "a document for each heading of WikiText",
    "file": "the whole file is one document",
}


def corpus(
    inputs: Sequence[str],
    tokenizer: str,
    output: str | Path,
    *,
    console: Console | None = None,
    **options: Any,
) -> Corpus:
    """Prepares a corpus with a progress bar and prints its report; arguments and errors as `build_corpus`."""
    console = terminal(console)
    started = time.monotonic()
    with progress_bar("corpus (MB of text)") as move:
        made = build_corpus(inputs, tokenizer, Path(output), progress=_with_lines(move, console), **options)
    seconds = time.monotonic() - started
    for line in report(made):
        console.print(line, highlight=False, markup=False, soft_wrap=isinstance(line, str))
    speed = f", {made.manifest['counts']['tokens'] / seconds:,.0f} tokens a second with "
    speed += f"{options.get('workers') or available_cpus()} workers"
    ready = f"Ready after {seconds:,.1f} s{'' if options.get('resume') else speed}: {output}"
    console.print(ready, highlight=False, markup=False, soft_wrap=True)
    return made


def _with_lines(move: Callable[[int, int], None], console: Console) -> Callable[[int, int], None]:
    """Moves the bar, in MB; where there is no terminal, prints a line now and then."""
    last = time.monotonic()

    def moved(done: int, in_all: int) -> None:
        nonlocal last
        move(done // 1_000_000, max(in_all // 1_000_000, 1))
        if not console.is_terminal and time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            console.print(f"corpus: {done / 1e6:,.0f} of {in_all / 1e6:,.0f} MB of text", highlight=False)

    return moved


def report(made: Corpus) -> list[RenderableType]:
    """Returns what is in a corpus, how its documents were told apart, and what was skipped and why."""
    counts, sources, skipped = (made.manifest[what] for what in ("counts", "sources", "skipped"))
    numbers = ("documents", "tokens", "blocks")
    columns = (Column("", left=True), *(Column(name, "{:,}".format) for name in numbers))
    parts = {"train": counts["train"], "validation": counts["validation"], "together": counts}
    rows = [(part, *(row[name] for name in numbers)) for part, row in parts.items()]
    lines: list[RenderableType] = [
        Table(f"Corpus {made.path}", columns, rows).to_rich(),
        f"{counts['sentences']:,} sentences in blocks of at most {made.block} tokens, on average "
        f"{counts['fill']:.1%} full. Tokens are counted without special tokens.",
    ]
    if not counts["validation"]["blocks"]:
        lines.append("No document is held out for validation: there is only one, or --validation is 0.")
    said: dict[str, list[str]] = {}
    for each in sources:
        if mode := each.get("documents"):
            said.setdefault(f"{_SEPARATED[mode]} (--documents {mode}).", []).append(Path(each["name"]).name)
        if "encoding" in each:
            said.setdefault(f"read as {each['encoding']}.", []).append(Path(each["name"]).name)
    for what, names in said.items():
        lines.append(", ".join(names[:5]) + f" and {len(names) - 5:,} more" * (len(names) > 5) + f": {what}")
    lost = [f"Skipped file {entry['name']}: {entry['reason']}" for entry in skipped["files"][:20]]
    if len(skipped["files"]) > 20:
        lost.append(f"and {len(skipped['files']) - 20:,} more files (see corpus.json)")
    lost += [f"Skipped {count:,} documents: {reason}" for reason, count in skipped["documents"].items()]
    return lines + (lost + [f"  {example}" for example in skipped["examples"]] or ["Nothing was skipped."])
