"""What stops a corpus: settings, an output in the way, too much that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codir.corpora.corpus import MANIFEST, WORK
from codir.corpora.scanning import conversion
from codir.corpora.shards import Counts
from codir.corpora.sources import DOCUMENTS, Source
from codir.data.decoding import require_encoding
from codir.errors import ConfigError, DataError, RunError, nearest
from codir.locks import is_trace
from codir.storage import require_name


def check_settings(documents: str, validation: float, workers: int | None, allow_skipped: float) -> None:
    """Raises `ConfigError` for a setting that is unknown or out of range."""
    if documents not in DOCUMENTS:
        raise ConfigError(
            f"Documents cannot be separated by {documents!r}{nearest(documents, DOCUMENTS)}: choose one of "
            f"{', '.join(DOCUMENTS)} (--documents)."
        )
    for value, what in (
        (validation, "of documents held out (--validation)"),
        (allow_skipped, "--allow-skipped"),
    ):
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"The share {what} must lie between 0 and 1, not {value}.")
    if workers is not None and workers < 1:
        raise ConfigError(f"There must be at least one worker, not {workers}.")


def check_encoding(name: str | None) -> str | None:
    """Returns the name by which Python knows the encoding of text files, None for UTF-8.

    Raises:
        ConfigError: there is no such encoding, or text in it cannot be divided at its line ends.
    """
    found = require_encoding(name).removesuffix("-sig") if name is not None else "utf-8"
    if "\n".encode(found) != b"\n":
        raise ConfigError(
            f"Text in {name} cannot be read in parts, as a corpus is: convert it to UTF-8 "
            f"(`{conversion(found)}`) and leave out --encoding."
        )
    return found if found != "utf-8" else None


def check_output(output: Path, resume: bool) -> None:
    """Raises `RunError` unless the folder is empty, or holds what `resume` goes on with."""
    require_name(output, folder=True)
    if output.exists() and not output.is_dir():
        raise RunError(f"{output} is a file, not a folder. Choose another --output.")
    names = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    begun = bool(names & {MANIFEST, WORK})
    content = sorted(name for name in names if not is_trace(name))
    if resume:
        if not begun and (content or not names):
            what = "does not exist" if not output.exists() else "holds no corpus"
            raise RunError(f"Nothing to resume: {output} {what}. Leave out --resume to prepare a new one.")
    elif begun:
        state = "a corpus" if MANIFEST in names else "an unfinished corpus"
        way = "Choose another --output." if MANIFEST in names else "Add --resume or choose another --output."
        raise RunError(f"{output} already holds {state}. {way}")
    elif content:
        shown = ", ".join(content[:3]) + (", ..." if len(content) > 3 else "")
        raise RunError(f"{output} is not empty and no corpus (it holds {shown}). Choose another --output.")


def check_same(output: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises `RunError` naming the options in which a resumed corpus differs from the one that was begun."""
    differing = [
        f"  {name}: {there.get(name)!r} there, {now.get(name)!r} now"
        for name in sorted(there.keys() | now.keys())
        if there.get(name) != now.get(name)
    ]
    if differing:
        raise RunError(
            f"{output} was begun with other options:\n"
            + "\n".join(differing)
            + "\nGive the same ones, or choose another --output."
        )


def check_files(found: Sequence[Source], allowed: float) -> None:
    """Raises `DataError` if no file, or too small a share of them, can be used; names them and says why."""
    skipped = [source for source in found if source.skipped is not None]
    if not skipped:
        return
    named = "".join(f"\n  {source.name}: {source.skipped}" for source in skipped[:10])
    named += f"\n  and {len(skipped) - 10} more" if len(skipped) > 10 else ""
    if len(skipped) == len(found):
        raise DataError(f"There is no text: none of the {len(found)} files can be used.{named}")
    if len(skipped) > allowed * len(found):
        share = len(skipped) / len(found)
        raise DataError(
            f"{len(skipped)} of {len(found)} files ({share:.1%}) cannot be used:{named}\nMend or leave them out, or "
            f"let them be skipped: --allow-skipped {min(share + 0.005, 1):.2f}."
        )


def check_documents(counts: Counts, allowed: float) -> None:
    """Raises `DataError` if there is no document, or too large a share was skipped."""
    skipped = sum(counts.skipped.values())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.skipped.items()))
    named = "".join(f"\n  {example}" for example in counts.examples)
    if not counts.documents:
        raise DataError(
            f"The corpus is empty: the inputs hold no document{f' ({reasons})' if reasons else ''}.{named}"
        )
    share = skipped / (skipped + counts.documents)
    if share > allowed:
        raise DataError(
            f"{skipped:,} of {skipped + counts.documents:,} documents ({share:.1%}) cannot be used: {reasons}.{named}\n"
            f"Mend them, or let them be skipped: --resume --allow-skipped {min(share + 0.005, 1):.2f}."
        )
