"""The folder of a study: what it was started with, what is planned, and what may differ when it goes on.

`study.yaml` is the resolved study, `recipes.json` what each recipe's trials are given (so that a recipe file that is
changed later changes nothing), `study.json` its name in the database and what has been checked; `trials/`, `teachers/`,
`cache/` and `logs/` are what they say.
"""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codir.config.loading import with_new_defaults
from codir.config.training_config import TrainingConfig
from codir.errors import ConfigError, RunError
from codir.storage import read_json, write_json, write_text
from codir.studies.config import StudyConfig
from codir.studies.loading import load_study, study_yaml
from codir.studies.resolved import ResolvedRecipe
from codir.studies.short_forms import dotted
from codir.studies.strategies import strategy_of
from codir.studies.strategies.base import Done
from codir.studies.survey import Survey
from codir.studies.trial import Trial

# Settings of how a study is worked on or shown, not of what it computes.
_FREE = (
    *("output", "resume", "workers", "launcher", "resources", "storage", "heartbeat"),
    *("cache_dir", "baseline", "data_dir", "data"),
)
# Of these, what was there must stay, and more may come: it only adds trials.
_MAY_GROW = ("recipes", "tasks", "students", "teachers", "settings")
_MISSING = object()


class StudyFolder:
    """Paths and content of a study's folder.

    Args:
        output: the folder.
    """

    def __init__(self, output: str | Path):
        self.path = Path(output).expanduser().absolute()

    @property
    def yaml(self) -> Path:
        """The resolved study."""
        return self.path / "study.yaml"

    @property
    def recipes_file(self) -> Path:
        """What each recipe's trials are given."""
        return self.path / "recipes.json"

    @property
    def state_file(self) -> Path:
        """Its name in the database, and what has been checked."""
        return self.path / "study.json"

    @property
    def logs(self) -> Path:
        """The workers' output."""
        return self.path / "logs"

    @property
    def exists(self) -> bool:
        """Whether a study was started here."""
        return self.yaml.is_file() and self.recipes_file.is_file() and self.state_file.is_file()

    def load(self) -> tuple[StudyConfig, dict[str, ResolvedRecipe]]:
        """Returns the study as it was started, with its recipes.

        Raises:
            RunError: there is none, or it is damaged.
        """
        if not self.exists:
            raise RunError(
                f"{self.path} holds no study: start one with "
                f"`codir study STUDY.yaml --output {shlex.quote(str(self.path))}`."
            )
        try:
            config = load_study(self.yaml, flags={"output": ("--output", str(self.path))})
            recipes = {
                name: ResolvedRecipe(**values) for name, values in read_json(self.recipes_file).items()
            }
        except (ConfigError, TypeError, AttributeError) as error:
            raise RunError(f"{self.path} is a damaged study: {error}") from error
        return config, recipes

    def save(self, config: StudyConfig, recipes: Mapping[str, ResolvedRecipe]) -> None:
        """Writes a study, checked before, so that workers find it; the last file is the one that makes it one."""
        notes = [f"# {line}\n" for line in notes_of(recipes)]
        if notes:
            notes.insert(0, "# What the recipes say otherwise, and the study does not use:\n")
        write_json(self.recipes_file, {name: recipe.to_json() for name, recipe in recipes.items()})
        write_text(self.yaml, study_yaml(config) + "".join(notes))
        if not self.state_file.is_file():
            write_json(self.state_file, {"name": f"codir-{uuid.uuid4().hex[:12]}", "checked": []})

    @property
    def name(self) -> str:
        """The study's name in the database."""
        return str(read_json(self.state_file)["name"])

    @property
    def checked(self) -> list[str]:
        """What has been checked against models and data before."""
        return list(read_json(self.state_file)["checked"]) if self.state_file.is_file() else []

    def add_checked(self, what: list[str]) -> None:
        """Notes that these need no check again."""
        content = read_json(self.state_file)
        write_json(self.state_file, {**content, "checked": sorted({*content["checked"], *what})})

    def check_same(self, config: StudyConfig, recipes: Mapping[str, ResolvedRecipe]) -> None:
        """Makes sure that a study that goes on computes what it computed before, or more of it.

        Raises:
            RunError: names every key that differs, with both values.
        """
        before, recipes_before = self.load()
        lines = _differences(before, config)
        for name, recipe in ((name, _completed(each)) for name, each in recipes_before.items()):
            now = recipes.get(name)
            if now is None:
                continue  # `_differences` has named it, or a strategy no longer needs it
            there, here = (
                dotted(
                    {
                        "objectives": each.objectives,
                        "training": each.training,
                        "student": each.student or {},
                        "changes": each.changes,
                        "start": each.start,
                    }
                )
                for each in (recipe, now)
            )
            if any(line.startswith(f"  recipes.{name}") for line in lines):
                continue
            lines += [
                f"  recipe {name}, {key}: {there.get(key, '(not set)')!r} there, {here.get(key, '(not set)')!r} now"
                for key in sorted(there.keys() | here.keys())
                if there.get(key, _MISSING) != here.get(key, _MISSING)
            ]
        if lines:
            raise RunError(
                f"{self.path} holds a study of another configuration:\n"
                + "\n".join(dict.fromkeys(lines))
                + "\nRecipes, tasks, students, seeds and trials may be added; anything else makes another study: "
                "choose another --output."
            )


