"""The study files of benchmarks/evidence: their paths filled in, and `codir study` started or resumed with them.

A study file names folders of the machine it runs on as `$data_dir`, `$teachers`, `$encoder` or any `$name` that
`--path name=FOLDER` gives; `$here` is benchmarks/evidence itself (recipes of one's own lie there).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import SimpleNamespace
from typing import Any

from codir.config.yaml_text import dump_yaml, read_yaml_file
from codir.errors import ConfigError, nearest
from codir.storage import write_text
from codir.studies.config import StudyConfig
from codir.studies.short_forms import seeds_of, spelt_out

STUDIES = Path(__file__).resolve().parent / "evidence"
_PARTS = ("recipes", "tasks", "students", "seeds")
_FLAGS = {"data_dir": "--data-dir", "teachers": "--teachers"}


def study_names() -> list[str]:
    """Returns the names of all study files."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def study_file(name: str) -> Path:
    """Returns the file of a study; raises `ConfigError` if there is none of that name."""
    path = STUDIES / f"{name}.yaml"
    if not path.is_file():
        known = study_names()
        raise ConfigError(
            f"There is no study {name!r}{nearest(name, known)} in {STUDIES}: there are {', '.join(known)}."
        )
    return path


@dataclass(frozen=True)
class Outline:
    """What a study compares, by names.

    Attributes:
        recipes, tasks, students, seeds: every one with every other is a trial; one student for all is `""`.
        baseline: what the recipes are compared with; None: codir chooses.
    """

    recipes: tuple[str, ...]
    tasks: tuple[str, ...]
    students: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str | None = None


def outline(name: str) -> Outline:
    """Reads what a study compares out of its file; raises `ConfigError` if there is none of that name."""
    study = spelt_out(read_yaml_file(study_file(name))[0])
    return Outline(
        recipes=tuple(study["recipes"]),
        tasks=tuple(study["tasks"]),
        students=tuple(study.get("students") or [""]),
        seeds=tuple(_seeds(study)),
        baseline=study.get("baseline"),
    )


def _seeds(study: Mapping[str, Any]) -> list[int]:
    return seeds_of(
        study.get("seeds", StudyConfig.model_fields["seeds"].get_default(call_default_factory=True))
    )


def filled(name: str, paths: Mapping[str, str]) -> dict[str, Any]:
    """Returns the settings of a study with its paths filled in.

    Args:
        name: of the study.
        paths: value of each placeholder, without the `$`.

    Raises:
        ConfigError: there is no such study, or a placeholder has no value; names the file, the line and the flag.
    """
    path = study_file(name)
    content, places = read_yaml_file(path)
    known = {"here": str(STUDIES), **paths}

    def fill(value: Any, where: tuple[Any, ...]) -> Any:
        if isinstance(value, dict):
            return {key: fill(inner, (*where, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner, (*where, place)) for place, inner in enumerate(value)]
        if not isinstance(value, str) or "$" not in value:
            return value
        try:
            return Template(value).substitute(known)
        except KeyError as error:
            missing = str(error.args[0])
            flag = _FLAGS.get(missing, f"--path {missing}=FOLDER")
            place = next(
                (places[where[:end]] for end in range(len(where), 0, -1) if where[:end] in places), path
            )
            raise ConfigError(f"{place}: {value} needs {flag}.") from None
        except ValueError as error:
            raise ConfigError(f"{path}: {value}: {error}. A placeholder is `$name`, a dollar `$$`.") from None

    return fill(content, ())


def parts(texts: Sequence[str]) -> dict[str, list[str]]:
    """Reads `seeds=2,3`, `tasks=mrpc`, ...: what a study is cut down to.

    Raises:
        ConfigError: another key, one without names, or one twice.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        key, separator, names = text.partition("=")
        if key not in _PARTS or not separator or not names:
            raise ConfigError(f"--part {text}: expected KEY=NAME,NAME with one of {', '.join(_PARTS)}.")
        if key in found:
            raise ConfigError(
                f"--part {text}: {key} is given twice; --part {key}={','.join(found[key])},{names} has both."
            )
        found[key] = names.split(",")
    return found


def part_of(study: dict[str, Any], part: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns the settings of a study with only the named recipes, tasks, students and seeds.

    Raises:
        ConfigError: the study has none of a name; says which it has.
    """
    found = spelt_out(study) | {"seeds": _seeds(study)}
    for key, wanted in part.items():
        known = {str(name): name for name in found.get(key) or []}
        for name in wanted:
            if name not in known:
                raise ConfigError(
                    f"--part {key}={name}: the study has {', '.join(known) or 'none'}{nearest(name, list(known))}."
                )
        entries = found[key]
        if isinstance(entries, Mapping):
            found[key] = {name: entries[name] for name in wanted}
        else:
            found[key] = [known[name] for name in wanted]
    if "teachers" in found:
        found["teachers"] = {
            task: found["teachers"][task] for task in found["tasks"] if task in found["teachers"]
        }
    if found.get("baseline") not in [None, *found["recipes"]]:
        del found["baseline"]
    return found


def run_study(
    name: str,
    output: Path,
    paths: Mapping[str, str],
    more: Sequence[str] = (),
    part: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Starts a study, or goes on with it; returns what `codir study` returned.

    Args:
        name: of the study.
        output: its folder; the filled study file is written beside it as `OUTPUT.yaml`.
        paths: value of each placeholder.
        more: further arguments of `codir study`, such as `--workers 2`.
        part: recipes, tasks, students, seeds to cut it down to, by name; all of those that are not named.
    """
    file = Path(f"{output}.yaml")
    write_text(
        file,
        f"# benchmarks/evidence/{name}.yaml, filled in\n"
        + dump_yaml(part_of(filled(name, paths), part or {})),
    )
    resume = ["--resume"] if (output / "study.yaml").is_file() else []
    command = ["study", str(file), "--output", str(output), *resume, *more]
    print("$ codir", *command, flush=True)
    return subprocess.run([sys.executable, "-m", "codir", *command], check=False).returncode


def make_teachers(tasks: Sequence[str], output: Path, data_dir: Path) -> None:
    """Fine-tunes the teachers as benchmarks/glue_results.py does, OUTPUT/TASK/teacher; those there are stay."""
    from glue_results import BUDGETS, teacher

    for task in tasks or list(BUDGETS):
        if task not in BUDGETS:
            raise ConfigError(
                f"There is no budget for a teacher of {task!r}{nearest(task, BUDGETS)}: {', '.join(BUDGETS)}."
            )
        teacher(task, SimpleNamespace(output=output, data_dir=data_dir))  # type: ignore[arg-type]


def encoder() -> str | None:
    """Returns the folder of the pretrained encoder from PyPI, or None if it is not installed."""
    from glue_results import encoder as installed

    try:
        return installed()
    except ImportError:
        return None
