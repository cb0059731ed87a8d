"""`codir reproduce`: one of the paper's tables, made here, with the paper's own figures beside ours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from codir.deploy.submission import DIAGNOSTIC, FILES, find_test_file
from codir.errors import DataError
from codir.markdown import inline
from codir.outputs import writes
from codir.printing import Console, terminal
from codir.storage import require_writable, write_text
from codir.studies.paper_tables import TableRow
from codir.studies.reproduction import Reproduction, Wanted, plan
from codir.studies.reproduction_checks import require_enough_examples
from codir.studies.results import STUDY, TrialResult, read_results
from codir.studies.side_by_side import differences_between_rows, made_here, side_by_side
from codir.table import Table as StudyTable
from codir.training.processes import one_process_only


@dataclass
class ReproductionResult:
    """What was reproduced.

    Attributes:
        made: what was planned.
        tables: the paper's figures and ours; then how our rows differ, where there are several.
        archives: submission archives, by the row's name.
        notes: what to know, a line each.
        output: the Markdown file.
    """

    made: Reproduction
    tables: list[StudyTable]
    archives: dict[str, Path]
    notes: list[str]
    output: Path


def show_plan(wanted: Wanted, console: Console | None = None) -> Reproduction:
    """Prints what would run, and runs nothing.

    Raises:
        CodirError: see `codir.studies.reproduction.plan`.
    """
    console = terminal(console)
    made = plan(wanted)
    _say(console, f"{made.table.source}: {made.table.title}, scale {wanted.scale}")
    for number, line in enumerate(made.describe(), start=1):
        _say(console, f"{number}. {line}")
    for line in about(made):
        _say(console, line)
    return made


@writes("wanted.output", folder=True)
def reproduce(wanted: Wanted, console: Console | None = None) -> ReproductionResult:
    """Makes a table of the paper: pre-trainings, studies, measurements, then the table.

    What is finished is not run again: the same call goes on with one that was stopped.

    Args:
        wanted: which table, at what scale, from which models and data.
        console: where to print; the terminal by default.

    Returns:
        The table, also written to OUTPUT/TABLE.md, .csv and .tex.

    Raises:
        CodirError: bad input, a folder in the way, an interrupted or diverged training.
    """
    one_process_only("codir reproduce")
    console = terminal(console)
    made = show_plan(wanted, console)
    require_enough_examples(made)
    require_writable(wanted.output)
    if made.table.speed is not None:
        from codir.studies.speed import speed_table

        table, notes = speed_table(made)
        return _finish(made, [table], {}, notes, console)
    _pretrain(made, console)
    results = _run_studies(made, console)
    archives, notes = _archives(made, results, console) if made.table.submission else ({}, [])
    tables = [side_by_side(made, results)]
    if (differences := differences_between_rows(made, results)) is not None:
        tables.append(differences)
    return _finish(made, tables, archives, notes, console)


def about(made: Reproduction) -> list[str]:
    """Returns what a reader of the table has to know: the scale, what is otherwise, what is left out."""
    scale = "Scaled down" if made.wanted.scale == "small" else "Scale"
    lines = [f"{scale}: {line}." for line in made.scale.about]
    lines += [f"Changed by --set: {line}." for line in made.wanted.overrides]
    if made.wanted.seeds is not None:
        lines.append(f"Changed by --seeds: {made.wanted.seeds}.")
    lines += [f"Otherwise than in the paper: {line}." for line in made.notes]
    lines += [f"Left out: {line}." for line in made.left_out]
    return lines


def _pretrain(made: Reproduction, console: Console) -> None:
    from codir.runs.corpus import corpus
    from codir.runs.pretrain import pretrain
    from codir.runs.runfolder import RunFolder

    if (
        made.corpus and made.corpus_folder is not None
    ):  # a finished one is only compared with what is asked for
        corpus(
            made.corpus,
            made.wanted.model,
            made.corpus_folder,
            block=made.scale.block,
            resume=made.corpus_folder.is_dir() and any(made.corpus_folder.iterdir()),
            console=console,
        )
    for name, stage in made.pretraining.items():
        _say(console, f"Pre-training {name}")
        resume = RunFolder(stage.output).is_run
        pretrain(stage.model_copy(update={"resume": resume}), console=console)


def _run_studies(made: Reproduction, console: Console) -> dict[str, list[TrialResult]]:
    from codir.studies.run import study

    results = {}
    for name, config in made.studies.items():
        _say(console, f"Study of {name}")
        resume = (config.output / STUDY).is_file()
        outcome = study(config.model_copy(update={"resume": resume}), console=console)
        for key, error in outcome.failed.items():
            made.left_out.append(f"{key}: failed: {error}")
        results[name] = [result for result in read_results(config.output) if result.phase == "final"]
    return results


def _archives(
    made: Reproduction, results: dict[str, list[TrialResult]], console: Console
) -> tuple[dict[str, Path], list[str]]:
    """Writes the archive for GLUE's server for each row of ours: of each task the seed best on its dev split."""
    from codir.deploy.submit import submit

    if made.wanted.data_dir is None:
        return {}, [
            "No submission archive: the official test files are needed, give their folder as --data-dir."
        ]
    archives, notes = {}, []
    testable, without = [], []
    for task in made.tasks:
        needed = [name for name, file in FILES.items() if file.task == task and name != DIAGNOSTIC]
        there = all(find_test_file(FILES[name], made.wanted.data_dir) is not None for name in needed)
        (testable if there else without).append(task)
    if without:
        notes.append(
            f"The submission archives have no predictions of ours for {', '.join(without)}: the test files are not in "
            f"{made.wanted.data_dir}; those files are filled in, and the archive's own report says so."
        )
    for row in made.table.rows:
        if row.teacher or not made_here(made, row):
            continue
        models = _best(row, results, testable)
        if not models:
            continue
        path = Path(made.wanted.output) / f"submission-{_file_name(row.name)}.zip"
        try:
            submit(models, made.wanted.data_dir, path, overwrite=True, console=console, quiet=True)
        except DataError as error:
            notes.append(f"No submission archive of {row.name}: {error}")
            continue
        archives[row.name] = path
    return archives, notes


def _best(row: TableRow, results: dict[str, list[TrialResult]], tasks: Iterable[str]) -> list[str]:
    models = []
    for task in tasks:
        of_task = [r for r in results[str(row.student)] if r.recipe == row.recipe and r.task == task]
        if of_task:
            models.append(f"{task}={max(of_task, key=lambda result: result.score).folder}")
    return models


def _file_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _finish(
    made: Reproduction,
    tables: list[StudyTable],
    archives: dict[str, Path],
    notes: list[str],
    console: Console,
) -> ReproductionResult:
    notes = [*notes, *about(made)]
    notes += [f"Submission archive of {name}: {path}" for name, path in archives.items()]
    folder, name = Path(made.wanted.output), made.wanted.table
    text = [*(table.to_markdown() for table in tables), *(f"- {inline(line)}" for line in notes), ""]
    if made.studies:
        text += [
            *(f"- Report of the study of {student}: studies/{student}/report.md" for student in made.studies),
            "",
        ]
    latex = "\n".join(table.to_latex() for table in tables)
    for ending, content in (("csv", tables[0].to_csv()), ("tex", latex), ("md", "\n".join(text))):
        write_text(folder / f"{name}.{ending}", content)
    for table in tables:
        console.print(table.to_rich())
    for line in notes:
        _say(console, line)
    output = folder / f"{name}.md"
    _say(console, f"The table is in {output}.")
    return ReproductionResult(made, tables, archives, notes, output)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
