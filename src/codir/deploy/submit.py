"""`codir submit`: from one model for each task to the archive that GLUE's server takes."""

from __future__ import annotations

import statistics
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codir import __version__
from codir.data.glue import GLUE
from codir.deploy.submission import (
    DIAGNOSTIC,
    FILES,
    HIGHEST,
    LOWEST,
    SubmissionFile,
    archive_bytes,
    find_test_file,
    read_test_file,
    require_complete,
    score_word,
)
from codir.deploy.task_models import Chosen, choose_models
from codir.engines.engines import load_engine
from codir.errors import ConfigError, DataError, RunError
from codir.files import check_file, file_digest, write_bytes, write_text, writes
from codir.kinds import kind_named
from codir.models.check import load_tokenizer_for
from codir.printing import Console, progress_bar, terminal
from codir.runs.predict import Cut, predict_texts
from codir.table import Column, Table, Tabular, inline
from codir.training.processes import one_process_only

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class FileResult:
    """One file of the archive and where its predictions come from.

    Attributes:
        file: What it is.
        model: The model that predicted it; None: it was filled in.
        predictions: What is written in it.
        notes: What the user should know about it.
    """

    file: SubmissionFile
    model: str | None
    predictions: list[str] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    @property
    def content(self) -> str:
        """The predictions in short: `0: 578, 1: 1,147`, or the mean and range of the scores."""
        if not self.file.words:
            scores = [float(word) for word in self.predictions]
            return f"mean {statistics.fmean(scores):.2f}, {min(scores):.2f} to {max(scores):.2f}"
        counts = Counter(self.predictions)
        return ", ".join(f"{word}: {counts[word]:,}" for word in self.file.words if counts[word])


@dataclass
class SubmissionResult(Tabular):
    """What was written.

    Attributes:
        output: The archive.
        manifest: The Markdown file beside it that says what is in it (the server wants no other files inside).
        files: The files of the archive, in its order.
    """

    output: Path
    manifest: Path
    files: list[FileResult]

    @property
    def filled(self) -> list[str]:
        """The files that no model predicted."""
        return [each.file.name for each in self.files if each.model is None]

    @property
    def notes(self) -> list[str]:
        """What the user should know, each sentence once."""
        notes = list(dict.fromkeys(note for each in self.files for note in each.notes))
        if self.filled:
            notes.append(
                f"{len(self.filled)} of {len(self.files)} files have no model's predictions in them "
                f"({', '.join(self.filled)}): the server wants all files, but its scores for these, and its average, "
                "are no result of yours."
            )
        return notes

    def table(self) -> Table:
        """Returns a row for each file."""
        columns = [
            Column("file", left=True),
            Column("rows", "{:,}".format),
            Column("from", left=True),
            Column("predictions", left=True),
        ]
        rows = [
            (
                each.file.name,
                each.file.rows,
                each.model or f"filled in: {each.file.fill_words()}",
                each.content,
            )
            for each in self.files
        ]
        return Table("", columns, rows)

    def to_markdown(self) -> str:
        """Returns what lies beside the archive."""
        notes = "".join(f"- {inline(note)}\n" for note in self.notes)
        return (
            f"# {inline(self.output.name)}\n\nA submission for gluebenchmark.com, made by codir {__version__}; xxh3 of "
            f"the archive: `{file_digest(self.output)}`. This file belongs beside the archive, not into it.\n\n"
            f"{self.table().to_markdown()}\n{notes}"
        )


