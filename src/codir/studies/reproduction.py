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
from codir.studies.paper_tables import MLM_PRE, PaperTable, Scale, ScaleName, TableRow, load_table
from codir.studies.recipes import resolve_recipes
from codir.studies.run import describe_trials
from codir.studies.search import Search
from codir.studies.trial import Trial

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
        overrides: texts such as `study.training.epochs=1`, over the scale's settings.
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
    """What will run.

    Attributes:
        wanted: what was asked for.
        table: the paper's.
        tasks: those that can be run, in the table's order.
        corpus: inputs to make a corpus of, or nothing where one is given or none is needed.
        corpus_folder: where it lies or will lie; None without pre-training.
        pretraining: stages in their order.
        studies: by the student's name.
        left_out: what cannot be made, a line each.
        notes: what is otherwise than in the paper, a line each.
    """

    wanted: Wanted
    table: PaperTable
    tasks: list[str]
    corpus: list[str] = field(default_factory=list)
    corpus_folder: Path | None = None
    pretraining: dict[str, PretrainConfig] = field(default_factory=dict)
    studies: dict[str, StudyConfig] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def scale(self) -> Scale:
        """The settings of the scale."""
        return self.table.scales[self.wanted.scale]

    def study_of(self, row: TableRow) -> StudyConfig | None:
        """Returns the study that makes a row; None where it is not made."""
        if row.recipe is None or row.student is None:
            return None
        study = self.studies.get(row.student)
        return study if study is not None and row.recipe in study.recipes else None

    def describe(self) -> list[str]:
        """Returns a line for each thing that will run, in order, then what is left out."""
        lines = []
        if self.corpus:
            lines.append(f"corpus of {', '.join(self.corpus)} -> {self.corpus_folder}")
        for name, stage in self.pretraining.items():
            training, student = stage.training, stage.student
            start = student.model or f"{student.layers or 'half the'} blocks, {student.init}"
            length = f"{training.steps:,} steps" if training.steps else f"{training.epochs:g} passes in steps"
            lines.append(
                f"pre-training {name}: recipe {stage.recipe}, {length} of {training.batch_size:,} "
                f"blocks of {self.scale.block}, student from {start} -> {stage.output}"
            )
        for name, study in self.studies.items():
            teachers = [task for task in study.tasks if task not in study.teachers]
            how = "" if study.strategy == "grid" else f", searched by {study.strategy}"
            lines.append(
                f"study of {name}: {describe_trials(all_trials(study))}{how}"
                + (f", after teachers for {', '.join(teachers)}" if teachers else "")
                + f" -> {study.output}"
            )
        if self.table.speed is not None:
            count = self.scale.sequences
            lines.append(
                f"speed: {count or 'all'} sequences of {self.table.speed.task}, {self.table.speed.rounds} runs of "
                f"{sum(row.config is not None or row.given is not None for row in self.table.rows)} models"
            )
        return lines


def all_trials(study: StudyConfig) -> list[Trial]:
    """Returns as many trials as a study will have, searches included (which settings they choose is not known yet)."""
    return Search(study, resolve_recipes(study)).all_trials()


def plan(wanted: Wanted) -> Reproduction:
    """Works out what reproducing a table comes to; loads no data and trains nothing.

    Raises:
        ConfigError: an unknown table, task or setting, or nothing that could be run.
        DataError: there is no such data folder.
    """
    table = load_table(wanted.table, wanted.scale, wanted.overrides)
    made = Reproduction(wanted, table, [])
    if table.speed is not None:
        if idle := [flag for flag, value in (("--tasks", wanted.tasks), ("--seeds", wanted.seeds)) if value]:
            raise ConfigError(
                f"{table.source} measures speed on {table.speed.task} and trains nothing: leave out {', '.join(idle)}."
            )
        if _missing_task(wanted, table.speed.task):
            raise DataError(
                f"The speed is measured on {table.speed.task}, which is not in {wanted.data_dir}."
            )
        return made
    _choose_tasks(made)
    students = _choose_students(made)
    _plan_pretraining(made, [student for student in students if student in made.pretraining])
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
    for task in of_table:
        if task not in chosen:
            continue
        if _missing_task(wanted, task):
            made.left_out.append(f"{task}: not in {wanted.data_dir}")
        else:
            made.tasks.append(task)
    if not made.tasks:
        raise DataError(f"None of the tasks {', '.join(chosen)} is in {wanted.data_dir}.")
    if others := [task for task in of_table if task not in chosen]:
        why = "not among --tasks" if wanted.tasks else f"not part of the scale {wanted.scale}"
        made.left_out.append(f"{', '.join(others)}: {why}")


