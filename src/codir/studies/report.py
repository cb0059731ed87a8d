"""The report of a study: words, tables and pictures of what is finished, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codir.errors import ConfigError, RunError
from codir.locks import temporary_folder
from codir.markdown import inline
from codir.outputs import held
from codir.printing import Console, terminal
from codir.studies.findings import Findings, find
from codir.studies.folder import Plan, StudyFolder
from codir.studies.plots import draw_differences, draw_ranks
from codir.studies.results import TrialResult, read_results
from codir.studies.strategies import strategy_of
from codir.studies.study_table import StudyTable
from codir.studies.tables import (
    cost_table,
    differences_table,
    results_table,
    scores_table,
    spread_table,
    trials_table,
)
from codir.studies.trial import read_trials
from codir.studies.words import plain_words

if TYPE_CHECKING:
    from codir.studies.config import StudyConfig

FILES = (
    *("report.md", "results.csv", "trials.csv", "table.tex"),
    *("forest.png", "forest.svg", "ranks.png", "ranks.svg"),
)
_MOST_MISSING = 12  # lines of what is missing, before the rest is counted


def write_report(output: str | Path, console: Console | None = None, baseline: str | None = None) -> Findings:
    """Reads a study's finished trials, prints its table and writes its report into its folder.

    The files are `FILES`; they replace those of an earlier report together. A study may be unfinished: the report says
    what is missing.

    Args:
        output: the study's folder.
        console: where to print; the terminal by default.
        baseline: recipe to compare with, instead of the study's own.

    Returns:
        What the report is made of.

    Raises:
        ConfigError: no trial of the baseline is finished, though others are.
        RunError: there is no study in the folder, a finished trial is damaged, or the files cannot be written.
    """
    output = Path(output)
    console = terminal(console)
    with held(output / "report.md"):
        findings, results, config = read_findings(output, baseline)
        files, notes = _contents(findings, results, config)
        _write_together(output, files)
    _show(findings, notes, output, console)
    return findings


def read_findings(
    output: Path, baseline: str | None = None, damaged: list[str] | None = None
) -> tuple[Findings, list[TrialResult], StudyConfig | None]:
    """Reads a study's folder and brings its finished trials together.

    Args:
        output: the study's folder; it may be unfinished.
        baseline: recipe to compare with, instead of the study's own.
        damaged: gets a line for each finished trial that cannot be read; None refuses the first of them.

    Returns:
        What was found, the trials, and the study's configuration (None where only run folders are left).

    Raises:
        ConfigError: no trial of the baseline is finished, though others are.
        RunError: there is no study in the folder, or a finished trial is damaged.
    """
    results = read_results(output, damaged)
    folder = StudyFolder(output)
    plan = Plan(folder) if folder.exists else None
    if plan is None and not results:
        raise RunError(f"There is no study in {output}: no configuration and no finished trial.")
    config = plan.config if plan is not None else None
    wanted = baseline
    if wanted is None and config is not None:
        finished = {result.recipe for result in results if result.phase == "final"}
        wanted = config.reference if config.reference in finished else None
    findings = find(
        results,
        baseline=wanted,
        recipes=list(config.recipes) if config is not None else (),
        tasks=list(config.tasks) if config is not None else (),
        planned=_planned(plan) if plan is not None else None,
        failed=_failed(plan, damaged is not None) if plan is not None else {},
    )
    return findings, results, config


def _planned(plan: Plan) -> list[tuple[str, str, str | None, int]]:
    groups = strategy_of(plan.config, plan.recipes).groups()
    return [(group.recipe, group.task, group.student, seed) for group in groups for seed in plan.config.seeds]


def _failed(plan: Plan, pass_damaged: bool) -> dict[str, str]:
    errors = {}
    for trial in read_trials(plan.folder.path):
        try:
            outcome = plan.done.get(trial.key)
        except RunError:
            if not pass_damaged:
                raise
            continue
        if outcome is not None and outcome.state == "failed":
            errors[trial.key] = outcome.error
    return errors


def _contents(
    findings: Findings, results: Sequence[TrialResult], config: StudyConfig | None
) -> tuple[dict[str, bytes], list[str]]:
    """Renders every file, and the lines that are said where a picture is not among them."""
    notes = []
    pictures: dict[str, bytes] = {}
    try:
        drawn = {"forest": draw_differences(findings), "ranks": draw_ranks(findings)}
        pictures = {
            f"{name}.{form}": data for name, formats in drawn.items() for form, data in formats.items()
        }
    except ConfigError as error:
        notes.append(str(error))
    tables = _tables(findings)
    texts = {
        "report.md": _markdown(findings, tables, pictures, config),
        "results.csv": results_table(findings).to_csv(),
        "trials.csv": trials_table(results).to_csv(),
        "table.tex": "% needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs}\n"
        + "\n".join(table.to_latex() for table in tables),
    }
    return {**{name: text.encode() for name, text in texts.items()}, **pictures}, notes


def _tables(findings: Findings) -> list[StudyTable]:
    if not findings.trials:
        return []
    tables = [scores_table(findings)]
    if findings.differences:
        tables.append(differences_table(findings))
    return [*tables, spread_table(findings), cost_table(findings)]


def _markdown(
    findings: Findings,
    tables: Sequence[StudyTable],
    pictures: dict[str, bytes],
    config: StudyConfig | None,
) -> str:
    lines = ["# Report of the study", "", f"{_finished(findings)}", ""]
    if findings.missing:
        lines += ["Missing:", "", *(f"- {inline(line)}" for line in findings.missing), ""]
    lines += ["## In words", "", *(f"- {inline(line)}" for line in plain_words(findings)), ""]
    if tables:
        lines += ["## Tables", ""]
        lines += ["\n".join(table.to_markdown() for table in tables)]
    if "forest.png" in pictures:
        lines += [
            "## Differences",
            "",
            "![Differences from the baseline with their intervals](forest.png)",
            "",
        ]
    if "ranks.png" in pictures:
        lines += ["## Ranks", "", "![Average ranks with the critical difference](ranks.png)", ""]
    if findings.search_trials:
        lines += [_search(findings), ""]
    if config is not None:
        tasks = ", ".join(config.tasks)
        recipes = ", ".join(config.recipes)
        seeds = ", ".join(map(str, config.seeds))
        lines += [f"Recipes {recipes}; tasks {tasks}; seeds {seeds}.", ""]
    return "\n".join(lines)


def _finished(findings: Findings) -> str:
    count = findings.trials
    line = f"{count} trial{'s' if count != 1 else ''} finished"
    return f"{line}; the study is not complete." if findings.missing else f"{line}."


def _search(findings: Findings) -> str:
    return (
        f"The search took {findings.search_trials} trials and {findings.search_seconds:,.0f} s on top; the scores that "
        "it chose by are no results."
    )


def _show(findings: Findings, notes: Sequence[str], output: Path, console: Console) -> None:
    def say(text: str, **style: object) -> None:
        console.print(text, markup=False, highlight=False, style="dim" if style.get("dim") else None)

    say(_finished(findings))
    if findings.trials:
        console.print(scores_table(findings).to_rich())
        if findings.differences:
            console.print(differences_table(findings).to_rich())
        console.print(cost_table(findings).to_rich())
    for line in plain_words(findings):
        say(line)
    for line in findings.missing[:_MOST_MISSING]:
        say(f"Missing: {line}", dim=True)
    if len(findings.missing) > _MOST_MISSING:
        say(f"Missing: and {len(findings.missing) - _MOST_MISSING} more, all in report.md", dim=True)
    if findings.search_trials:
        say(_search(findings))
    for note in notes:
        say(note)
    say(f"The report is in {output / 'report.md'}, with the tables and pictures beside it.")


def _write_together(folder: Path, files: dict[str, bytes]) -> None:
    """Writes all files beside their places first, then moves them; those of `FILES` not given are removed."""
    try:
        with temporary_folder(folder) as staging:
            for name, data in files.items():
                with open(staging / name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            for name in files:
                os.replace(staging / name, folder / name)
            for name in set(FILES) - set(files):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(folder / name)
    except OSError as error:
        raise RunError(f"Cannot write the report into {folder}: {error.strerror or error}.") from error
