"""What reproducing a table comes to: pre-trainings, studies and what has to be left out, known before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codir.config.loading import load_pretrain
from codir.config.pretraining import PretrainConfig
from codir.data.corpus import MANIFEST
from codir.data.glue import task_folder
from codir.errors import ConfigError, DataError, ModelError, nearest
from codir.models.masked_lm import load_masked_lm
from codir.studies.config import StudyConfig
from codir.studies.loading import load_study
from codir.studies.paper.tables import (
    MLM_PRE,
    PaperTable,
    Scale,
    ScaleName,
    TableRow,
    load_table,
)
from codir.studies.recipes import resolve_recipes
from codir.studies.run import describe_trials
from codir.studies.search import Search
from codir.studies.trial import Trial
from codir.table import Table

HEAD = "head"  # the stage that makes a pre-training teacher of an encoder without a masked-LM head


@dataclass(frozen=True)
class Wanted:
    """What the user asks for.

    Attributes:
        table: `table1` to `table5`.
        scale: how much of it.
        model: encoder that becomes the teacher of each task, and of the pre-training.
        output: folder.
        data_dir: GLUE in its own format; None: the Hub.
        corpus: a corpus folder, or text to make one of; without it nothing is pre-trained.
        teachers: fine-tuned teachers by task.
        pretrained: pre-trained students by name (`mlm-pre`, `kd-pre`, `codir-pre`).
        tasks: only these; empty: all that the scale has.
        seeds: instead of the scale's.
        workers: processes.
        overrides: texts such as `study.training.num_train_epochs=1`, over the scale's settings.
    """

    table: str
    scale: ScaleName
    model: str
    output: Path
    data_dir: Path | None = None
    corpus: Sequence[str] = ()
    teachers: Mapping[str, str] = field(default_factory=dict)
    pretrained: Mapping[str, str] = field(default_factory=dict)
    tasks: Sequence[str] = ()
    seeds: str | Sequence[int] | None = None
    workers: int = 1
    overrides: Sequence[str] = ()


@dataclass
class Reproduction:
    """What will run, and what came of it.

    Attributes:
        wanted: what was asked for.
        table: the paper's.
        tasks: those that can be run, in the table's order.
        corpus: inputs to make a corpus of, or nothing where one is given or none is needed.
        corpus_folder: where it lies or will lie; None without pre-training.
        pretraining: stages in their order.
        studies: by the student's name.
        notes: what is otherwise than in the paper and what is left out, a line each.
        made: the finished table.
    """

    wanted: Wanted
    table: PaperTable
    tasks: list[str] = field(default_factory=list)
    corpus: list[str] = field(default_factory=list)
    corpus_folder: Path | None = None
    pretraining: dict[str, PretrainConfig] = field(default_factory=dict)
    studies: dict[str, StudyConfig] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    made: Table | None = None

    @property
    def scale(self) -> Scale:
        """The settings of the scale."""
        return self.table.scales[self.wanted.scale]

    def makes(self, row: TableRow) -> bool:
        """Says whether a row is made here."""
        study = self.studies.get(row.student or "")
        return (study is not None and row.recipe in study.recipes) or (row.teacher and bool(self.studies))

    def describe(self) -> list[str]:
        """Returns a line for each thing that will run, in order."""
        lines = [f"corpus of {', '.join(self.corpus)} -> {self.corpus_folder}"] if self.corpus else []
        for name, stage in self.pretraining.items():
            training, student = stage.training, stage.student
            start = student.model or f"{student.layers or 'half the'} layers, {student.init}"
            length = (
                f"{training.max_steps:,} steps"
                if training.max_steps
                else f"{training.num_train_epochs:g} passes in steps"
            )
            lines.append(
                f"pre-training {name}: recipe {stage.recipe}, {length} of {training.global_batch_size:,} "
                f"blocks of {self.scale.block}, student from {start} -> {stage.output}"
            )
        for name, config in self.studies.items():
            teachers = [task for task in config.tasks if task not in config.teachers]
            how = "" if config.strategy == "grid" else f", searched by {config.strategy}"
            first = f", after teachers for {', '.join(teachers)}" if teachers else ""
            lines.append(
                f"study of {name}: {describe_trials(all_trials(config))}{how}{first} -> {config.output}"
            )
        if self.table.speed is not None:
            models = sum(row.config is not None or row.given is not None for row in self.table.rows)
            speed = self.table.speed
            texts = f"{self.scale.sequences or 'all'} sequences of {speed.task}"
            lines.append(f"speed: {texts}, {speed.rounds} runs of {models} models")
        return lines

    def about(self) -> list[str]:
        """Returns what a reader of the table has to know: the scale, what is otherwise, what is left out."""
        scale = "Scaled down" if self.wanted.scale == "small" else "Scale"
        lines = [f"{scale}: {line}." for line in self.scale.about]
        lines += [f"Changed by --set: {line}." for line in self.wanted.overrides]
        return lines + [f"{note}." for note in self.notes]


def all_trials(config: StudyConfig) -> list[Trial]:
    """Returns as many trials as a study will have, searches included."""
    return Search(config, resolve_recipes(config)).all_trials()


def plan(wanted: Wanted) -> Reproduction:
    """Works out what reproducing a table comes to; loads no data and trains nothing.

    Raises:
        ConfigError: an unknown table, task or setting, or nothing that could be run.
        DataError: there is no such data folder.
    """
    made = Reproduction(wanted, load_table(wanted.table, wanted.scale, wanted.overrides))
    if (speed := made.table.speed) is not None:
        if idle := [flag for flag, value in (("--tasks", wanted.tasks), ("--seeds", wanted.seeds)) if value]:
            raise ConfigError(
                f"{made.table.source} measures speed on {speed.task} and trains nothing: leave out {', '.join(idle)}."
            )
        if _missing_task(wanted, speed.task):
            raise DataError(f"The speed is measured on {speed.task}, which is not in {wanted.data_dir}.")
        return made
    _choose_tasks(made)
    students = _choose_students(made)
    _plan_pretraining(made)
    _plan_studies(made, students)
    return made


def _choose_tasks(made: Reproduction) -> None:
    wanted, table = made.wanted, made.table
    of_table = list(dict.fromkeys(column.task for column in table.columns.values()))
    chosen = list(wanted.tasks) or made.scale.tasks or of_table
    for task in chosen:
        if task not in of_table:
            raise ConfigError(
                f"{table.source} has no task {task!r}{nearest(task, of_table)}: {', '.join(of_table)}."
            )
    missing = [task for task in of_table if task in chosen and _missing_task(wanted, task)]
    made.tasks = [task for task in of_table if task in chosen and task not in missing]
    made.notes += [f"Left out: {task}: not in {wanted.data_dir}" for task in missing]
    if not made.tasks:
        raise DataError(f"None of the tasks {', '.join(chosen)} is in {wanted.data_dir}.")
    if others := [task for task in of_table if task not in chosen]:
        why = "not among --tasks" if wanted.tasks else f"not part of the scale {wanted.scale}"
        made.notes.append(f"Left out: {', '.join(others)}: {why}")


def _missing_task(wanted: Wanted, task: str) -> bool:
    if wanted.data_dir is None:
        return False
    if not Path(wanted.data_dir).is_dir():
        raise DataError(f"The data folder {wanted.data_dir} does not exist or is not a folder.")
    try:
        return not (task_folder(task, wanted.data_dir) / "train.tsv").is_file()
    except DataError:
        return True


def _choose_students(made: Reproduction) -> dict[str, dict[str, Any]]:
    """Returns the student of each study by the name of its pre-training."""
    wanted, stages = made.wanted, made.scale.pretraining
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
        elif wanted.corpus and name in stages:
            found[name] = {"model": str(_folder(made, name))}
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


def _folder(made: Reproduction, stage: str) -> Path:
    return Path(made.wanted.output).absolute() / "pretraining" / stage


def _plan_pretraining(made: Reproduction) -> None:
    """Settles corpus, teacher and the configuration of each stage that a student needs, in order."""
    wanted, stages = made.wanted, made.scale.pretraining
    order: list[str] = []

    def add(name: str) -> None:
        if name not in stages:
            raise ConfigError(f"pretraining: there is no stage {name!r}{nearest(name, stages)}.")
        if (after := stages[name].get("after")) is not None and after not in order:
            add(str(after))
        order.append(name)

    for name in dict.fromkeys(row.student for row in made.table.rows if row.student is not None):
        if wanted.corpus and name in stages and name not in wanted.pretrained and name not in order:
            add(name)
    if not order:
        return
    first = Path(wanted.corpus[0]).expanduser()
    if len(wanted.corpus) == 1 and (first / MANIFEST).is_file():
        made.corpus_folder = first.absolute()
    else:
        made.corpus, made.corpus_folder = list(wanted.corpus), Path(wanted.output).absolute() / "corpus"
    teacher = wanted.model
    if HEAD in stages and not _has_head(wanted.model):
        made.notes.append(
            f"Otherwise than in the paper: {wanted.model} has no masked-LM head: a first stage trains one (and the "
            "encoder with it) for the pre-training's teacher"
        )
        order.insert(0, HEAD)
        teacher = str(_folder(made, HEAD))
    for name in order:
        settings = dict(stages[name])
        recipe, after = settings.pop("recipe", None), settings.pop("after", None)
        student = {"model": str(_folder(made, str(after)))} if after else settings.pop("student", {})
        if name == HEAD:
            student = {"model": wanted.model}
        values = {**settings, "student": student, "corpus": str(made.corpus_folder)}
        values["output"] = str(_folder(made, name))
        if name != HEAD and not (after and recipe == "mlm-pre"):
            values["teacher"] = teacher
        flags = {key: (f"pretraining.{name}.{key}", value) for key, value in values.items()}
        made.pretraining[name] = load_pretrain(recipe=recipe, flags=flags)


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
    first: Path | None = None
    for name, student in students.items():
        recipes = list(dict.fromkeys(row.recipe for row in table.rows if row.student == name and row.recipe))
        teachers = {task: folder for task, folder in wanted.teachers.items() if task in made.tasks}
        if first is not None:  # every study has the first one's teachers
            teachers = {task: teachers.get(task, str(first / "teachers" / task)) for task in made.tasks}
        values = {
            **_of_recipes(made, recipes),
            "recipes": {recipe: table.recipes.get(recipe, {"recipe": recipe}) for recipe in recipes},
            "tasks": made.tasks,
            "data": made.scale.data,
            "model": wanted.model,
            "teachers": teachers,
            "student": dict(student),
            "workers": wanted.workers,
            "cache_dir": str(output / "cache"),
            "output": str(output / "studies" / name),
        }
        values |= {"data_dir": str(wanted.data_dir)} if wanted.data_dir is not None else {}
        values |= {"seeds": wanted.seeds} if wanted.seeds is not None else {}
        values |= {"baseline": table.baseline} if table.baseline in recipes else {}
        made.studies[name] = load_study(flags={key: (f"study.{key}", each) for key, each in values.items()})
        first = first or made.studies[name].output


def _of_recipes(made: Reproduction, recipes: Sequence[str]) -> dict[str, Any]:
    """Returns the scale's settings of a study, of those by recipe only what is for the study's own."""
    known = {row.recipe for row in made.table.rows if row.recipe is not None}
    values = dict(made.scale.study)
    for key in ("settings", "grid"):
        if not isinstance(values.get(key), Mapping):
            continue
        for name in values[key]:
            if "." not in name and name not in known:
                raise ConfigError(
                    f"study.{key} names {name!r}, which is not in {made.table.source}{nearest(name, known)}: "
                    f"{', '.join(sorted(known))}."
                )
        values[key] = {name: value for name, value in values[key].items() if "." in name or name in recipes}
    return values
