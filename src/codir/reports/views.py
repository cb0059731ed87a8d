"""What needs models and data: similarity, clouds, confusions, disagreements; each may fail by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from codir.errors import CodirError
from codir.models.representations import Pooling
from codir.reports.contents import Report
from codir.reports.disagreements import confusion, disagreements
from codir.reports.outputs import Examples, Outputs, load_examples, run_model
from codir.reports.planes import own_plane, read_contrasts, shared_plane
from codir.reports.run_files import RunFiles, mapping
from codir.reports.similarity import similarity

CONTRAST_FILE = "contrast.safetensors"
_MOST_LISTED = 500
_NO_LAYERS = "has no layers of one encoder that could be compared"
_OF_ONE = ("representations", "confusions")
_OF_TWO = ("similarity", "disagreements")
ALL_VIEWS = (*_OF_TWO, *_OF_ONE)


@dataclass(frozen=True)
class Folders:
    """The models of a run that are run over examples, beside the teacher.

    Attributes:
        student: the main student.
        student_name: what it is called.
        undistilled: the student that learned without a teacher, if there is one.
        undistilled_name: what it is called.
    """

    student: Path
    student_name: str
    undistilled: Path | None
    undistilled_name: str


def add_views(
    run: RunFiles, folders: Folders, examples: int, data_dir: Path | None, report: Report
) -> Examples | None:
    """Runs teacher and students once each over validation examples and adds what comes of it.

    Args:
        run: the run.
        folders: its models.
        examples: how many; 0 runs nothing.
        data_dir: folder of the task's data, instead of the one that the run names.
        report: gets the parts, or why they are missing.

    Returns:
        The examples; None if there are none.
    """
    chosen = _examples(run, folders.student, examples, data_dir, report)
    if chosen is None:
        return None
    poolings = _poolings(run)
    # the similarity is of means
    wanted: tuple[Pooling, ...] = tuple(dict.fromkeys(["mean", *poolings.values()]))
    teacher = _run(run, run.config.get("teacher"), "teacher", chosen, wanted, report)
    student = _run(run, folders.student, folders.student_name, chosen, wanted, report)
    plain = None
    if folders.undistilled is not None:
        plain = _run(run, folders.undistilled, folders.undistilled_name, chosen, wanted, report)
    _add_confusions([each for each in (teacher, student, plain) if each is not None], chosen, report)
    _add_similarity(teacher, student, plain, report)
    _add_disagreements(teacher, student, chosen, report)
    _add_clouds(run, teacher, student, chosen, poolings, report)
    return chosen


def add_views_of_one(
    run: RunFiles, name: str, examples: int, data_dir: Path | None, report: Report
) -> Examples | None:
    """Runs a fine-tuned model over validation examples: it has no teacher to be compared with.

    Args:
        run: the run, which is the model.
        name: what it is called.
        examples: how many; 0 runs nothing.
        data_dir: folder of the task's data, instead of the one that the run names.
        report: gets the parts, or why they are missing.

    Returns:
        The examples; None if there are none.
    """
    _miss(report, "it compares a student with its teacher, and this model has none", *_OF_TWO)
    chosen = _examples(run, run.path, examples, data_dir, report, _OF_ONE)
    model = None if chosen is None else _run(run, run.path, name, chosen, ("mean",), report)
    if chosen is None or model is None:
        return chosen
    _add_confusions([model], chosen, report)
    if model.pooled:
        report.clouds.append(own_plane(model, chosen))
    else:
        _miss(report, f"{name} {_NO_LAYERS}", "representations")
    return chosen


def _examples(
    run: RunFiles,
    student: Path,
    count: int,
    data_dir: Path | None,
    report: Report,
    parts: tuple[str, ...] = ALL_VIEWS,
) -> Examples | None:
    """Loads the examples; says of `parts` why there are none."""
    if not count:
        _miss(report, "models were not to be run (--no-models)", *parts)
        return None
    if not (student / "config.json").is_file():
        _miss(report, f"{student} holds no model yet", *parts)
        return None
    try:
        chosen = load_examples(run, student, count, data_dir)
    except (CodirError, OSError) as error:
        _miss(report, f"the validation data cannot be read: {error}", *parts)
        return None
    report.facts.append(("examples that the models were run over", _how_many(chosen)))
    return chosen


def _add_confusions(models: Sequence[Outputs], examples: Examples, report: Report) -> None:
    if examples.task.labels is None:
        _miss(report, "the task has scores, not classes", "confusions")
    else:
        report.confusions += [confusion(each, examples) for each in models]


def _how_many(examples: Examples) -> str:
    count = len(examples.numbers)
    return (
        f"all {count:,} of the validation split"
        if count == examples.whole
        else f"{count:,} of the {examples.whole:,} of the validation split (a fixed random subset)"
    )


def _run(
    run: RunFiles,
    path: str | Path | None,
    name: str,
    examples: Examples,
    poolings: tuple[Pooling, ...],
    report: Report,
) -> Outputs | None:
    if path is None:
        report.missing.append((name, "the run does not name it"))
        return None
    length = run.section("data").get("max_length")
    try:
        found = run.find(path) if isinstance(path, str) else path
        return run_model(found or path, name, examples, length if isinstance(length, int) else 128, poolings)
    except (CodirError, OSError, ValueError) as error:
        report.missing.append((name, f"it cannot be run: {error}"))
        return None


def _poolings(run: RunFiles) -> dict[str, Pooling]:
    """Returns how each contrastive objective of the run pools, by its name."""
    return {
        name: cast(Pooling, pooling)
        for name, settings in run.section("objectives").items()
        if (pooling := mapping(settings).get("pooling")) in ("mean", "cls")
    }


def _add_similarity(
    teacher: Outputs | None, student: Outputs | None, plain: Outputs | None, report: Report
) -> None:
    if teacher is None or student is None:
        _miss(report, "it takes the teacher and the student", "similarity")
        return
    if not (teacher.pooled and student.pooled):
        _miss(report, f"the {'student' if teacher.pooled else 'teacher'} {_NO_LAYERS}", "similarity")
        return
    try:
        report.similarities += [similarity(each, teacher) for each in (student, plain) if each is not None]
    except ValueError as error:
        _miss(report, str(error), "similarity")


def _add_disagreements(
    teacher: Outputs | None, student: Outputs | None, examples: Examples, report: Report
) -> None:
    if teacher is None or student is None:
        _miss(report, "it takes the teacher and the student", "disagreements")
        return
    report.disagreements, report.disagreements_total = disagreements(teacher, student, examples, _MOST_LISTED)


def _add_clouds(
    run: RunFiles,
    teacher: Outputs | None,
    student: Outputs | None,
    examples: Examples,
    poolings: dict[str, Pooling],
    report: Report,
) -> None:
    reason = _shared(run, teacher, student, examples, poolings, report)
    if reason is None:
        return
    _miss(report, f"{reason}; each model's own last block is shown instead", "the contrast's shared space")
    try:
        report.clouds += [
            own_plane(each, examples) for each in (teacher, student) if each is not None and each.pooled
        ]
    except ValueError as error:
        _miss(report, str(error), "representations")


def _shared(
    run: RunFiles,
    teacher: Outputs | None,
    student: Outputs | None,
    examples: Examples,
    poolings: dict[str, Pooling],
    report: Report,
) -> str | None:
    """Adds the spaces that contrastive objectives share; returns why there is none, or None."""
    path = run.path / CONTRAST_FILE
    if not path.is_file():
        contrastive = [name for name in run.section("objectives") if name.startswith("crd")]
        return (
            f"{path.name} is not there: the run is of an older codir, or unfinished"
            if contrastive
            else "the run has no contrastive objective"
        )
    if teacher is None or student is None:
        return "it takes the teacher and the student"
    try:
        for contrast in read_contrasts(path, poolings):
            report.clouds.append(shared_plane(contrast, teacher, student, examples))
    except (CodirError, ValueError, IndexError) as error:
        return str(error)
    return None if report.clouds else f"{path.name} holds no projections"


def _miss(report: Report, why: str, *parts: str) -> None:
    report.missing += [(part, why) for part in parts]