@writes()
def submit(
    models: Iterable[str],
    data_dir: str | Path,
    output: str | Path,
    *,
    fill: bool = True,
    batch_size: int = 32,
    max_length: int | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    quiet: bool = False,
) -> SubmissionResult:
    """Predicts GLUE's official test files and writes the archive its server takes, whole or not at all.

    Beside `NAME.zip` lies `NAME.md`, which says what is in it.

    Args:
        models: `mrpc=MODEL`, several with commas between, run folders, or folders of runs; see `choose_models`.
        data_dir: GLUE in its own format: the folder that holds `CoLA/`, `SST-2/`, ...
        output: The archive to write, `.zip`.
        fill: Files without a model are filled in, since the server wants all of them; False refuses.
        batch_size: The examples in a batch.
        max_length: Longer inputs are cut; by default where the run cut them in training.
        overwrite: Replaces an existing archive and its manifest.
        console: Where to print; standard output by default.
        quiet: Prints nothing.

    Raises:
        ConfigError: An unknown task, no model, or files without one and `fill` is False.
        DataError: A test file is missing, or is not the official one.
        ModelError: A model cannot be loaded, has other classes than its task, or gives NaN.
        RunError: The output exists or cannot be written.
    """
    one_process_only("codir submit")
    output = Path(output)
    if output.suffix.lower() != ".zip":
        raise ConfigError(
            f"The server takes a zip archive: give an --output that ends in .zip, not {output}."
        )
    manifest = output.with_suffix(".md")
    check_file(manifest, overwrite=overwrite)
    chosen = choose_models(models)
    tests = _read_tests(chosen, data_dir)
    if missing := [] if fill else [name for name in FILES if name not in tests]:
        raise ConfigError(
            f"There is no model, or no test data, for {', '.join(missing)}, and the server refuses an archive without "
            "them. Add the models, or leave out --no-fill to have these files filled with a constant."
        )
    files = {name: FileResult(file, None, file.filled()) for name, file in FILES.items()}
    for task, choice in chosen.items():
        mine = {name: test for name, test in tests.items() if FILES[name].task == task}
        for done in _predict(choice, mine, batch_size, max_length):
            files[done.file.name] = done
    if FILES[DIAGNOSTIC].task in chosen and DIAGNOSTIC not in tests:
        files[DIAGNOSTIC].notes.append(
            f"{DIAGNOSTIC} is filled in, although there is a model for mnli: its data are not in {data_dir}."
        )
    result = SubmissionResult(output, manifest, list(files.values()))
    content = archive_bytes({name: each.predictions for name, each in files.items()})
    require_complete(content)
    try:
        write_bytes(output, content)
        write_text(manifest, result.to_markdown())
    except OSError as error:
        raise RunError(f"Cannot write {error.filename or output}: {error.strerror or error}.") from error
    if not quiet:
        console = terminal(console)
        console.print(result.to_rich())
        for note in result.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True, style="yellow")
        console.print(
            f"Upload {output} at gluebenchmark.com/submit. What is in it also stands in {manifest}.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    return result


_Test = tuple[Path, "Dataset", list[str]]


def _read_tests(chosen: dict[str, Chosen], data_dir: str | Path) -> dict[str, _Test]:
    """Returns path, texts and notes of every test file there is a model for, before anything is computed."""
    tests: dict[str, _Test] = {}
    for name, file in FILES.items():
        if file.task not in chosen:
            continue
        path = find_test_file(file, data_dir)
        if path is not None:
            tests[name] = (path, *read_test_file(file, path))
        elif name != DIAGNOSTIC:
            raise DataError(
                f"There is a model for {file.task}, but not the official test file ({file.tests[0]}) in {data_dir}. "
                f"Get it from gluebenchmark.com/tasks, or leave out the model to have {name} filled in."
            )
    return tests


def _predict(
    choice: Chosen, tests: dict[str, _Test], batch_size: int, max_length: int | None
) -> Iterator[FileResult]:
    """Yields the files that one model predicts."""
    model = load_engine(choice.model)
    tokenizer = load_tokenizer_for(model, choice.model)
    task = GLUE[choice.task].task
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        order = list(kind_named(task.kind).match(task.labels, model.config, choice.model))
    notes = [*choice.notes, *(f"{task.name}: {warning.message}" for warning in said)]
    for name, (path, texts, about) in tests.items():
        file, cut = FILES[name], Cut()
        with progress_bar(name, len(texts)) as progress:
            parts = predict_texts(
                model,
                tokenizer,
                texts,
                cut,
                batch_size=batch_size,
                max_length=max_length or choice.max_length,
                progress=progress,
                name=choice.model,
                source=str(path),
            )
            logits = np.concatenate([part[:, order] for _, part in parts])  # [n, C], classes as the task's
        mine = [*notes, *about]
        if file.words:
            words = [file.words[int(number)] for number in logits.argmax(axis=1)]
        else:
            words = [score_word(float(score)) for score in logits[:, 0]]
            if clipped := int(((logits[:, 0] < LOWEST) | (logits[:, 0] > HIGHEST)).sum()):
                mine.append(
                    f"{name}: {clipped:,} scores were outside of {LOWEST:g} to {HIGHEST:g} and were clipped."
                )
        if cut.truncated:
            mine.append(
                f"{name}: {cut.truncated:,} texts are longer than {cut.max_length} tokens and were cut."
            )
        yield FileResult(file, choice.model, words, mine)
