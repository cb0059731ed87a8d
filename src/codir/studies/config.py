"""What can be set in a study, and how it is read: a YAML file, `--set`, flags, with all that may be written shorter."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from codir.config.config import DataConfig
from codir.config.library import is_recipe_file
from codir.config.loading import Flags, Settings, build
from codir.config.student_config import StudentConfig
from codir.config.training_config import TrainingConfig
from codir.config.yaml_text import dump_yaml, read_yaml_file
from codir.errors import ConfigError, nearest
from codir.settings import Section

PruningName = Literal["none", "median", "halving"]

# Of `training`, what makes the budget: the study's value holds for every recipe, whatever that says itself.
BUDGET = (
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("eval_steps", "load_best_model_at_end", "early_stopping_patience", "train_sampling_strategy", "precision"),
)
# Settings that may be paths, wherever they stand; made absolute, since a trial may be run elsewhere.
_PATHS = {"model", "origin", "config", "recipe", "train", "validation", "unlabeled", "data_dir", "teachers"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")


class RecipeChoice(Section):
    """One of the recipes that are compared: which, and what is set differently in it."""

    recipe: str = Field(description="a recipe's name, `finetune` for the undistilled student, or a YAML file")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings over the recipe's own, by dotted keys")

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
    def values(self) -> list[Any] | None:
        """All values in it; None in a range of real numbers."""
        step = self.step or (1.0 if self.whole else None)
        if step is None:
            return None
        count = int((self.high - self.low) / step + 1e-9) + 1
        return [self.tidy(self.low + number * step) for number in range(count)]

    def tidy(self, number: float) -> float | int:
        """Returns a whole number in a range of whole numbers, else four digits: readable, and the same in YAML."""
        number = min(max(number, self.low), self.high)
        return round(number) if self.whole else min(max(float(f"{number:.4g}"), self.low), self.high)


Choices = dict[str, list[Any] | Range]
"""What is searched: values or a range by dotted key."""


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
    teacher_training: TrainingConfig = Field(default_factory=TrainingConfig, description="how `model` is fine-tuned")
    student: StudentConfig = Field(
        default_factory=StudentConfig, description="the student of all trials (see `codir distill`)"
    )
    students: dict[str, StudentConfig] = Field(
        default_factory=dict, description="several students by name, instead of one"
    )
    seeds: list[int] = Field(
        default=[1, 2, 3, 4, 5], description="seeds of the trials that are compared: a list, or 1-5"
    )
    training: TrainingConfig = Field(
        default_factory=TrainingConfig,
        description="how to train, over what the recipes say; the budget (epochs, batch size, ...) is the study's",
    )
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="fixed settings by recipe: {codir-fine: {objectives.crd.k: 100}}"
    )
    grid: dict[str, Any] = Field(
        default_factory=dict, description="values to search, by dotted key, for all recipes or by recipe"
    )
    space: dict[str, Any] = Field(
        default_factory=dict, description="ranges {low, high, log} or lists to search by `random` and `tpe`, likewise"
    )
    strategy: Literal["grid", "random", "tpe", "greedy"] = Field(
        default="grid",
        description="how settings are chosen: `grid` (without a grid: the recipes as they are), `random`, `tpe`, or "
        "`greedy` (the paper: fine-tuning's grid, then KD's, then CRD's, each keeping the best before it)",
    )
    trials: int = Field(
        default=20, ge=1, le=1_000_000, description="settings that `random` and `tpe` try for each recipe"
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
    workers: int | None = Field(
        default=None,
        ge=0,
        le=10_000,
        description="trials that run side by side, each in a process of its own (default: 1; with Ray all that the "
        "cluster has room for); 0: in this process",
    )
    engine: Literal["local", "ray"] = Field(
        default="local",
        description="where trials run: processes of this machine (`local`), or a `ray` cluster whose machines share "
        "the output folder",
    )
    address: str | None = Field(
        default=None, description="of the Ray cluster, or `auto` (default: a new one on this machine)"
    )
    resources: dict[str, float] = Field(
        default_factory=dict, description="of Ray, for each trial: {num_cpus: 4, num_gpus: 1, ...}"
    )
    cache_dir: Path | None = Field(
        default=None, description="teachers' outputs, shared by all trials (default: `cache` in the output folder)"
    )
    output: Path = Field(description="folder of the study", examples=["studies/mrpc"])
    resume: bool = Field(default=False, description="go on with the study in the output folder")

    @field_validator("seeds", mode="before")
    @classmethod
    def _ranges(cls, value: Any) -> Any:
        """Reads `1-5`, `1,3,7-9` or a single number as a list."""
        if not isinstance(value, str):
            return [value] if isinstance(value, int) and not isinstance(value, bool) else value
        found: list[int] = []
        for part in value.split(","):
            if not (match := re.match(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*$", part)):
                raise ValueError("give seeds such as 1-5 or 1,2,3")
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first or last - first > 10_000:
                raise ValueError(f"{part.strip()} is no range of seeds")
            found += range(first, last + 1)
        return found

    @field_validator("seeds")
    @classmethod
    def _once_each(cls, value: list[int]) -> list[int]:
        if not value or len(set(value)) < len(value):
            raise ValueError("a seed stands there twice" if value else "there is no seed: give a list, or 1-5")
        if min(value) < 0 or max(value) >= 2**32:
            raise ValueError("seeds are whole numbers from 0 to 2**32 - 1")
        return value

    @field_validator("settings", mode="before")
    @classmethod
    def _dotted_settings(cls, value: Any) -> Any:
        return {name: dotted(each) for name, each in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.recipes or not self.tasks:
            raise ValueError("a study needs at least one of recipes and one of tasks")
        if "seed" in self.training.model_fields_set:
            raise ValueError("training: seed is set for each trial from seeds: leave out training.seed")
        for name in (*self.recipes, *self.tasks, *self.students):
            if not _NAME.match(name):
                raise ValueError(
                    f"{name!r} cannot be the name of a folder: use at most 60 letters, digits, '.', '-' and '_'"
                )
        if self.student != StudentConfig() and self.students:
            raise ValueError("student and students exclude each other: put the one into students, with a name")
        _known("settings names", self.settings, self.recipes)
        _known("teachers names", self.teachers, self.tasks)
        _known("baseline is", [self.baseline] if self.baseline else [], self.recipes)
        if without := [name for name in self.tasks if name not in self.teachers and self.model is None]:
            raise ValueError(
                f"there is no teacher for {', '.join(without)}: set model (an encoder that is fine-tuned on each "
                "task), or teachers (fine-tuned models by task)"
            )
        for name, data in self.tasks.items():
            if data.task is None and data.train is None:
                raise ValueError(f"tasks.{name} has no training data: set train")
        for name in {**self.grid, **self.space}:
            if "." not in name and name not in (*self.recipes, "finetune", "kd"):
                raise ValueError(
                    f"grid and space name {name!r}, which is neither a dotted key (training.learning_rate) nor a "
                    f"recipe of this study{nearest(name, self.recipes)}: it has {', '.join(self.recipes)}"
                )
            self.choices_of("" if "." in name else name)
        samples = self.strategy in ("random", "tpe")
        if bool(self.space) != samples or (samples and self.grid):
            raise ValueError(
                f"the strategy {self.strategy} "
                + ("needs space, and no grid" if samples else "searches a grid, not a space")
                + ": random and tpe search the ranges and lists of space, the others the lists of grid"
            )
        if self.pruning != "none" and not samples:
            raise ValueError(f"pruning is for the strategies random and tpe, not for {self.strategy}")
        return self

    @property
    def reference(self) -> str:
        """The recipe that the others are compared with."""
        return self.baseline or ("kd" if "kd" in self.recipes else next(iter(self.recipes)))

    def choices_of(self, recipe: str) -> Choices:
        """Returns what is searched for a recipe, from `grid` or `space`: the keys for all, and its own over them."""
        values = {**self.grid, **self.space}
        own = dotted(values.get(recipe, {}))
        if not isinstance(own, Mapping):
            own = {recipe: own}
        found: Choices = {}
        for key, choice in {**{key: each for key, each in values.items() if "." in key}, **own}.items():
            if isinstance(choice, list | tuple) and choice:
                found[key] = list(choice)
            elif not self.space:
                raise ValueError(f"grid: {key} is {choice!r}: give a list of values, such as [1e-5, 2e-5]")
            elif not isinstance(choice, Mapping):
                raise ValueError(f"space: {key} is {choice!r}: give {{low, high, log}} or a list of values")
            else:
                try:
                    found[key] = Range.model_validate(choice)
                except ValidationError as error:
                    wrong = error.errors()[0]
                    where = ".".join([key, *map(str, wrong["loc"])])
                    raise ValueError(f"space: {where}: {wrong['msg'].removeprefix('Value error, ')}") from None
        return found


def _known(what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(
                f"{what} {name!r}, which is not in this study{nearest(name, known)}: it has {', '.join(known)}"
            )


def dotted(value: Any, prefix: str = "") -> Any:
    """Returns `{"objectives.crd.k": 100}` for nested or dotted keys; ranges, lists and what is no mapping stay."""
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        nested = isinstance(inner, Mapping) and inner and not {"low", "high"} & set(inner)
        flat.update(dotted(inner, name) if nested else {name: inner})
    return flat


def load_study(
    config: str | Path | None = None, *, overrides: Iterable[str] = (), flags: Flags | None = None
) -> StudyConfig:
    """Builds the configuration of a study.

    Args:
        config: a YAML file.
        overrides: texts such as `training.learning_rate=1e-5`.
        flags: for each key, the flag's name for messages and its value.

    Raises:
        ConfigError: an unknown key, a wrong value or a missing one; names the place and the way out.
    """
    settings = Settings()
    if config is not None:
        content, places = read_yaml_file(config)
        if not isinstance(content, dict | None):
            raise ConfigError(f"{config}: expected settings such as `recipes:`, not a {type(content).__name__}")
        content = dict(content or {})
        if content.pop("command", "study") != "study":
            raise ConfigError(f"{places[('command',)]}: this configuration is not for `codir study`")
        settings.merge(content, places)
    settings.set_given(overrides, flags)
    values = settings.values  # spelt out, so that messages name the sections as they are
    if "recipes" in values:
        values["recipes"] = _recipes(values["recipes"])
    if "tasks" in values:
        values["tasks"] = _tasks(values["tasks"], values.get("data"), values.get("data_dir"))
    settings.values = _absolute(values)
    for key in ("output", "cache_dir"):
        if isinstance(path := values.get(key), str | Path):
            settings.values[key] = Path(path).expanduser().absolute()
    return build(StudyConfig, settings)


def study_yaml(config: StudyConfig) -> str:
    """Returns YAML with all that was set; `load_study` of it gives the same study."""
    said = config.model_dump(mode="json", exclude_none=True, exclude_unset=True, exclude={"resume", "data", "data_dir"})
    return dump_yaml({"command": "study", **said})


def _absolute(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        inner = {name: key if key == "teachers" else str(name).rpartition(".")[2] for name in value}
        return {name: _absolute(each, inner[name]) for name, each in value.items()}
    if isinstance(value, list):
        return [_absolute(each, key) for each in value]
    may_be = isinstance(value, str | Path) and key in _PATHS and (key != "recipe" or is_recipe_file(str(value)))
    return str(path.absolute()) if may_be and (path := Path(value).expanduser()).exists() else value


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _recipes(value: Any) -> Any:
    """Turns names, files and named choices into `{name: {recipe, settings}}`."""
    listed = [value] if isinstance(value, Mapping) else _listed(value)
    if not isinstance(listed, list):
        return value
    found: dict[str, Any] = {}
    for each in listed:
        name = Path(str(each)).stem if is_recipe_file(str(each)) else str(each)
        for own, inner in each.items() if isinstance(each, Mapping) else [(name, str(each))]:
            if str(own) in found:
                raise ConfigError(
                    f"Two recipes of this study are called {str(own)!r}: name one `NAME: {{recipe: FILE}}`."
                )
            inner = {"recipe": inner or str(own)} if inner is None or isinstance(inner, str) else inner
            found[str(own)] = {"recipe": str(own), **inner} if isinstance(inner, Mapping) else inner
    return found


def _tasks(value: Any, shared: Any, data_dir: Any) -> Any:
    """Turns names into `{name: {task: name}}` and puts what is shared under each one's own settings."""
    value = _listed(value)
    if isinstance(value, list):
        if len({str(each) for each in value}) < len(value):
            raise ConfigError("A task stands there twice.")
        value = {str(each): {"task": str(each)} for each in value}
    if not isinstance(value, Mapping):
        return value
    common = dict(shared) if isinstance(shared, Mapping) else {}
    for_names = {} if data_dir is None else {"data_dir": str(data_dir)}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        own = {"task": str(name)} if inner is None else inner
        if isinstance(own, Mapping):
            own = {**(for_names if (common | dict(own)).get("task") is not None else {}), **common, **own}
        found[str(name)] = own
    return found
