"""What can be set in a study; `codir.studies.loading` builds it from a YAML file and the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from codir.config.data_config import DataConfig
from codir.config.sections import Section
from codir.config.student_config import StudentConfig
from codir.config.training_config import TrainingConfig
from codir.errors import nearest
from codir.studies.short_forms import dotted, seeds_of, spelt_out

StrategyName = Literal["grid", "random", "tpe", "greedy"]
LauncherName = Literal["local", "ray"]
PruningName = Literal["none", "median", "halving"]

# Of `training`, what makes the budget: the study's value holds for every recipe, whatever that says itself.
BUDGET = (
    "epochs",
    "steps",
    "batch_size",
    "gradient_accumulation",
    "evaluate_every",
    "keep_best",
    "early_stopping",
    "group_by_length",
    "precision",
)
# What may be searched of it: the paper searches the batch size.
_SEARCHABLE = ("batch_size",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*$")


class RecipeChoice(Section):
    """One of the recipes that are compared: which, and what is set differently in it."""

    recipe: str = Field(description="a recipe's name, `finetune` for the undistilled student, or a YAML file")
    settings: dict[str, Any] = Field(
        default_factory=dict, description="settings over the recipe's own, by dotted keys"
    )

    @field_validator("settings", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        return dotted(value)


class Range(Section):
    """The numbers of a search space between two ends."""

    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    log: bool = Field(default=False, description="search its logarithm")
    step: float | None = Field(default=None, gt=0, description="only low, low + step, ...")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be smaller than high ({self.high:g})")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low > 0 and no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers."""
        step = self.step if self.step is not None else 1.0 if self.low >= 1 else 0.5
        return all(float(value).is_integer() for value in (self.low, self.high, step))

    @property
    def ends(self) -> list[Any]:
        """Its smallest and its largest value."""
        return [int(end) if self.whole else end for end in (self.low, self.high)]


Grid = dict[str, list[Any]]
Space = dict[str, Range | list[Any]]


