"""Writes the archive that GLUE's server takes, and says what is wrong with one."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from codir.data.glue import GLUE
from codir.deploy.glue_testset import find_test_file, read_test_file
from codir.deploy.submission import (
    DIAGNOSTIC,
    FILES,
    HIGHEST,
    LOWEST,
    SubmissionFile,
    archive_bytes,
    member_bytes,
    score_word,
)
from codir.deploy.submission_check import Problem, check_archive
from codir.deploy.submission_models import Chosen, choose_models
from codir.deploy.submission_result import FileResult, SubmissionResult
from codir.engines.engines import load_engine
from codir.errors import ConfigError, DataError, RunError
from codir.models.check import load_tokenizer_for
from codir.models.classes import match_classes, require_regression
from codir.models.loading import class_names
from codir.outputs import check_file, writes
from codir.printing import Console, progress_bar, terminal
from codir.runs.predict import Cut, predict_texts
from codir.storage import write_bytes, write_text
from codir.training.processes import one_process_only

if TYPE_CHECKING:
    from datasets import Dataset


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
    device: str | torch.device | None = None,
    autocast: torch.dtype | None = None,
    console: Console | None = None,
    quiet: bool = False,
) -> SubmissionResult:
    """Predicts GLUE's official test files and writes the archive its server takes, whole or not at all.

    Beside `NAME.zip` lies `NAME.md`, which says what is in it. Before it gets its name the archive goes through the
    same check as archives made elsewhere.

    Args:
        models: `mrpc=MODEL`, several with commas between, run folders, or folders of runs; see `choose_models`.
        data_dir: GLUE in its own format: the folder that holds `CoLA/`, `SST-2/`, ...
        output: the archive to write, `.zip`.
        fill: files without a model are filled in, since the server wants all of them; False refuses.
        batch_size: examples in a batch.
        max_length: longer inputs are cut; by default where the run cut them in training.
        overwrite: replaces an existing archive and its manifest.
        device: where to compute; a GPU if there is one.
        autocast: `torch.bfloat16` for mixed precision; None computes in fp32.
        console: where to print; standard output by default.
        quiet: prints nothing.

    Raises:
        ConfigError: an unknown task, no model, or files without one and `fill` is False.
        DataError: a test file is missing, or is not the official one.
        ModelError: a model cannot be loaded, has other classes than its task, or gives NaN.
        RunError: the output exists or cannot be written.
    """
    one_process_only("codir submit")
    output = Path(output)
    manifest = _check_output(output, overwrite)
    chosen = choose_models(models)
    tests = _read_tests(chosen, data_dir)
    if missing := [] if fill else [name for name in FILES if name not in tests]:
        raise ConfigError(
            f"There is no model, or no test data, for {', '.join(missing)}, and the server refuses an archive without "
            "them. Add the models, or leave out --no-fill to have these files filled with a constant."
        )
    done: dict[str, FileResult] = {}
    for task, choice in chosen.items():
        for result in _predict_task(
            choice,
            {name: test for name, test in tests.items() if FILES[name].task == task},
            batch_size=batch_size,
            max_length=max_length,
            device=device,
            autocast=autocast,
        ):
            done[result.file.name] = result
    files = [
        done[name] if name in done else FileResult(file, None, file.filled()) for name, file in FILES.items()
    ]
    if FILES[DIAGNOSTIC].task in chosen and DIAGNOSTIC not in tests:
        note = (
            f"{DIAGNOSTIC} is filled in, although there is a model for mnli: its data are not in {data_dir}."
        )
        next(each for each in files if each.file.name == DIAGNOSTIC).notes.append(note)
    result = SubmissionResult(output, manifest, files)
    _write(result)
    if not quiet:
        print_result(result, console)
    return result


def check(archive: str | Path, *, console: Console | None = None, quiet: bool = False) -> list[Problem]:
    """Checks an archive, prints all problems with the way out, and returns them.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    problems = check_archive(archive)
    if not quiet:
        console = terminal(console)
        if problems:
            count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
            console.print(
                f"{archive} cannot be submitted: {count}.", style="red", highlight=False, markup=False
            )
        else:
            console.print(f"{archive} can be submitted: {len(FILES)} files, all as GLUE's server wants them.")
        for problem in problems:
            console.print(f"- {problem}", highlight=False, markup=False, soft_wrap=True)
    return problems


