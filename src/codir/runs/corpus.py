"""Prepares a pre-training corpus and reports what is in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from codir.data.corpus import Corpus
from codir.data.corpus_build import available_cpus, build_corpus
from codir.printing import Console, RenderableType, progress_bar, table, terminal
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
    resume: bool = False,
    workers: int | None = None,
    console: Console | None = None,
    **options: Any,
) -> Corpus:
    """Prepares a corpus with a progress bar and prints its report; arguments and errors as `build_corpus`."""
    console = terminal(console)
    started = time.monotonic()
    with progress_bar("corpus (MB of text)") as move:
        made = build_corpus(
            inputs,
            tokenizer,
            Path(output),
            resume=resume,
            workers=workers,
            progress=_with_lines(move, console),
            **options,
        )
    seconds = time.monotonic() - started
    for line in report(made):
        console.print(line, highlight=False, soft_wrap=isinstance(line, str))
    speed = f", {made.manifest['counts']['tokens'] / seconds:,.0f} tokens a second with "
    speed += f"{workers or available_cpus()} workers"
    console.print(
        f"Ready after {seconds:,.1f} s{'' if resume else speed}: {output}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    return made


def _with_lines(move: Callable[[int, int], None], console: Console) -> Callable[[int, int], None]:
    """Moves the bar, in MB; where there is no terminal, prints a line now and then."""
    first: list[tuple[float, int]] = []
    last = time.monotonic()

    def moved(done: int, in_all: int) -> None:
        nonlocal last
        move(done // 1_000_000, max(in_all // 1_000_000, 1))
        now = time.monotonic()
        first.append((now, done)) if not first else None
        if console.is_terminal or now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        left = (now - first[0][0]) / max(done - first[0][1], 1) * (in_all - done)
        console.print(
            f"corpus: {done / 1e6:,.0f} of {in_all / 1e6:,.0f} MB of text, {left / 60:.1f} min left",
            highlight=False,
        )

    return moved


def report(made: Corpus) -> list[RenderableType]:
    """Returns what is in a corpus, how its documents were told apart, and what was skipped and why."""
    counts, sources = made.manifest["counts"], made.manifest["sources"]
    shown = table(f"Corpus {made.path}")
    shown.add_column("")
    for heading in ("documents", "tokens", "blocks"):
        shown.add_column(heading, justify="right")
    for name, row in (("train", counts["train"]), ("validation", counts["validation"]), ("together", counts)):
        shown.add_row(name, *(f"{row[what]:,}" for what in ("documents", "tokens", "blocks")))
    lines: list[RenderableType] = [
        shown,
        f"{counts['sentences']:,} sentences in blocks of at most {made.block} tokens, on average "
        f"{counts['fill']:.1%} full. Tokens are counted without special tokens.",
    ]
    if not counts["validation"]["blocks"]:
        lines.append("No document is held out for validation: there is only one, or --validation is 0.")
    for mode, meaning in _SEPARATED.items():
        if names := _names(each for each in sources if each.get("documents") == mode):
            lines.append(f"{names}: {meaning} (--documents {mode}).")
    for encoding in sorted({each["encoding"] for each in sources if "encoding" in each}):
        lines.append(f"{_names(each for each in sources if each.get('encoding') == encoding)}: read as {encoding}.")
    return lines + _skipped(made.manifest["skipped"])


def _names(sources: Iterable[dict[str, Any]]) -> str:
    names = [Path(source["name"]).name for source in sources]
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def _skipped(skipped: dict[str, Any]) -> list[str]:
    lines = [f"Skipped file {entry['name']}: {entry['reason']}" for entry in skipped["files"][:20]]
    if len(skipped["files"]) > 20:
        lines.append(f"and {len(skipped['files']) - 20:,} more files (see corpus.json)")
    lines += [f"Skipped {count:,} documents: {reason}" for reason, count in skipped["documents"].items()]
    return [*lines, *(f"  {example}" for example in skipped["examples"])] or ["Nothing was skipped."]
