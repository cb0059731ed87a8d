"""Makes one small file out of a study's folder: all that figures and tables need of it.

A study may be shared out over machines and days: several folders, and files that were made before, give one file. What
another study has trained already need not be trained again: its results give the trials that both have. No text of a
data set and no path of a machine is kept. The same folders give the same file, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from codir.errors import ConfigError, RunError
from codir.storage import write_text
from evidence_sources import Found, ResultsFile, StudyFolder, key_of
from evidence_studies import Outline

LARGEST = 300_000  # bytes of a file of results
_POINTS = (60, 40, 30, 20, 15, 10, 5)  # of a curve; the first with which the file is small enough
_UNFINISHED = "not finished for"


def collect(name: str, sources: Sequence[Path], file: Path, whole: Outline | None = None) -> dict[str, Any]:
    """Writes the results of a study.

    Args:
        name: of the study.
        sources: folders where it ran, and files of results that were made of other parts of it, `file` itself too, or
            of another study that has trials of this one. A training that several have counts once.
        file: JSON to write; replaced.
        whole: what the study compares, and all that is taken from the sources; by default what they compare.

    Returns:
        What was written.

    Raises:
        ConfigError: two sources have the same trial of two trainings, or another recipe of the same name.
        RunError: there is no study in a folder, no results in a file, or nothing of this study is finished.
    """
    parts = [ResultsFile(source) if source.is_file() else StudyFolder(source) for source in sources]
    if whole is None:
        whole = Outline(
            recipes=tuple(_merged("arms", parts, sources)),
            tasks=tuple(_merged("tasks", parts, sources)),
            students=tuple(_merged("students", parts, sources)),
            seeds=tuple(sorted({seed for part in parts for seed in part.seeds})),
            baseline=parts[0].baseline,
        )
    wanted = {
        "arms": whole.recipes,
        "tasks": whole.tasks,
        "students": whole.students,
        "constants": whole.tasks,
    }
    content: dict[str, Any] = {"study": name}
    for key, among in wanted.items():
        content[key] = _merged(key, parts, sources, among)
    cells = set(product(whole.tasks, whole.students, whole.recipes, whole.seeds))
    found, taken = _without_repeats(parts, cells)
    if not found:
        raise RunError(
            f"No trial of {name} is finished in {', '.join(map(str, sources))}: there is nothing to collect."
        )
    own = [part for part in parts if part.study in (None, name)]
    content |= {
        "baseline": whole.baseline or parts[0].baseline,
        "seeds": list(whole.seeds),
        "planned": len(cells),
        "finished": len(found),
        "failed": sorted({key for part in own for key in part.failed} - set(found)),
        "missing": [
            *_unfinished(whole, {each.cell for each in found.values()}),
            *(line for part in own for line in part.missing if _UNFINISHED not in line),
        ],
    }
    text = ""
    for points in _POINTS:
        content |= {"teachers": {}, "environments": []}
        pairs = zip(parts, taken, strict=True)
        trials = [trial for part, keys in pairs for trial in part.trials(keys, content, points)]
        content["trials"] = sorted(trials, key=_place)
        text = _lines(content)
        if len(text.encode()) <= LARGEST:
            break
    else:
        raise RunError(f"The results of {name} take {len(text):,} bytes: more than {LARGEST:,}.")
    write_text(file, text)
    return content


def _without_repeats(
    parts: Sequence[StudyFolder | ResultsFile], cells: Collection[tuple[str, str, str, int]]
) -> tuple[dict[str, Found], list[list[str]]]:
    """Returns the study's trials by key, and the keys to take from each source: a training that several have, once."""
    found: dict[str, Found] = {}
    taken: list[list[str]] = []
    for part in parts:
        taken.append([])
        for key, each in part.found.items():
            if each.cell not in cells:
                continue
            if key in found:
                if found[key].mark != each.mark:
                    raise ConfigError(
                        f"{each.where} and {found[key].where} are two trainings of one trial: name one of them."
                    )
                continue
            found[key] = each
            taken[-1].append(key)
    return found, taken


def _place(trial: Mapping[str, Any]) -> tuple[str, ...]:
    return trial["task"], trial["student"] or "", trial["recipe"], key_of(trial)


def _unfinished(whole: Outline, done: Collection[tuple[str, str, str, int]]) -> list[str]:
    """Returns a line for each recipe and task that lack seeds."""
    seeds: dict[str, list[int]] = {}
    for cell in product(whole.tasks, whole.students, whole.recipes, whole.seeds):
        if cell not in done:
            task, student, recipe, seed = cell
            name = f"{recipe} ({student})" if len(whole.students) > 1 else recipe
            seeds.setdefault(f"{name} on {task}", []).append(seed)
    return [
        f"{what}: {_UNFINISHED} seed{'s' if len(lacking) > 1 else ''} {', '.join(map(str, lacking))}"
        for what, lacking in seeds.items()
    ]


def _merged(
    what: str,
    parts: Sequence[StudyFolder | ResultsFile],
    sources: Sequence[Path],
    among: Collection[str] | None = None,
) -> dict[str, Any]:
    """Returns what the sources say of each name, or of those of the study in its order; they have to agree."""
    found: dict[str, Any] = {}
    first: dict[str, Path] = {}
    for part, source in zip(parts, sources, strict=True):
        for name, value in getattr(part, what).items():
            if among is not None and name not in among:
                continue
            if found.setdefault(name, value) != value:
                raise ConfigError(
                    f"{source} means something else by {name!r} ({what}) than {first[name]}: give it another name in "
                    "one of the studies."
                )
            first.setdefault(name, source)
    return {name: found[name] for name in among or found if name in found}


def _lines(content: Mapping[str, Any]) -> str:
    """Returns JSON with one line for each trial, so that a difference between two versions can be read."""

    def one(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    lines = []
    for key, value in content.items():
        if key in ("trials", "environments"):
            lines.append(f'"{key}": [\n' + ",\n".join(one(each) for each in value) + "\n]")
        elif isinstance(value, dict) and value:
            inner = ",\n".join(f"  {one(name)}: {one(each)}" for name, each in value.items())
            lines.append(f'"{key}": {{\n{inner}\n}}')
        else:
            lines.append(f'"{key}": {one(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"
