"""One run folder for several processes: the first one holds it, checks it and writes it, the others follow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import PartialState

from codir.errors import CodirError, RunError
from codir.printing import Console, silent
from codir.record.runfolder import RunFolder
from codir.training.processes import first_says, is_main, launched


def join(console: Console) -> Console:
    """Joins the other processes that torchrun started, if it did.

    Returns:
        The console for the first process, a silent one for the others.
    """
    if launched() > 1:
        # What the Trainer does later; here so that the processes can agree before anything is loaded.
        PartialState(cpu=not torch.cuda.is_available())
    return console if is_main() else silent()


@contextlib.contextmanager
def run_folder(path: str | Path, resume: bool) -> Iterator[RunFolder]:
    """Opens a run folder for all processes, as `RunFolder.open` does for one; only the first one holds its lock.

    Raises:
        RunError: in every process, if the first one may not use the folder.
    """
    if not is_main():
        if reason := first_says(""):
            raise RunError(reason)
        yield RunFolder(path)
        return
    with contextlib.ExitStack() as stack:
        try:
            run = stack.enter_context(RunFolder.open(path, resume))
        except CodirError as error:
            first_says(str(error))
            raise
        first_says("")
        yield run
