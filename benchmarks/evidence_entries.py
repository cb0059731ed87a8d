"""Makes `evidence.json`, which `codir recommend` reads: one entry for each recipe, task and student of a study."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codir.studies.findings import Row
from evidence_choice import Chosen, choose
from evidence_data import EvidenceTrial, Study

# Judged on purpose on texts unlike the training data: what is kept there is less for every recipe, and would count
# against those that were tried there.
_OTHER_TEXTS = ("sources", "sources-long")
_Trainings = frozenset[tuple[Any, ...]]  # what tells one training from all others
_PAIRED = ("over_kd", "over_undistilled")  # what a study says of a recipe beside another one
_SHAPE = ("student.width", "student.intermediate")  # of the study's student: an entry has fields for it


def entries_text(studies: Sequence[Study]) -> str:
    """Returns the file's text; an entry a line.

    Trials that a study took from another one count once: an entry of some of another's trainings is left out, and of
    those with the same ones the one is kept that says most, with what the others say of it.
    """
    found = [each for study in studies if study.name not in _OTHER_TEXTS for each in _entries(study)]
    sets = [trainings for _, trainings in found]
    entries = []
    for trainings in dict.fromkeys(sets):
        if not any(trainings < other for other in sets):
            same = [entry for entry, own in found if own == trainings]
            paired = {key: _first(each[key] for each in same) for key in _PAIRED}
            entries.append(max(same, key=_compared) | paired)
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


def _compared(entry: Mapping[str, Any]) -> tuple[bool, ...]:
    """What an entry is beside: that of the study with `kd` is kept, whose costs are in those of `kd`, too."""
    return tuple(entry[key] is not None for key in _PAIRED)


def _first(values: Iterable[Any]) -> Any:
    return next((each for each in values if each is not None), None)


def _entries(study: Study) -> list[tuple[dict[str, Any], _Trainings]]:
    """Returns a study's entries, each with the trainings it is made of."""
    with_kd = any(trial.result.recipe == "kd" for trial in study.trials)
    chosen = choose([study], baseline="kd" if with_kd else None)  # whatever the study itself compares with
    if chosen is None:
        return []
    shown = {row.recipe for row in chosen.findings.rows}
    undistilled = {row: _undistilled(study, trials[0]) for row, trials in chosen.by_row.items()}
    against = {name: choose([study], baseline=name) for name in shown.intersection(undistilled.values())}
    found = []
    for row in chosen.findings.rows:
        beside = against.get(undistilled[row] or "")
        for task in chosen.findings.tasks:
            trials = [trial for trial in chosen.by_row[row] if trial.result.task == task]
            if trials and (entry := _entry(study, chosen, row, task, trials)) is not None:
                entry["over_undistilled"] = None if beside is None else _over(beside, row, task)
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
        "over_kd": _over(chosen, row, task) if chosen.findings.baseline == "kd" else None,
        "seconds": round(statistics.median(trial.result.seconds for trial in trials), 1),
    }


def _undistilled(study: Study, trial: EvidenceTrial) -> str | None:
    """Returns the arm that has labels alone, from the same start and with the same training; None if there is none."""
    own = trial.values["recipe"]
    others = (
        other.values["recipe"]
        for other in study.trials
        if other.values["recipe"] != own
        and (other.values["task"], other.values["student"]) == (trial.values["task"], trial.values["student"])
        and list(other.conditions["objectives"]) == ["task"]
        and other.conditions["start"] == trial.conditions["start"]
        and other.arm.get("training") == trial.arm.get("training")
    )
    return next(others, None)


def _over(chosen: Chosen, row: Row, task: str) -> dict[str, Any] | None:
    """Returns a row's gain over the baseline in points, with its interval and by seed; None without an interval."""
    findings = chosen.findings
    gain = findings.differences.get((row, task))
    if gain is None or gain.low is None or gain.high is None:
        return None
    baseline = findings.cells.get((Row(str(findings.baseline), row.student), task))
    scores = baseline.scores if baseline is not None else {}
    return {
        "mean": round(100 * gain.difference, 3),
        "low": round(100 * gain.low, 3),
        "high": round(100 * gain.high, 3),
        "seeds": {
            seed: round(100 * (score - scores[seed]), 3)
            for seed, score in sorted(findings.cells[row, task].scores.items())
            if seed in scores
        },
    }
