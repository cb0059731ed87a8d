"""The one place that prints: what comes from data, paths and models is shown as text, and no console ends a command.

Two things can go wrong when a label or the name of a folder is printed. rich takes `[/INST]` and `:bug:` for its own
signs, so that it stops or shows something else; and a console that is not UTF-8 has no `±` and no Hindi, so that Python
stops. Therefore every console, table and bar of codir is made here (`tests/test_architecture.py` sees to that).
"""

from __future__ import annotations

import codecs
import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

from rich import box
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

__all__ = ["Console", "Progress", "RenderableType", "Table", "TaskID"]  # rich's, for annotations elsewhere

# Lines of this many characters where standard output is no terminal (a pipe, a log): as wide as the tables need.
WIDTH = 120
_FALLBACK = "codir.plainer"
# What is said otherwise on a console that has not got the sign itself; all else is written as `\u092c`.
_PLAINER = {"±": "+/-", "×": "x", "…": "...", "→": "->", "≤": "<=", "≥": ">=", "\N{NO-BREAK SPACE}": " "}
_PLAINER |= dict.fromkeys("·−–—", "-") | dict.fromkeys("‘’", "'") | dict.fromkeys("“”", '"')
# Signs that a terminal obeys instead of showing them, and halves of characters, which no encoding has.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def _plainer(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    first = error.object[error.start]
    return _PLAINER.get(first) or first.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error(_FALLBACK, _plainer)


def write_plainer(*streams: Any) -> None:
    """Makes text streams write a plainer sign in place of one that their encoding has not got."""
    for stream in streams:
        # what a test or a notebook has put in place of a stream may have no encoding
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors=_FALLBACK)


def printable(value: object) -> str:
    """Returns `value` as text in which control characters (but line ends and tabs) are written out: `\\x1b`."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def text(value: object, style: str = "") -> Text:
    """Returns `value` to be printed as it is: nothing in it is a sign of rich's or of the terminal's."""
    return Text(printable(value), style=style)


class _Stream:
    """A stream to which anything can be written; what its encoding has not got becomes plainer."""

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def write(self, written: str) -> int:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return self._stream.write(written.encode(encoding, _FALLBACK).decode(encoding))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Terminal(Console):
    """A console of rich's to which strings are text, whatever is in them and whatever it can show."""

    @property
    def file(self) -> IO[str]:
        """The stream that is written to."""
        return cast(IO[str], _Stream(cast(IO[str], super().file)))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render_str(self, text: str, *, style: Any = "", **options: Any) -> Text:
        """Returns a string as text; called by rich for each string in what is printed."""
        kept = {name: options[name] for name in ("justify", "overflow") if name in options}
        return Text(printable(text), style=style, **kept)


class _Given(Terminal):
    """A console of the caller's own: what codir prints goes there, as text."""

    def __init__(self, given: Console):
        super().__init__(file=given.file, width=given.width, force_terminal=given.is_terminal, quiet=given.quiet)
        self._given = given
        if not given.encoding.startswith("utf"):
            given.file = cast(IO[str], _Stream(given.file))

    def print(self, *objects: Any, **options: Any) -> None:
        shown = (text(each) if isinstance(each, str) else each for each in objects)
        self._given.print(*shown, **options)


def terminal(given: Console | None = None) -> Console:
    """Returns the console to print to: the caller's own, else standard output."""
    if given is not None:
        return given if isinstance(given, Terminal) else _Given(given)
    found = Terminal()
    return found if found.is_terminal else Terminal(width=WIDTH)


def silent() -> Console:
    """Returns a console that shows nothing."""
    return Terminal(quiet=True)


def errors() -> Console:
    """Returns the console of messages and bars: standard error."""
    return Terminal(stderr=True)


def log_to(stream: IO[str]) -> Console:
    """Returns a console for a stream that somebody reads later: a log."""
    return Terminal(file=stream, width=WIDTH, force_terminal=False)


class _TextTable(Table):
    """A table whose headings and cells are text on every console."""

    def add_column(self, header: RenderableType = "", footer: RenderableType = "", **options: Any) -> None:
        super().add_column(_as_text(header), _as_text(footer), **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(None if cell is None else _as_text(cell) for cell in cells), **options)


def _as_text(value: RenderableType) -> RenderableType:
    return text(value) if isinstance(value, str) else value


def table(title: str | Text | None = None, caption: str | None = None, **options: Any) -> _TextTable:
    """Returns a table with a rule below its headings, a title above and a caption below; `options` are rich's."""
    return _TextTable(
        title=text(title, "table.title") if isinstance(title, str) else title,
        title_justify="left",
        caption=None if caption is None else text(caption, "table.caption"),
        caption_justify="left",
        **{"box": box.SIMPLE_HEAD, "show_edge": False, **options},
    )


def pairs(title: str, rows: Iterable[tuple[str, str]]) -> _TextTable:
    """Returns a table without headings: what it is, indented, and its value."""
    made = table(title, show_header=False, box=None, pad_edge=False)
    for what, value in rows:
        made.add_row(f"  {what}", value)
    return made


def bar(console: Console, **options: Any) -> Progress:
    """Returns a progress bar: what is done, how far, the time taken and left, the field `recent` of its task."""
    columns: list[ProgressColumn | str] = [
        _Words("description"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        *(TimeElapsedColumn(), "left", TimeRemainingColumn(), _Words("recent", "dim")),
    ]
    return Progress(*columns, console=console, **options)


class _Words(ProgressColumn):
    """Words of a task, which rich's own column would read as signs and as a format."""

    def __init__(self, name: str, style: str = ""):
        super().__init__()
        self._name, self._style = name, style

    def render(self, task: Any) -> Text:
        words = task.description if self._name == "description" else task.fields.get(self._name, "")
        return text(words, self._style)


@contextlib.contextmanager
def progress_bar(description: str, total: int | None = None) -> Iterator[Any]:
    """Shows a bar on standard error while the block runs; yields the function that moves it: `(done, in all)`.

    Nothing is drawn where standard error is no terminal.
    """
    console = errors()
    with bar(console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(description, total=total)

        def move(done: int, in_all: int) -> None:
            shown.update(task, completed=done, total=in_all)

        yield move


def say(words: str, *, end: str = "\n") -> None:
    """Writes words to standard output as they are, in no colours and on no width: what programs read."""
    stream = _Stream(sys.stdout)
    stream.write(words + end)
    stream.flush()
