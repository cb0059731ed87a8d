"""Makes `evidence.json`, which `codir recommend` reads: one entry for each recipe, task and student of a study."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from codir.studies.findings import Cell, Row
from evidence_data import Chosen, EvidenceTrial, Study, choose

# Judged on purpose on texts unlike the training data: what is kept there is less for every recipe, and would count
# against those that were tried there.
_OTHER_TEXTS = ("sources", "sources-long")
_Trainings = frozenset[tuple[Any, ...]]  # what tells one training from all others
_SHAPE = ("student.width", "student.intermediate")  # of the study's student: an entry has fields for it


def entries_text(studies: Sequence[Study]) -> str:
    """Returns the file's text; an entry a line. Trials that a study took from another one count once."""
    found = [each for study in studies if study.name not in _OTHER_TEXTS for each in _entries(study)]
    everywhere = [trainings for _, trainings in found]
    entries = [entry for place, (entry, _) in enumerate(found) if not _elsewhere(place, everywhere)]
    versions: dict[str, Any] = {}
    for study in studies:
        for each in study.content["environments"]:
            for name, version in each["versions"].items():
                known = versions.setdefault(name, [])
                if version not in known:
                    known.append(version)
    joined = {name: ", ".join(map(str, known)) for name, known in sorted(versions.items())}
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f'{{"entries": [\n{lines}\n],\n"versions": {json.dumps(joined)}}}\n'


def _elsewhere(place: int, everywhere: Sequence[_Trainings]) -> bool:
    """Whether another entry has the trainings of this one and more, or the same ones before it."""
    own = everywhere[place]
    return any(own < other or (own == other and at < place) for at, other in enumerate(everywhere))


def _entries(study: Study) -> list[tuple[dict[str, Any], _Trainings]]:
    """Returns a study's entries, each with the trainings it is made of."""
    with_kd = any(trial.result.recipe == "kd" for trial in study.trials)
    chosen = choose([study], baseline="kd" if with_kd else None)  # whatever the study itself compares with
    if chosen is None:
        return []
    found = []
    for row in chosen.findings.rows:
        for task in chosen.findings.tasks:
            trials = [trial for trial in chosen.by_row[row] if trial.result.task == task]
            if trials and (entry := _entry(study, chosen, row, task, trials)) is not None:
                keys = ("task", "recipe", "seed", "score", "seconds")
                found.append((entry, frozenset(tuple(each.values[key] for key in keys) for each in trials)))
    return found


def _entry(
    study: Study, chosen: Chosen, row: Row, task: str, trials: Sequence[EvidenceTrial]
) -> dict[str, Any] | None:
    """Returns an entry; None where the shape of teacher or student is not known, or no score is a number."""
    first = trials[0]
    values, teacher = first.values, study.content["teachers"][first.values["task"]]
    cell = chosen.findings.cells[row, task]
    if not teacher["blocks"] or not values["layers"] or cell.spread is None or cell.kept is None:
        return None
    own = first.arm["settings"]
    settings = {key: value for key, value in first.settings.items() if key in own or key not in _SHAPE}
    if "training.learning_rate" in study.content["arms"].get("kd", {}).get("settings", {}):
        # Each recipe, kd too, has the rate that is best for it: no gain over kd comes of that.
        settings.pop("training.learning_rate", None)
    over = chosen.findings.differences.get((row, task)) if chosen.findings.baseline == "kd" else None
    return {
        "study": study.name,
        "arm": first.result.recipe,
        "recipe": first.arm["recipe"],
        "settings": settings,
        "task": task,
        "kind": first.conditions["data"]["kind"],
        "metric": cell.metric,
        "split": values["split"],
        "train_examples": values["train_examples"],
        "teacher": {key: teacher[key] for key in ("blocks", "width", "score", "parameters")},
        "student": {key: values[key] for key in ("layers", "width", "parameters")},
        "epochs": round(statistics.fmean(trial.result.epochs or 0 for trial in trials), 3),
        "steps": round(statistics.median(trial.result.steps for trial in trials)),
        "batch_size": values["batch_size"],
        "learning_rate": values["learning_rate"],
        "seeds": cell.spread.n,
        "scores": [round(score, 6) for _, score in sorted(cell.scores.items())],
        "mean": round(cell.spread.mean, 6),
        "sd": None if cell.spread.std is None else round(cell.spread.std, 6),
        "kept": round(100 * cell.kept, 2),
        "over_kd": (
            None
            if over is None or over.low is None or over.high is None
            else {
                "mean": round(100 * over.difference, 3),
                "low": round(100 * over.low, 3),
                "high": round(100 * over.high, 3),
                "seeds": _gains(cell, chosen.findings.cells.get((Row("kd", row.student), task))),
            }
        ),
        "seconds": round(statistics.median(trial.result.seconds for trial in trials), 1),
    }


def _gains(cell: Cell, kd: Cell | None) -> dict[int, float]:
    """Returns the gains over `kd` by seed, in points."""
    scores = kd.scores if kd is not None else {}
    return {
        seed: round(100 * (score - scores[seed]), 3)
        for seed, score in sorted(cell.scores.items())
        if seed in scores
    }