class StudyConfig(Section):
    """A study: which recipes, on which tasks, with which students and seeds, and how settings are chosen."""

    recipes: dict[str, RecipeChoice] = Field(
        description="what is compared: names of recipes, `finetune` (the undistilled student), YAML files, or own "
        "names with `recipe` and `settings`",
        examples=["finetune,kd,codir-fine"],
    )
    tasks: dict[str, DataConfig] = Field(
        description="names of tasks, or own names with the settings of `data` each", examples=["mrpc,cola"]
    )
    data_dir: Path | None = Field(default=None, description="folder of the tasks given by name")
    data: dict[str, Any] = Field(
        default_factory=dict, description="settings of the data of all tasks (max_length, limit_train, ...)"
    )
    model: str | None = Field(
        default=None,
        description="encoder to fine-tune as the teacher, once for each task that has none in `teachers`",
        examples=["roberta-base"],
    )
    teachers: dict[str, str] = Field(
        default_factory=dict, description="fine-tuned teachers by task: folders or Hub ids"
    )
    teacher_training: TrainingConfig = Field(
        default_factory=TrainingConfig, description="how `model` is fine-tuned"
    )
    student: StudentConfig = Field(
        default_factory=StudentConfig, description="the student of all trials (see `codir distill`)"
    )
    students: dict[str, StudentConfig] = Field(
        default_factory=dict, description="several students by name, instead of one"
    )
    seeds: list[int] = Field(
        default=[1, 2, 3, 4, 5], description="seeds of the trials that are compared: a list, or 1-5"
    )
    training: dict[str, Any] = Field(
        default_factory=dict,
        description="how to train, over what the recipes say; the budget (epochs, batch size, ...) is the study's",
    )
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="fixed settings by recipe: {codir-fine: {objectives.crd.k: 100}}"
    )
    grid: dict[str, Any] = Field(
        default_factory=dict, description="values to search, by dotted key, for all recipes or by recipe"
    )
    space: dict[str, Any] = Field(
        default_factory=dict,
        description="ranges {low, high, log} or lists to search by `random` and `tpe`, likewise",
    )
    strategy: StrategyName = Field(
        default="grid",
        description="how settings are chosen: `grid` (without a grid: the recipes as they are), `random`, `tpe`, or "
        "`greedy` (the paper: fine-tuning's grid, then KD's, then CRD's, each keeping the best before it)",
    )
    trials: int = Field(
        default=20, ge=1, le=1_000_000, description="settings that `random` and `tpe` try for each recipe"
    )
    parallel: int = Field(
        default=4,
        ge=1,
        le=10_000,
        description="settings `tpe` proposes at a time; it has learnt from all before them",
    )
    search_seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="seed of the search and of its trials; best one that is not in `seeds`, so that the scores "
        "compared are not those that the choice was made by",
    )
    pruning: PruningName = Field(
        default="none",
        description="stop trials of a search that are behind: `median` of the others at the same evaluation, or "
        "successive `halving`",
    )
    baseline: str | None = Field(
        default=None, description="recipe that the others are compared with (default: kd, else the first)"
    )
    workers: int = Field(default=1, ge=1, le=10_000, description="processes that run trials side by side")
    launcher: LauncherName = Field(
        default="local",
        description="where the workers run: processes of this machine (`local`), or tasks of a `ray` cluster whose "
        "machines share the output folder",
    )
    resources: dict[str, float] = Field(
        default_factory=dict, description="of Ray, for each worker: {num_cpus: 4, num_gpus: 1, ...}"
    )
    storage: str | None = Field(
        default=None,
        description="database by which workers tell each other what they do (default: sqlite in the output folder; "
        "several machines: postgresql://... or mysql://...)",
    )
    heartbeat: int = Field(
        default=30,
        ge=1,
        le=86_400,
        description="seconds between a worker's signs of life; after six without one its trial goes to another",
    )
    cache_dir: Path | None = Field(
        default=None,
        description="teachers' outputs, shared by all trials (default: `cache` in the output folder)",
    )
    output: Path = Field(description="folder of the study", examples=["studies/mrpc"])
    resume: bool = Field(default=False, description="go on with the study in the output folder")

    # ---- short forms ---------------------------------------------------------------------------------------------

    @model_validator(mode="before")
    @classmethod
    def _spelt_out(cls, values: Any) -> Any:
        return spelt_out(values) if isinstance(values, Mapping) else values

    @field_validator("seeds", mode="before")
    @classmethod
    def _from_to(cls, value: Any) -> Any:
        return seeds_of(value)

    @field_validator("seeds")
    @classmethod
    def _once_each(cls, value: list[int]) -> list[int]:
        if not value:
            raise ValueError("there is no seed: give a list, or 1-5")
        if len(set(value)) < len(value):
            raise ValueError("a seed stands there twice: it would only repeat what it has given")
        if min(value) < 0 or max(value) >= 2**32:
            raise ValueError("seeds are whole numbers from 0 to 2**32 - 1")
        return value

    @field_validator("settings", mode="before")
    @classmethod
    def _dotted_settings(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: dotted(each) for name, each in value.items()}

    @field_validator("training")
    @classmethod
    def _is_training(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "seed" in value:
            raise ValueError("seed is set for each trial from seeds: leave out training.seed")
        return value

    # ---- what does not fit together --------------------------------------------------------------------------------

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.recipes or not self.tasks:
            raise ValueError("a study needs at least one of recipes and one of tasks")
        for what, names in (("recipes", self.recipes), ("tasks", self.tasks), ("students", self.students)):
            for name in names:
                if not _NAME.match(name) or len(name) > 60:
                    raise ValueError(
                        f"{what}: {name!r} cannot be the name of a folder: use letters, digits, '.', '-' and '_'"
                    )
        for what, keys in (("settings", self.settings), ("teachers", self.teachers)):
            known = self.recipes if what == "settings" else self.tasks
            for name in keys:
                if name not in known:
                    raise ValueError(
                        f"{what} names {name!r}, which is not in this study{nearest(name, known)}: it has "
                        f"{', '.join(known)}"
                    )
        without = [name for name in self.tasks if name not in self.teachers]
        if without and self.model is None:
            raise ValueError(
                f"there is no teacher for {', '.join(without)}: set model (an encoder that is fine-tuned on each "
                "task), or teachers (fine-tuned models by task)"
            )
        if self.students and self.student != StudentConfig():
            raise ValueError(
                "student and students exclude each other: put the one into students, with a name"
            )
        for name in self.tasks:
            if self.tasks[name].task is None and self.tasks[name].train is None:
                raise ValueError(f"tasks.{name} has no training data: set train")
        if self.baseline is not None and self.baseline not in self.recipes:
            raise ValueError(
                f"baseline is {self.baseline!r}, which is not in this study"
                f"{nearest(self.baseline, self.recipes)}: it has {', '.join(self.recipes)}"
            )
        self._search_fits()
        return self

    def _search_fits(self) -> None:
        searching = {"grid": self.grid, "space": self.space}
        for what, values in searching.items():
            for name, value in values.items():
                if "." not in name and name not in self.recipes and name not in ("finetune", "kd"):
                    raise ValueError(
                        f"{what} names {name!r}, which is neither a dotted key (training.learning_rate) nor a recipe "
                        f"of this study{nearest(name, self.recipes)}: it has {', '.join(self.recipes)}"
                    )
                if "." not in name and not isinstance(value, Mapping):
                    raise ValueError(f"{what}.{name} must be settings with their values")
                for key, choice in (dotted(value) if "." not in name else {name: value}).items():
                    _check_choice(what, key, choice)
        if self.strategy in ("grid", "greedy") and self.space:
            raise ValueError(
                f"the strategy {self.strategy} searches a grid, not a space: set grid, or random or tpe"
            )
        if self.strategy in ("random", "tpe") and not self.space:
            raise ValueError(f"the strategy {self.strategy} needs space: what to search, by dotted keys")
        if self.strategy in ("random", "tpe") and self.grid:
            raise ValueError(
                f"the strategy {self.strategy} searches space, not grid: lists can stand in space too"
            )
        if self.pruning != "none" and self.strategy not in ("random", "tpe"):
            raise ValueError(f"pruning is for the strategies random and tpe, not for {self.strategy}")

    # ---- what the parts of the study are -----------------------------------------------------------------------------

    @property
    def reference(self) -> str:
        """The recipe that the others are compared with."""
        if self.baseline is not None:
            return self.baseline
        return "kd" if "kd" in self.recipes else next(iter(self.recipes))

    def grid_of(self, recipe: str) -> Grid:
        """Returns what is searched for a recipe: the keys for all, and its own over them."""
        return {key: list(value) for key, value in _of_recipe(self.grid, recipe).items()}

    def space_of(self, recipe: str) -> Space:
        """Likewise for `space`."""
        return {
            key: list(value) if isinstance(value, list | tuple) else Range.model_validate(value)
            for key, value in _of_recipe(self.space, recipe).items()
        }


def _check_choice(what: str, key: str, choice: Any) -> None:
    """Refuses what is neither a list of values nor, in a space, a range."""
    if isinstance(choice, list | tuple) and choice:
        return
    if what == "grid":
        raise ValueError(f"grid: {key} is {choice!r}: give a list of values, such as [1e-5, 2e-5]")
    if not isinstance(choice, Mapping):
        raise ValueError(f"space: {key} is {choice!r}: give {{low, high, log}} or a list of values")
    try:
        Range.model_validate(choice)
    except ValidationError as error:
        problem = error.errors()[0]
        where = "".join(f".{part}" for part in problem["loc"])
        raise ValueError(f"space: {key}{where}: {problem['msg'].removeprefix('Value error, ')}") from None


def _of_recipe(values: Mapping[str, Any], recipe: str) -> dict[str, Any]:
    shared = {key: value for key, value in values.items() if "." in key}
    return {**shared, **dotted(values.get(recipe, {}))}


def grid_points(grid: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Returns all combinations, the last key moving fastest; one empty one for an empty grid."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
