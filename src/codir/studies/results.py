"""What a study's folder says: its configuration, how its trials ended, what the finished ones gave.

`study.yaml` is the study, `recipes.json` what its recipes came to (so that a recipe file that is changed or gone later
changes no results); `trials/`, `teachers/`, `cache/` and `logs/` are what they say.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from codir.errors import ConfigError, RunError
from codir.files import read_json, write_json, write_text
from codir.record.runfolder import RunFolder
from codir.studies.config import StudyConfig, load_study, study_yaml
from codir.studies.recipes import ResolvedRecipe, notes_of, resolve_recipes, teacher_folder
from codir.studies.search import Search
from codir.studies.trial import Outcome, Trial, TrialResult, read_outcome, read_trials

STUDY, RECIPES = "study.yaml", "recipes.json"


def is_study(output: str | Path) -> bool:
    """Says whether a study was started in a folder."""
    return (Path(output) / STUDY).is_file()


class Plan:
    """What a study has to do and what it has done, worked out from its folder alone.

    Args:
        config: the study's configuration.
        recipes: what its recipes come to; by default they are resolved now.

    Raises:
        ConfigError: see `resolve_recipes`.
    """

    def __init__(self, config: StudyConfig, recipes: Mapping[str, ResolvedRecipe] | None = None):
        self.config, self.output = config, config.output
        self.recipes = resolve_recipes(config) if recipes is None else recipes
        self.search = Search(config, self.recipes)
        self._ended: dict[str, Outcome] = {}

    @classmethod
    def load(cls, output: str | Path) -> Plan:
        """Returns the plan of the study in a folder; raises `RunError` where there is none, or it is damaged."""
        output = Path(output).expanduser().absolute()
        if not (output / STUDY).is_file():
            raise RunError(
                f"{output} holds no study: start one with `codir study STUDY.yaml --output {shlex.quote(str(output))}`."
            )
        try:
            config = load_study(output / STUDY, flags={"output": ("--output", str(output))})
            recipes = {k: ResolvedRecipe(**values) for k, values in read_json(output / RECIPES).items()}
            return cls(config, recipes)
        except (ConfigError, OSError, TypeError, AttributeError) as error:
            raise RunError(f"{output} is a damaged study: {error}") from error

    def save(self) -> None:
        """Writes what `load` reads, and in comments what the recipes say otherwise; `study.yaml` comes last."""
        notes = [f"# {line}\n" for line in notes_of(self.recipes)]
        if notes:
            notes.insert(0, "# What the recipes say otherwise, and the study does not use:\n")
        write_json(self.output / RECIPES, {name: asdict(recipe) for name, recipe in self.recipes.items()})
        write_text(self.output / STUDY, study_yaml(self.config) + "".join(notes))

    def done(self, damaged: list[str] | None = None) -> Mapping[str, Outcome]:
        """Returns how trials ended, by key.

        Args:
            damaged: gets a line for each trial that cannot be read; None refuses the first of them.
        """
        for trial in read_trials(self.output):
            try:
                # what has ended never changes
                if trial.key not in self._ended and (outcome := read_outcome(trial, self.output)) is not None:
                    self._ended[trial.key] = outcome
            except RunError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
        return self._ended

    def trials(self, ask: bool = False, damaged: list[str] | None = None) -> list[Trial]:
        """Returns every trial that can be named by now; see `Search.trials`."""
        return self.search.trials(self.done(damaged), read_trials(self.output), ask)

    def teacher_state(self, task: str) -> str:
        """Returns `finished`, `failed`, or another state of the teacher of a task."""
        given = task in self.config.teachers
        return "finished" if given else RunFolder(teacher_folder(self.config, task)).state

    def failures(self) -> dict[str, str]:
        """Returns errors by key, of trials and (`teacher:TASK`) teachers."""
        found = {key: each.error for key, each in self.done().items() if each.state == "failed"}
        for task in self.config.tasks:
            if self.teacher_state(task) == "failed":
                attempts = RunFolder(teacher_folder(self.config, task)).status["attempts"]
                found[f"teacher:{task}"] = attempts[-1].get("error", "unknown")
        return found

    def in_words(self) -> str:
        """Returns, for example, `12 of 40 trials finished, 1 failed`."""
        states = [outcome.state for outcome in self.done().values()]
        dead = [task for task in self.config.tasks if self.teacher_state(task) == "failed"]
        parts = [f"{states.count('finished')} of {len(self.search.all_trials())} trials finished"]
        parts += [f"{states.count(state)} {state}" for state in ("pruned", "failed") if state in states]
        return ", ".join(parts + [f"no teacher for {', '.join(dead)}"] * bool(dead))

    def results(self, damaged: list[str] | None = None) -> list[TrialResult]:
        """Returns what the finished trials gave; a search may have trained before what is now compared."""
        compared = {trial.key for trial in self.trials(damaged=damaged) if trial.phase == "final"}
        return [
            replace(each.result, phase="final" if trial.key in compared else "search")
            for trial in read_trials(self.output)
            if (each := self._ended.get(trial.key)) and each.result
        ]


def read_results(output: str | Path, damaged: list[str] | None = None) -> list[TrialResult]:
    """Returns the results of all finished trials of a study, ordered by task, student, recipe, settings and seed.

    Args:
        output: the study's folder.
        damaged: gets a line for each finished trial whose files are damaged.

    Raises:
        RunError: a finished trial's files are damaged, and no list for that was given.
    """
    return Plan.load(output).results(damaged)
