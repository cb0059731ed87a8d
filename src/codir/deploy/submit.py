"""`codir submit`: from one model for each task to the archive that GLUE's server takes."""

from __future__ import annotations

import re
import statistics
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from codir import __version__
from codir.data.glue import GLUE, glue_task
from codir.deploy.submission import (
    DIAGNOSTIC,
    FILES,
    HIGHEST,
    LOWEST,
    archive_bytes,
    find_test_file,
    read_test_file,
)
from codir.engines.engines import load_engine
from codir.errors import ConfigError, DataError, RunError, nearest
from codir.files import check_file, file_digest, read_json, write_bytes, write_text, writes
from codir.kinds import kind_named
from codir.models.check import load_tokenizer_for
from codir.printing import Console, progress_bar, terminal
from codir.record.run_data import CONFIG, RunInputs, inputs_of
from codir.record.runfolder import RunFolder
from codir.runs.predict import Cut, predict_texts
from codir.table import Column, Table, Tabular, inline
from codir.training.processes import one_process_only

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class SubmissionResult(Tabular):
    """What was written: the archive, and beside it `NAME.md`, which says what is in it."""

    output: Path
    models: dict[str, str]  # by file: which model predicted it; the others were filled in
    predictions: dict[str, list[str]] = field(repr=False)  # by file, in the archive's order
    notes: list[str]  # what the user should know

    @property
    def filled(self) -> list[str]:
        """The files that no model predicted."""
        return [name for name in self.predictions if name not in self.models]

    def table(self) -> Table:
        """Returns a row for each file, with its classes counted, or the mean and range of its scores."""
        rows = []
        for name, words in self.predictions.items():
            file = FILES[name]
            if file.words:
                counts = Counter(words)
                content = ", ".join(f"{word}: {counts[word]:,}" for word in file.words if counts[word])
            else:
                scores = [float(word) for word in words]
                content = f"mean {statistics.fmean(scores):.2f}, {min(scores):.2f} to {max(scores):.2f}"
            source = self.models.get(name, f"filled in: {' and '.join(file.fill)}")
            rows.append((name, source, file.rows, content))
        names = [Column(name, left=True) for name in ("file", "from", "predictions")]
        return Table("", (*names[:2], Column("rows", "{:,}".format), names[2]), rows)

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

    Args:
        models: `mrpc=MODEL`, several with commas between, run folders, or folders of runs; see `choose_models`.
        data_dir: The folder that holds GLUE's own files (`CoLA/test.tsv`, ...).
        output: The archive; its name ends in `.zip`. Beside it lies `NAME.md`, which says what is in it.
        fill: Fill the files without a model with a constant; False refuses instead.
        max_length: Longer texts are cut; by default where the model's training cut them.

    Raises:
        ConfigError: Unknown tasks, models or settings; files without a model where `fill` is False.
        DataError: A test file is missing, or not the official one.
        ModelError: A model cannot be loaded, has other classes than its task, or gives NaN.
        RunError: The archive exists, or cannot be written.
    """
    one_process_only("codir submit")
    output = Path(output)
    if output.suffix.lower() != ".zip":
        raise ConfigError(f"--output {output}: the server takes a zip archive, so its name ends in .zip.")
    beside = output.with_suffix(".md")
    check_file(beside, overwrite=overwrite)
    chosen = choose_models(models)
    tests = _read_tests(chosen, data_dir)
    if missing := [] if fill else [name for name in FILES if name not in tests]:
        raise ConfigError(
            f"There is no model, or no test data, for {', '.join(missing)}, and the server refuses an archive without "
            "them. Add the models, or leave out --no-fill to have these files filled with a constant."
        )
    notes: list[str] = []
    predicted: dict[str, list[str]] = {}
    for choice in chosen.values():
        mine = {name: test for name, test in tests.items() if FILES[name].task == choice.task}
        predicted |= _predict(choice, mine, batch_size, max_length or choice.max_length, notes)
    predictions = {name: predicted.get(name) or file.filled() for name, file in FILES.items()}
    by = {name: chosen[FILES[name].task].model for name in predicted}
    result = SubmissionResult(output, by, predictions, list(dict.fromkeys(notes)))
    if FILES[DIAGNOSTIC].task in chosen and DIAGNOSTIC not in tests:
        result.notes.append(f"{DIAGNOSTIC} is filled in, although there is a model: its data are not in {data_dir}.")
    if result.filled:
        result.notes.append(
            f"{len(result.filled)} of {len(FILES)} files have no model's predictions in them "
            f"({', '.join(result.filled)}): the server wants all files, but its scores for these, and its average, "
            "are no result of yours."
        )
    write_bytes(output, archive_bytes(predictions))
    write_text(beside, result.to_markdown())
    if not quiet:
        console = terminal(console)
        console.print(result.to_rich())
        for note in result.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True, style="yellow")
        way = f"Upload {output} at gluebenchmark.com/submit. What is in it also stands in {beside}."
        console.print(way, highlight=False, markup=False, soft_wrap=True)
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
    choice: Chosen, tests: dict[str, _Test], batch_size: int, max_length: int | None, notes: list[str]
) -> dict[str, list[str]]:
    """Returns what one model predicts for its files, and adds what the user should know of it."""
    model = load_engine(choice.model)
    tokenizer = load_tokenizer_for(model, choice.model)
    task = GLUE[choice.task].task
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        order = list(kind_named(task.kind).match(task.labels, model.config, choice.model))
    notes += [*choice.notes, *(f"{task.name}: {warning.message}" for warning in said)]
    predicted: dict[str, list[str]] = {}
    for name, (path, texts, about) in tests.items():
        file, cut = FILES[name], Cut()
        with progress_bar(name, len(texts)) as progress:
            parts = predict_texts(
                *(model, tokenizer, texts, cut),
                batch_size=batch_size,
                max_length=max_length,
                progress=progress,
                name=choice.model,
                source=str(path),
            )
            logits = np.concatenate([part[:, order] for _, part in parts])  # [n, C], classes as the task's
        notes += about
        if cut.truncated:
            notes.append(f"{name}: {cut.truncated:,} texts are longer than {cut.max_length} tokens and were cut.")
        if file.words:
            predicted[name] = [file.words[int(number)] for number in logits.argmax(axis=1)]
            continue
        scores = logits[:, 0].clip(LOWEST, HIGHEST)
        predicted[name] = [f"{score:.6f}" for score in scores]
        if clipped := int((scores != logits[:, 0]).sum()):
            notes.append(f"{name}: {clipped:,} scores were outside of 0 to 5 and were clipped.")
    return predicted


# --- which model predicts which task ----------------------------------------------------------------------------------


class Chosen(NamedTuple):
    """The model (a folder or Hub id) for a task, the tokens its run cut texts to (if known), and what to know of it."""

    task: str
    model: str
    max_length: int | None = None
    notes: tuple[str, ...] = ()


def choose_models(entries: Iterable[str]) -> dict[str, Chosen]:
    """Returns the model of each task.

    Args:
        entries: `mrpc=MODEL`, several of them with commas between, a run folder, or a folder that holds runs at any
            depth (a study's output). Of several finished runs of a task in a folder the one with the best validation
            score is taken, and one that was distilled before one that was not (a teacher).

    Raises:
        ConfigError: A task is unknown or named twice, or there is no run in a folder.
        RunError: A run folder is damaged.
    """
    found: dict[str, Chosen] = {}
    parts = [part for entry in entries for part in ([entry] if Path(entry).exists() else entry.split(","))]
    for chosen in (each for part in parts if part.strip() for each in _read_entry(part.strip())):
        if chosen.task in found:
            raise ConfigError(
                f"There are two models for {chosen.task}: {found[chosen.task].model} and {chosen.model}. Name one."
            )
        found[chosen.task] = chosen
    if not found:
        raise ConfigError("There is no model: add --models mrpc=runs/mrpc,cola=runs/cola, or a folder of runs.")
    return found


def _read_entry(part: str) -> list[Chosen]:
    named = re.fullmatch(r"([\w-]+)=(.+)", part)
    if named is None or Path(part).exists():
        return _in_folder(Path(part))
    task, model = glue_task(named[1]), named[2].strip()
    if task is None:
        raise ConfigError(
            f"--models {part}: GLUE has no task {named[1]!r}{nearest(named[1].lower(), GLUE)}. It has "
            f"{', '.join(GLUE)}; mnli's model predicts MNLI-m, MNLI-mm and AX."
        )
    run, trained = _inputs(model)
    if run is None:
        return [Chosen(task.name, model)]
    run.require_pairs(task.pairs, f"the task {task.name} has", "name another model for it.")
    other = trained not in (None, task.name)
    notes = (f"{model} was trained on {trained}, not on {task.name}.",) if other else ()
    return [Chosen(task.name, model, run.max_length, notes)]


def _in_folder(folder: Path) -> list[Chosen]:
    """Returns the folder itself, if it is a model, or the best run in it for each task: distilled ones come first."""
    best: dict[str, tuple[tuple[bool, float], Chosen]] = {}
    is_model = (folder / "config.json").is_file()
    for path in [folder] if is_model else sorted(path.parent for path in folder.rglob(CONFIG)):
        parts = path.relative_to(folder).parts
        if any(part in ("comparison", "checkpoints") or part.startswith(".") for part in parts):
            continue  # inside of a run, or hidden: no run of its own
        inputs, task = _inputs(path)
        whole = is_model or (RunFolder(path).finished and (path / "config.json").is_file())
        if inputs is None or task is None or not whole:
            continue
        trained = path / "trained.json"
        score = read_json(trained).get("best_score") if trained.is_file() else None
        rank = (inputs.command == "distill", float("-inf") if score is None else float(score))
        if task not in best or rank > best[task][0]:
            best[task] = rank, Chosen(task, str(path), inputs.max_length)
    if not best:
        what = "does not say which GLUE task it is for" if is_model else "holds no finished run of a GLUE task"
        what = what if folder.is_dir() else "does not exist"
        raise ConfigError(f"--models {folder}: it {what}. Give a folder of runs, or TASK=MODEL: mrpc=runs/mrpc.")
    return [chosen for _, chosen in best.values()]


def _inputs(model: str | Path) -> tuple[RunInputs | None, str | None]:
    """Returns what a model's folder says of its inputs, and GLUE's name of its task."""
    inputs = inputs_of(model)
    if inputs is None:
        return None, None
    if inputs.damage is not None:
        raise RunError(f"{inputs.source} is damaged: {inputs.damage}. Name another model for the task.")
    task = glue_task(inputs.task or "")
    return inputs, task and task.name