def _completed(recipe: ResolvedRecipe) -> ResolvedRecipe:
    """Returns a recipe that an older version wrote with the settings that came since, so that it is the same study."""
    try:
        training = TrainingConfig.model_validate(recipe.training).model_dump(mode="json")
    except ValidationError:  # a setting that is gone: the comparison names it
        return recipe
    return replace(recipe, objectives=dict(with_new_defaults(recipe.objectives)), training=training)


def notes_of(recipes: Mapping[str, ResolvedRecipe]) -> list[str]:
    """Returns what recipes want otherwise than the study, one line for all that say the same."""
    by_note: dict[str, list[str]] = {}
    for recipe in recipes.values():
        for note in recipe.notes:
            by_note.setdefault(note, []).append(recipe.name)
    return [f"{', '.join(names)}: {note}" for note, names in by_note.items()]


def _differences(before: StudyConfig, now: StudyConfig) -> list[str]:
    there, here = (each.model_dump(mode="json") for each in (before, now))
    lines: list[str] = []
    for key in there:
        old, new = there[key], here[key]
        if key in _FREE or old == new:
            continue
        if key == "seeds":
            gone = [seed for seed in old if seed not in new]
            lines += [f"  seeds: {', '.join(map(str, gone))} there, missing now"] if gone else []
        elif key == "trials":
            lines += [f"  trials: {old} there, {new} now"] if new < old else []
        elif key in _MAY_GROW:
            for name in old:
                lines += _values(f"{key}.{name}", old[name], new.get(name, _MISSING))
        else:
            lines += _values(key, old, new)
    return lines


def _values(key: str, old: Any, new: Any) -> list[str]:
    if new is _MISSING:
        return [f"  {key}: there, missing now"]
    first, second = ({key: each} if not isinstance(each, dict) else dotted(each, key) for each in (old, new))
    return [
        f"  {each}: {first.get(each, '(not set)')!r} there, {second.get(each, '(not set)')!r} now"
        for each in sorted(first.keys() | second.keys())
        if first.get(each, _MISSING) != second.get(each, _MISSING)
    ]


class Plan:
    """What a study has to do, worked out from its folder alone.

    Args:
        folder: of the study.
    """

    def __init__(self, folder: StudyFolder):
        self.folder = folder
        self.survey = Survey(folder.path)
        self.config, self.recipes = folder.load()
        self._strategy = strategy_of(self.config, self.recipes)
        self._read = folder.yaml.stat().st_mtime_ns

    def refresh(self) -> None:
        """Reads the study again if it has grown meanwhile: a worker that joined goes on with it."""
        now = self.folder.yaml.stat().st_mtime_ns
        if now != self._read:
            self.config, self.recipes = self.folder.load()
            self._strategy = strategy_of(self.config, self.recipes)
            self._read = now

    def trials(self) -> list[Trial]:
        """Returns every trial that can be named by now."""
        return self._strategy.next_trials(self.survey)

    @property
    def done(self) -> Done:
        """How trials ended."""
        return self.survey
