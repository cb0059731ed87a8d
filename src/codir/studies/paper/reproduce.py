"""`codir reproduce`: one of the paper's tables, made here, with the paper's own figures beside ours.

What is finished is not run again: the same call goes on with one that was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from codir.errors import ConfigError, RunError
from codir.files import read_json, require_writable, write_text, writes
from codir.losses.contrastive import rows_drawn
from codir.losses.registry import settings_for
from codir.printing import Console, terminal
from codir.record.data import load_data
from codir.record.runfolder import RunFolder
from codir.studies.paper.plan import Reproduction, Wanted, all_trials, plan
from codir.studies.paper.tables import side_by_side
from codir.studies.recipes import FINETUNE, distill_config, resolve_recipes, teacher_folder
from codir.studies.results import STUDY, TrialResult, read_results
from codir.studies.run import study
from codir.table import inline
from codir.training.processes import one_process_only


def show_plan(wanted: Wanted, console: Console | None = None) -> Reproduction:
    """Prints what would run, and runs nothing; raises as `plan`."""
    made = plan(wanted)
    lines = [f"{made.table.source}: {made.table.title}, scale {wanted.scale}"]
    lines += [f"{number}. {line}" for number, line in enumerate(made.describe(), start=1)]
    _say(terminal(console), *lines, *made.about())
    return made


@writes("wanted.output", folder=True)
def reproduce(wanted: Wanted, console: Console | None = None) -> Reproduction:
    """Makes a table of the paper: pre-trainings, studies, measurements, then the table.

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
    _require_enough_examples(made)
    require_writable(wanted.output)
    if made.table.speed is not None:
        from codir.studies.paper.speed import speed_table

        made.made = speed_table(made)
    else:
        _pretrain(made, console)
        results: dict[str, list[TrialResult]] = {}
        for name, config in made.studies.items():
            _say(console, f"Study of {name}")
            resume = (config.output / STUDY).is_file()
            outcome = study(config.model_copy(update={"resume": resume}), console=console)
            made.notes += [f"Left out: {key}: failed: {error}" for key, error in outcome.failed.items()]
            results[name] = [result for result in read_results(config.output) if result.phase == "final"]
        rows = [row.name for row in made.table.rows if made.makes(row)]
        made.made = side_by_side(made.table, made.tasks, rows, _scores(made, results))
        where = ", ".join(f"studies/{name}/report.md" for name in made.studies)
        made.notes.append(f"Differences with their intervals, spread and costs stand in {where}")
    text = [made.made.to_markdown(), *(f"- {inline(line)}" for line in made.about()), ""]
    for ending, content in (
        ("csv", made.made.to_csv()),
        ("tex", made.made.to_latex()),
        ("md", "\n".join(text)),
    ):
        write_text(wanted.output / f"{wanted.table}.{ending}", content)
    console.print(made.made.to_rich())
    _say(console, *made.about(), f"The table is in {wanted.output / wanted.table}.md.")
    return made


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _pretrain(made: Reproduction, console: Console) -> None:
    from codir.runs.corpus import corpus
    from codir.runs.pretrain import pretrain

    folder = made.corpus_folder
    if made.corpus and folder is not None:  # a finished one is only compared with what is asked for
        resume = folder.is_dir() and any(folder.iterdir())
        model, block = made.wanted.model, made.scale.block
        corpus(made.corpus, model, folder, block=block, resume=resume, console=console)
    for name, stage in made.pretraining.items():
        _say(console, f"Pre-training {name}")
        pretrain(stage.model_copy(update={"resume": RunFolder(stage.output).is_run}), console=console)


def _scores(
    made: Reproduction, results: Mapping[str, Sequence[TrialResult]]
) -> dict[tuple[str, str], dict[int, float]]:
    """Returns by row, column and seed what our models score."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in filter(made.makes, made.table.rows):
        for heading, column in made.table.columns.items():
            if row.teacher:
                score = _teacher_score(made, column.task, column.metric, results)
                found[row.name, heading] = {} if score is None else {0: score}
                continue
            found[row.name, heading] = {
                each.seed: each.metrics[column.metric]
                for each in results.get(str(row.student), ())
                if (each.recipe, each.task) == (row.recipe, column.task) and column.metric in each.metrics
            }
    return found


def _teacher_score(
    made: Reproduction, task: str, metric: str, results: Mapping[str, Sequence[TrialResult]]
) -> float | None:
    """Returns the teacher's score from its own run folder, or its main metric from a trial."""
    config = next(iter(made.studies.values()))
    if task not in config.tasks:
        return None
    try:
        return float(read_json(teacher_folder(config, task) / "metrics.json")["metrics"][metric])
    except (OSError, KeyError, TypeError, RunError):  # a teacher from elsewhere has no such file
        of_task = [r for some in results.values() for r in some if r.task == task and r.metric == metric]
        return of_task[0].teacher_score if of_task else None


def _require_enough_examples(made: Reproduction) -> None:
    """Refuses trials, searches included, that draw more negatives than their task has examples: before pre-training."""
    examples: dict[str, int] = {}
    for config in made.studies.values():
        recipes = resolve_recipes(config)
        for trial in all_trials(config):
            recipe = recipes[trial.recipe]
            if recipe.recipe == FINETUNE:
                continue
            objectives = distill_config(config, recipe, trial).objectives
            drawn = {name: rows_drawn(settings_for(name, each)) for name, each in objectives.items()}
            name = max(drawn, key=lambda each: drawn[each])
            if drawn[name] and trial.task not in examples:
                train = load_data(config.tasks[trial.task]).train
                assert train is not None, "load_data gives a training split unless asked not to"
                examples[trial.task] = len(train)
            if drawn[name] > (there := examples.get(trial.task, 0)):
                key = f"objectives.{name}.k"
                what, value = ("grid", f"[{there}]") if key in trial.settings else ("settings", there)
                raise ConfigError(
                    f"{made.table.source}, {recipe.name} on {trial.task}: K={drawn[name]} negatives do not fit its "
                    f"{there} training examples. Leave the task out (--tasks), or take fewer: "
                    f'--set "study.{what}={{{recipe.name}: {{{key}: {value}}}}}".'
                )
