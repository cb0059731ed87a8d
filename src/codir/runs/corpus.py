"""Prepares a pre-training corpus and reports what is in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codir.corpora.build import build_corpus
from codir.corpora.corpus import Corpus
from codir.corpora.workers import available_cpus
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
    """Prepares a corpus with a progress bar and prints its report; arguments and errors as `build_corpus`.

    Args:
        inputs: files, folders, patterns or Hub data sets.
        tokenizer: model folder, tokenizer folder or Hub id.
        output: the corpus folder.
        resume: go on with a corpus that was interrupted.
        workers: processes; all cores if None.
        console: where the report goes.
        options: further arguments of `build_corpus`.
    """
    console = terminal(console)
    started = time.monotonic()
    with progress_bar("corpus (MB of text)") as move:
        moved = _with_lines(move, console)
        made = build_corpus(
            inputs, tokenizer, Path(output), resume=resume, workers=workers, progress=moved, **options
        )
    seconds = time.monotonic() - started
    for line in report(made):
        console.print(line, highlight=False, soft_wrap=isinstance(line, str))
    tokens = made.manifest["counts"]["tokens"]
    speed = (
        ""
        if resume
        else f", {tokens / seconds:,.0f} tokens a second with {workers or available_cpus()} workers"
    )
    console.print(
        f"Ready after {seconds:,.1f} s{speed}: {output}", highlight=False, soft_wrap=True, markup=False
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
    counts = made.manifest["counts"]
    shown = table(f"Corpus {made.path}")
    shown.add_column("")
    for heading in ("documents", "tokens", "blocks"):
        shown.add_column(heading, justify="right")
    for name, row in (("train", counts["train"]), ("validation", counts["validation"]), ("together", counts)):
        shown.add_row(name, f"{row['documents']:,}", f"{row['tokens']:,}", f"{row['blocks']:,}")
    lines: list[RenderableType] = [
        shown,
        f"{counts['sentences']:,} sentences in blocks of at most {made.block} tokens, on average "
        f"{counts['fill']:.1%} full. Tokens are counted without special tokens.",
    ]
    if not counts["validation"]["blocks"]:
        lines.append("No document is held out for validation: there is only one, or --validation is 0.")
    lines += _separations(made.manifest["sources"])
    lines += _encodings(made.manifest["sources"])
    lines += _skipped(made.manifest["skipped"])
    return lines


def _separations(sources: Sequence[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    for mode, meaning in _SEPARATED.items():
        names = [Path(source["name"]).name for source in sources if source.get("documents") == mode]
        if names:
            more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
            lines.append(f"{', '.join(names[:5])}{more}: {meaning} (--documents {mode}).")
    return lines


def _encodings(sources: Sequence[dict[str, Any]]) -> list[str]:
    names = [Path(source["name"]).name for source in sources if "encoding" in source]
    if not names:
        return []
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    encoding = next(source["encoding"] for source in sources if "encoding" in source)
    return [f"{', '.join(names[:5])}{more}: read as {encoding} (--encoding), all other files as UTF-8."]


def _skipped(skipped: dict[str, Any]) -> list[str]:
    lines = [f"Skipped file {entry['name']}: {entry['reason']}" for entry in skipped["files"][:20]]
    if len(skipped["files"]) > 20:
        lines.append(f"and {len(skipped['files']) - 20:,} more files (see corpus.json)")
    lines += [f"Skipped {count:,} documents: {reason}" for reason, count in skipped["documents"].items()]
    lines += [f"  {example}" for example in skipped["examples"]]
    return lines or ["Nothing was skipped."]