def _check_output(output: Path, overwrite: bool) -> Path:
    """Refuses an output that cannot or should not be written; returns the manifest's path."""
    if output.suffix.lower() != ".zip":
        raise ConfigError(
            f"The server takes a zip archive: give an --output that ends in .zip, not {output}."
        )
    manifest = output.with_suffix(".md")
    check_file(manifest, overwrite=overwrite)
    return manifest


def _read_tests(
    chosen: dict[str, Chosen], data_dir: str | Path
) -> dict[str, tuple[Path, Dataset, list[str]]]:
    """Returns path, texts and notes of every test file there is a model for, before anything is computed."""
    tests: dict[str, tuple[Path, Dataset, list[str]]] = {}
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


def _predict_task(
    choice: Chosen,
    tests: dict[str, tuple[Path, Dataset, list[str]]],
    *,
    batch_size: int,
    max_length: int | None,
    device: str | torch.device | None,
    autocast: torch.dtype | None,
) -> list[FileResult]:
    """Returns the files that one model predicts."""
    model = load_engine(choice.model)
    tokenizer = load_tokenizer_for(model, choice.model)
    task = GLUE[choice.task].task
    names = class_names(model.config)
    order, notes = [0], list(choice.notes)
    if task.labels is None:
        require_regression(len(names), choice.model)
    else:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            order = list(match_classes(task.labels, names, choice.model))
        notes += [f"{task.name}: {warning.message}" for warning in said]
    results = []
    for name, (path, texts, about) in tests.items():
        file, cut = FILES[name], Cut()
        logits = []
        with progress_bar(name, len(texts)) as progress:
            for _, part in predict_texts(
                model,
                tokenizer,
                texts,
                cut,
                batch_size=batch_size,
                max_length=max_length or choice.max_length,
                device=device,
                autocast=autocast,
                progress=progress,
                name=choice.model,
                source=str(path),
            ):
                logits.append(part[:, order])
        words, clipped = _words(file, np.concatenate(logits))
        mine = [*notes, *about]
        if clipped:
            mine.append(
                f"{name}: {clipped:,} scores were outside of {LOWEST:g} to {HIGHEST:g} and were clipped."
            )
        if cut.truncated:
            mine.append(
                f"{name}: {cut.truncated:,} {'text is' if cut.truncated == 1 else 'texts are'} longer than "
                f"{cut.max_length} tokens and {'was' if cut.truncated == 1 else 'were'} cut."
            )
        results.append(FileResult(file, choice.model, words, mine))
    return results


def _words(file: SubmissionFile, logits: np.ndarray) -> tuple[list[str], int]:
    """Returns what is written for logits [n, C] (columns: the task's classes), and how many scores were clipped."""
    if file.words is None:
        scores = logits[:, 0]
        outside = int(((scores < LOWEST) | (scores > HIGHEST)).sum())
        return [score_word(float(score)) for score in scores], outside
    return [file.words[int(number)] for number in logits.argmax(axis=1)], 0


def _write(result: SubmissionResult) -> None:
    members = {each.file.name: member_bytes(each.predictions) for each in result.files}
    content = archive_bytes(members)
    if problems := check_archive(io.BytesIO(content)):
        raise AssertionError(f"codir made an archive that it would refuse itself: {problems[0]}")
    try:
        write_bytes(result.output, content)
        write_text(result.manifest, result.to_markdown())
    except OSError as error:
        raise RunError(
            f"Cannot write {error.filename or result.output}: {error.strerror or error}."
        ) from error


def print_result(result: SubmissionResult, console: Console | None = None) -> None:
    """Prints what is in the archive, and what the user should know about it."""
    console = terminal(console)
    console.print(result.to_rich())
    for note in result.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True, style="yellow")
    console.print(
        f"Upload {result.output} at gluebenchmark.com/submit. What is in it also stands in {result.manifest}.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
