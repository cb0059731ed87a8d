"""`codir reproduce`: one of the paper's tables, made here, with the paper's own figures beside ours.

What it comes to (pre-trainings, studies, what has to be left out) is known before anything runs. What is finished is
not run again: the same call goes on with one that was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from codir.config.loading import load
from codir.config.pretraining import PretrainConfig
from codir.data.corpus import MANIFEST
from codir.data.glue import task_folder
from codir.errors import ConfigError, DataError, ModelError, RunError, nearest
from codir.files import held, read_json, require_name, require_writable, write_text
from codir.kinds import kind_named
from codir.losses.contrastive import rows_drawn
from codir.losses.registry import settings_for
from codir.measure.timing import device_name, time_in_turns
from codir.models.loading import count_parameters, encoder_shape, load_classifier
from codir.models.masked_lm import load_masked_lm
from codir.models.student import build_student
from codir.printing import Console, terminal
from codir.record.data import load_data
from codir.record.runfolder import RunFolder
from codir.studies.config import StudyConfig, load_study
from codir.studies.paper.tables import OURS, PAPER, PaperTable, Scale, ScaleName, TableRow, load_table, side_by_side
from codir.studies.recipes import FINETUNE, distill_config, resolve_recipes, teacher_folder
from codir.studies.results import STUDY, read_results
from codir.studies.run import describe_trials, study
from codir.studies.search import Search
from codir.studies.trial import Trial, TrialResult
from codir.table import Column, Table, Value, inline
from codir.training.processes import one_process_only

HEAD = "head"  # the stage that makes a pre-training teacher of an encoder without a masked-LM head
# The student that most rows start from; without pre-training it is cut out of the teacher.
MLM_PRE = "mlm-pre"
Results = Mapping[str, Sequence[TrialResult]]


@dataclass(frozen=True)
class Wanted:
    """What the user asks for."""

    table: str  # `table1` to `table5`
    scale: ScaleName
    model: str  # encoder that becomes the teacher of each task, and of the pre-training
    output: Path
    data_dir: Path | None = None  # GLUE in its own format; None: the Hub
    corpus: Sequence[str] = ()  # a corpus folder, or text to make one of; without it nothing is pre-trained
    teachers: Mapping[str, str] = field(default_factory=dict)  # fine-tuned teachers by task
    # pre-trained students (`mlm-pre`, `kd-pre`, ...)
    pretrained: Mapping[str, str] = field(default_factory=dict)
    tasks: Sequence[str] = ()  # only these; empty: all that the scale has
    seeds: str | Sequence[int] | None = None  # instead of the scale's
    workers: int = 1
    overrides: Sequence[str] = ()  # such as `study.training.num_train_epochs=1`, over the scale's settings


@dataclass
class Reproduction:
    """What will run, and what came of it."""

    wanted: Wanted
    table: PaperTable
    tasks: list[str] = field(default_factory=list)  # those that can be run, in the table's order
    corpus: list[str] = field(default_factory=list)  # inputs to make a corpus of; empty where one is given
    corpus_folder: Path | None = None
    pretraining: dict[str, PretrainConfig] = field(default_factory=dict)  # stages in their order
    studies: dict[str, StudyConfig] = field(default_factory=dict)  # by the student's name
    notes: list[str] = field(default_factory=list)  # what is otherwise than in the paper and what is left out
    made: Table | None = None

    @property
    def scale(self) -> Scale:
        """The settings of the scale."""
        return self.table.scales[self.wanted.scale]

    def makes(self, row: TableRow) -> bool:
        """Says whether a row is made here."""
        of_row = self.studies.get(row.student or "")
        return (of_row is not None and row.recipe in of_row.recipes) or (row.teacher and bool(self.studies))

    def describe(self) -> list[str]:
        """Returns a line for each thing that will run, in order."""
        lines = [f"corpus of {', '.join(self.corpus)} -> {self.corpus_folder}"] if self.corpus else []
        for name, stage in self.pretraining.items():
            training, student = stage.training, stage.student
            start = student.model or f"{student.layers or 'half the'} layers, {student.init}"
            length = f"{training.max_steps:,}" if training.max_steps else f"{training.num_train_epochs:g} passes in"
            lines.append(
                f"pre-training {name}: recipe {stage.recipe}, {length} steps of {training.global_batch_size:,} "
                f"blocks of {self.scale.block}, student from {start} -> {stage.output}"
            )
        for name, config in self.studies.items():
            teachers = [task for task in config.tasks if task not in config.teachers]
            how = "" if config.strategy == "grid" else f", searched by {config.strategy}"
            first = f", after teachers for {', '.join(teachers)}" if teachers else ""
            lines.append(f"study of {name}: {describe_trials(all_trials(config))}{how}{first} -> {config.output}")
        if self.table.speed is not None:
            models = sum(row.config is not None or row.given is not None for row in self.table.rows)
            lines.append(
                f"speed: {self.scale.sequences:,} sequences, {self.table.speed.rounds} runs of {models} models"
            )
        return lines

    def about(self) -> list[str]:
        """Returns what a reader of the table has to know: the scale, what is otherwise, what is left out."""
        scale = "Scaled down" if self.wanted.scale == "small" else "Scale"
        lines = [f"{scale}: {line}" for line in self.scale.about]
        return [
            f"{line}." for line in (*lines, *(f"Changed by --set: {o}" for o in self.wanted.overrides), *self.notes)
        ]

    def folder(self, stage: str) -> Path:
        """Returns the run folder of a stage of the pre-training."""
        return Path(self.wanted.output).absolute() / "pretraining" / stage


def all_trials(config: StudyConfig) -> list[Trial]:
    """Returns as many trials as a study will have, searches included."""
    return Search(config, resolve_recipes(config)).all_trials()


# ---- what it comes to ------------------------------------------------------------------------------------------------


def plan(wanted: Wanted) -> Reproduction:
    """Works out what reproducing a table comes to; loads no data and trains nothing.

    Raises:
        ConfigError: an unknown table, task or setting, or nothing that could be run.
        DataError: there is no such data folder.
    """
    made = Reproduction(wanted, load_table(wanted.table, wanted.scale, wanted.overrides))
    if made.table.speed is not None:
        if idle := [flag for flag, value in (("--tasks", wanted.tasks), ("--seeds", wanted.seeds)) if value]:
            raise ConfigError(f"{made.table.source} measures speed and trains nothing: leave out {', '.join(idle)}.")
        return made
    _choose_tasks(made)
    students = _choose_students(made)
    if any(wanted.corpus and name in made.scale.pretraining and name not in wanted.pretrained for name in students):
        _plan_pretraining(made, students)
    _plan_studies(made, students)
    return made


def _choose_tasks(made: Reproduction) -> None:
    wanted, table = made.wanted, made.table
    of_table = list(dict.fromkeys(column.task for column in table.columns.values()))
    chosen = list(wanted.tasks) or made.scale.tasks or of_table
    for task in chosen:
        if task not in of_table:
            raise ConfigError(f"{table.source} has no task {task!r}{nearest(task, of_table)}: {', '.join(of_table)}.")
    if wanted.data_dir is not None and not Path(wanted.data_dir).is_dir():
        raise DataError(f"The data folder {wanted.data_dir} does not exist or is not a folder.")
    made.tasks = [task for task in of_table if task in chosen and _is_there(wanted, task)]
    if not made.tasks:
        raise DataError(f"None of the tasks {', '.join(chosen)} is in {wanted.data_dir}.")
    missing = [task for task in of_table if task in chosen and task not in made.tasks]
    made.notes += [f"Left out: {task}: not in {wanted.data_dir}" for task in missing]
    if others := [task for task in of_table if task not in chosen]:
        why = "not among --tasks" if wanted.tasks else f"not part of the scale {wanted.scale}"
        made.notes.append(f"Left out: {', '.join(others)}: {why}")


def _is_there(wanted: Wanted, task: str) -> bool:
    try:
        return wanted.data_dir is None or (task_folder(task, wanted.data_dir) / "train.tsv").is_file()
    except DataError:
        return False


def _choose_students(made: Reproduction) -> dict[str, dict[str, Any]]:
    """Returns the student of each study by the name of its pre-training."""
    wanted = made.wanted
    names = list(dict.fromkeys(row.student for row in made.table.rows if row.student is not None))
    for name in wanted.pretrained:
        if name not in names:
            raise ConfigError(
                f"--pretrained {name}: the table has no such student{nearest(name, names)}: {', '.join(names)}."
            )
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        if name in wanted.pretrained:
            found[name] = {"model": wanted.pretrained[name]}
        elif wanted.corpus and name in made.scale.pretraining:
            found[name] = {"model": str(made.folder(name))}
        elif name == MLM_PRE:
            found[name] = {}
            why = "this scale does not pre-train" if wanted.corpus else "there is no --corpus to pre-train on"
            made.notes.append(
                f"Otherwise than in the paper: {MLM_PRE}: {why}, so the student is cut out of each task's teacher "
                "(half its layers, spread)"
            )
        else:
            rows = ", ".join(row.name for row in made.table.rows if row.student == name)
            made.notes.append(
                f"Left out: {rows}: needs a pre-trained student: --corpus TEXT, or --pretrained {name}=FOLDER"
            )
    return found


def _plan_pretraining(made: Reproduction, students: Mapping[str, Any]) -> None:
    """Works out the corpus and the configuration of each stage that a student needs."""
    wanted, stages, teacher = made.wanted, made.scale.pretraining, made.wanted.model
    needed = {name for name in students if name in stages and name not in wanted.pretrained}
    needed |= {stages[name].get("after") for name in needed}
    first = Path(wanted.corpus[0]).expanduser()
    if len(wanted.corpus) == 1 and (first / MANIFEST).is_file():
        made.corpus_folder = first.absolute()
    else:
        made.corpus, made.corpus_folder = list(wanted.corpus), Path(wanted.output).absolute() / "corpus"
    if HEAD in stages and not _has_head(wanted.model):
        made.notes.append(
            f"Otherwise than in the paper: {wanted.model} has no masked-LM head: a first stage trains one (and the "
            "encoder with it) for the pre-training's teacher"
        )
        needed.add(HEAD)
        teacher = str(made.folder(HEAD))
    for name in stages:  # in the order that they stand in
        if name not in needed:
            continue
        values = {**stages[name], "corpus": str(made.corpus_folder), "output": str(made.folder(name))}
        recipe, after = values.pop("recipe", None), values.pop("after", None)
        if name == HEAD or after:
            values["student"] = {"model": str(made.folder(after)) if after else wanted.model}
        if name != HEAD and not (after and recipe == "mlm-pre"):
            values["teacher"] = teacher
        flags = {key: (f"pretraining.{name}.{key}", value) for key, value in values.items()}
        made.pretraining[name] = load(PretrainConfig, recipe=recipe, flags=flags)


def _has_head(model: str) -> bool:
    try:
        load_masked_lm(model)
    except ModelError as error:
        if "no head" in str(error):
            return False
        raise
    return True


def _plan_studies(made: Reproduction, students: Mapping[str, Mapping[str, Any]]) -> None:
    wanted, table, output = made.wanted, made.table, Path(made.wanted.output).absolute()
    known = {row.recipe for row in table.rows if row.recipe is not None}
    for name, student in students.items():
        recipes = list(dict.fromkeys(row.recipe for row in table.rows if row.student == name and row.recipe))
        teachers = {task: folder for task, folder in wanted.teachers.items() if task in made.tasks}
        if made.studies:  # every study has the first one's teachers
            first = next(iter(made.studies.values()))
            teachers = {task: str(teacher_folder(first, task)) for task in made.tasks}
        values = {
            **made.scale.study,
            "recipes": {recipe: table.recipes.get(recipe, {"recipe": recipe}) for recipe in recipes},
            "tasks": made.tasks,
            "data": made.scale.data,
            "data_dir": None if wanted.data_dir is None else str(wanted.data_dir),
            "model": wanted.model,
            "teachers": teachers,
            "student": dict(student),
            "seeds": wanted.seeds or made.scale.study.get("seeds"),
            "baseline": table.baseline if table.baseline in recipes else None,
            "workers": wanted.workers,
            "cache_dir": str(output / "cache"),
            "output": str(output / "studies" / name),
        }
        for key in ("settings", "grid"):  # of those by recipe what other studies of the table have is left out
            others = known - set(recipes)
            values[key] = {each: inner for each, inner in values.get(key, {}).items() if each not in others}
        flags = {key: (f"study.{key}", each) for key, each in values.items() if each is not None}
        made.studies[name] = load_study(flags=flags)


# ---- what runs -------------------------------------------------------------------------------------------------------


def show_plan(wanted: Wanted, console: Console | None = None) -> Reproduction:
    """Prints what would run, and runs nothing; raises as `plan`."""
    made = plan(wanted)
    lines = [f"{made.table.source}: {made.table.title}, scale {wanted.scale}"]
    lines += [f"{number}. {line}" for number, line in enumerate(made.describe(), start=1)]
    _say(terminal(console), *lines, *made.about())
    return made


def reproduce(wanted: Wanted, console: Console | None = None) -> Reproduction:
    """Makes a table of the paper: pre-trainings, studies, measurements, then the table.

    Returns:
        The table, also written to OUTPUT/TABLE.md, .csv and .tex.

    Raises:
        CodirError: bad input, a folder in the way, an interrupted or diverged training.
    """
    require_name(wanted.output, folder=True)
    with held(wanted.output):
        return _reproduce(wanted, terminal(console))


def _reproduce(wanted: Wanted, console: Console) -> Reproduction:
    one_process_only("codir reproduce")
    made = show_plan(wanted, console)
    _require_enough_examples(made)
    require_writable(wanted.output)
    if made.table.speed is not None:
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
        rows = [row for row in made.table.rows if made.makes(row)]
        scores = {
            (row.name, heading): _scores(made, row, column.task, column.metric, results)
            for row in rows
            for heading, column in made.table.columns.items()
        }
        made.made = side_by_side(made.table, made.tasks, [row.name for row in rows], scores)
        where = ", ".join(f"studies/{name}/report.md" for name in made.studies)
        made.notes.append(f"Differences with their intervals, spread and costs stand in {where}")
    text = "\n".join([made.made.to_markdown(), *(f"- {inline(line)}" for line in made.about()), ""])
    for ending, content in (("csv", made.made.to_csv()), ("tex", made.made.to_latex()), ("md", text)):
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


def _scores(made: Reproduction, row: TableRow, task: str, metric: str, results: Results) -> dict[int, float]:
    """Returns by seed what a row's model scores on a task."""
    if not row.teacher:
        mine = [r for r in results.get(str(row.student), ()) if (r.recipe, r.task) == (row.recipe, task)]
        return {each.seed: each.metrics[metric] for each in mine if metric in each.metrics}
    config = next(iter(made.studies.values()))
    if task not in config.tasks:
        return {}
    try:
        return {0: float(read_json(teacher_folder(config, task) / "metrics.json")["metrics"][metric])}
    except (OSError, KeyError, TypeError, RunError):  # a teacher from elsewhere has no such file
        of_task = [r for some in results.values() for r in some if (r.task, r.metric) == (task, metric)]
        return {0: of_task[0].teacher_score} if of_task else {}


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
            drawn, name = max((rows_drawn(settings_for(name, each)), name) for name, each in objectives.items())
            if drawn and trial.task not in examples:
                train = load_data(config.tasks[trial.task]).train
                assert train is not None, "load_data gives a training split unless asked not to"
                examples[trial.task] = len(train)
            if drawn > (there := examples.get(trial.task, 0)):
                key = f"objectives.{name}.k"
                what, value = ("grid", f"[{there}]") if key in trial.settings else ("settings", there)
                raise ConfigError(
                    f"{made.table.source}, {recipe.name} on {trial.task}: K={drawn} negatives do not fit its "
                    f"{there} training examples. Leave the task out (--tasks), or take fewer: "
                    f'--set "study.{what}={{{recipe.name}: {{{key}: {value}}}}}".'
                )


