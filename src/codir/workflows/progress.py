"""A progress bar with the time left, on standard error, gone when the work is done."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(description: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar for the block and yields the function that moves it: `(done, in all)`.

    Nothing is drawn where standard error is no terminal.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)

        def move(done: int, in_all: int) -> None:
            bar.update(task, completed=done, total=in_all)

        yield move


def quiet_libraries() -> None:
    """Switches off the progress bars and notices of transformers and datasets: codir has its own."""
    import datasets
    import transformers

    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def default_console() -> Console:
    """Returns the terminal; where standard output is none (a pipe, a log), lines as wide as the table needs."""
    console = Console()
    return console if console.is_terminal else Console(width=120)