def _missing_task(wanted: Wanted, task: str) -> bool:
    if wanted.data_dir is None:
        return False
    if not Path(wanted.data_dir).is_dir():
        raise DataError(f"The data folder {wanted.data_dir} does not exist or is not a folder.")
    try:
        folder = task_folder(task, wanted.data_dir)
    except DataError:
        return True
    return not (folder / "train.tsv").is_file()


def _choose_students(made: Reproduction) -> dict[str, dict[str, Any]]:
    """Returns the student of each study by the name of its pre-training; those still to be made get a stage."""
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
            _add_stage(made, name)
        elif name == MLM_PRE:
            found[name] = {}
            why = "this scale does not pre-train" if wanted.corpus else "there is no --corpus to pre-train on"
            made.notes.append(
                f"{MLM_PRE}: {why}, so the student is cut out of each task's teacher (half its blocks, spread)"
            )
        else:
            rows = ", ".join(row.name for row in made.table.rows if row.student == name)
            made.left_out.append(
                f"{rows}: needs a pre-trained student: --corpus TEXT, or --pretrained {name}=FOLDER"
            )
    return found


def _folder(made: Reproduction, stage: str) -> Path:
    return Path(made.wanted.output).absolute() / "pretraining" / stage


def _add_stage(made: Reproduction, name: str) -> None:
    """Adds a stage after those it goes on from; placeholders, in order."""
    stages = made.scale.pretraining
    if name not in stages:
        raise ConfigError(f"pretraining: there is no stage {name!r}{nearest(name, stages)}.")
    after = stages[name].get("after")
    if after is not None and after not in made.pretraining:
        _add_stage(made, str(after))
    made.pretraining.setdefault(name, None)  # type: ignore[arg-type]


def _plan_pretraining(made: Reproduction, students: Sequence[str]) -> None:
    """Settles corpus, teacher and the configuration of each stage."""
    if not students:
        return
    wanted, stages = made.wanted, made.scale.pretraining
    first = Path(wanted.corpus[0]).expanduser()
    if len(wanted.corpus) == 1 and (first / MANIFEST).is_file():
        made.corpus_folder = first.absolute()
    else:
        made.corpus, made.corpus_folder = list(wanted.corpus), Path(wanted.output).absolute() / "corpus"
    teacher = wanted.model
    order = list(made.pretraining)
    made.pretraining.clear()
    if HEAD in stages and not _has_head(wanted.model):
        made.notes.append(
            f"{wanted.model} has no masked-LM head: a first stage trains one (and the encoder with it) for the "
            "pre-training's teacher"
        )
        made.pretraining[HEAD] = _stage(made, stages[HEAD], HEAD, {"model": wanted.model}, None)
        teacher = str(_folder(made, HEAD))
    for name in order:
        after = stages[name].get("after")
        student = {"model": str(_folder(made, str(after)))} if after else stages[name].get("student", {})
        taught = None if after and stages[name].get("recipe") == "mlm-pre" else teacher
        made.pretraining[name] = _stage(made, stages[name], name, student, taught)


def _stage(
    made: Reproduction,
    settings: Mapping[str, Any],
    name: str,
    student: Mapping[str, Any],
    teacher: str | None,
) -> PretrainConfig:
    values = {key: value for key, value in settings.items() if key not in ("recipe", "after", "student")}
    values |= {
        "student": dict(student),
        "corpus": str(made.corpus_folder),
        "output": str(_folder(made, name)),
    }
    if teacher is not None:
        values["teacher"] = teacher
    flags = {key: (f"pretraining.{name}.{key}", value) for key, value in values.items()}
    return load_pretrain(recipe=str(settings.get("recipe", "")) or None, flags=flags)


def _has_head(model: str) -> bool:
    try:
        load_masked_lm(model)
    except ModelError as error:
        if "no head" in str(error):
            return False
        raise
    return True


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


def _plan_studies(made: Reproduction, students: Mapping[str, Mapping[str, Any]]) -> None:
    wanted, table = made.wanted, made.table
    first: Path | None = None
    for name, student in students.items():
        recipes = list(dict.fromkeys(row.recipe for row in table.rows if row.student == name and row.recipe))
        output = Path(wanted.output).absolute() / "studies" / name
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
            "cache_dir": str(Path(wanted.output).absolute() / "cache"),
            "output": str(output),
        }
        if wanted.data_dir is not None:
            values["data_dir"] = str(wanted.data_dir)
        if wanted.seeds is not None:
            values["seeds"] = wanted.seeds
        if table.baseline in recipes:
            values["baseline"] = table.baseline
        flags = {key: (f"study.{key}", value) for key, value in values.items()}
        made.studies[name] = load_study(flags=flags)
        first = first or output