# ---- Table 3 ---------------------------------------------------------------------------------------------------------


def speed_table(made: Reproduction) -> Table:
    """Measures the models in turns, and puts their sizes and milliseconds beside the paper's.

    Sequences are random tokens at full length, as the paper's are padded to it: which tokens they are changes no time.
    The first row is what the others' speed-up is against, as in the paper. What it was measured on goes into the notes.

    Raises:
        ModelError: the user's model cannot be loaded.
    """
    speed, sequences = made.table.speed, made.scale.sequences
    assert speed is not None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = _models(made, speed.classes)
    sizes = [min(speed.batch_size, sequences - start) for start in range(0, sequences, speed.batch_size)]
    generator = torch.Generator().manual_seed(0)
    batches = {}
    for name, model in models.items():
        shapes = [(size, speed.max_length) for size in sizes]
        ids = [torch.randint(5, int(model.config.vocab_size), shape, generator=generator) for shape in shapes]
        batches[name] = [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in ids]
    seconds = time_in_turns(models, batches, speed.rounds, device=device)
    # the mean of the runs, as in the paper
    runs = {name: 1000 * each.sum(axis=1) / sequences for name, each in seconds.items()}
    first = next(iter(runs))
    rows: list[tuple[Value, ...]] = []
    for row in made.table.rows:
        if row.paper:
            layers, parameters, embeddings, milliseconds, times = (each or 0.0 for each in row.paper)
            shape = (int(layers), f"{parameters:.1f}M", f"{embeddings:.1f}M")
            rows.append((row.name, PAPER, *shape, f"{milliseconds:.2f}", f"{times:.2f}x"))
        if row.name in models:
            total, of_embeddings = count_parameters(models[row.name])
            own = runs[row.name]
            shape = (encoder_shape(models[row.name]).layers, f"{total / 1e6:.1f}M", f"{of_embeddings / 1e6:.1f}M")
            taken = f"{own.mean():.2f} ±{(own.max() - own.min()) / 2:.2f}"
            times = f"{runs[first].mean() / own.mean():.2f}x"
            rows.append(("" if row.paper else row.name, OURS, *shape, taken, times))
    headings = ("layers", "params", "of embeddings", "ms/seq", "speed-up")
    columns = (Column("model", left=True), Column("of", left=True), *map(Column, headings))
    note = (
        f"Paper: {made.table.paper_scores}. Ours: mean of {speed.rounds} runs over {sequences:,} sequences, ± half the "
        f"distance between the slowest and the fastest; speed-up against {first}. {made.table.note}"
    )
    made.notes.append(
        f"Measured on {device_name(device)}, fp32, {torch.get_num_threads()} threads, batches of {speed.batch_size} "
        f"sequences of {speed.max_length} tokens"
    )
    return Table(f"{made.table.source} of the paper: {made.table.title}", columns, rows, note)


def _models(made: Reproduction, classes: int) -> dict[str, Any]:
    """Returns the models by the name of their row."""
    names, kind = list(map(str, range(classes))), kind_named("classification")
    teacher = load_classifier(made.wanted.model, require_head=False, labels=lambda config: kind.write(config, names))
    models: dict[str, Any] = {}
    for row in made.table.rows:
        if row.config is not None:
            config = AutoConfig.for_model(**row.config, num_labels=classes)
            models[row.name] = AutoModelForSequenceClassification.from_config(config).eval()
        elif row.given is not None:
            models[row.name] = teacher if row.given == "teacher" else build_student(teacher)
    return models
