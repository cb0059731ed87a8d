"""What needs models and data: similarity of layers, representations in a plane, answers; each may fail by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from codir.errors import CodirError, RunError
from codir.manifest import require_results
from codir.models.representations import Pooling
from codir.reports.answers import confusion, confusion_figure, disagreements
from codir.reports.cka import linear_cka
from codir.reports.figures import SERIES, Figure, Trace, axis, dots, floats, margin, named, series, squares
from codir.reports.files import RunFiles, mapping
from codir.reports.outputs import Examples, Outputs, load_examples, run_model
from codir.reports.text import capital, clean, for_hover, for_plotly, plural, share, shortened
from codir.reports.values import Report

SIMILARITY, CLOUDS, CONFUSIONS, DISAGREEMENTS = "similarity", "representations", "confusions", "disagreements"
OTHERS = "other classes"
_SPACE = "the contrast's shared space"
_NO_LAYERS = "has no layers of one encoder that could be compared"
_GL_FROM = 3000  # from so many points WebGL draws them: SVG would be slow
_SHAPES = ("circle", "triangle-up", "cross-thin")
Cloud = tuple[str, np.ndarray, Sequence[str], Sequence[str]]  # name, [n, d], classes, texts


def add_views(
    run: RunFiles, students: Mapping[str, Path], many: int, data_dir: Path | None, report: Report
) -> Examples | None:
    """Runs the teacher (if the run has one) and students over validation examples and adds what comes of it.

    Args:
        students: folders by name, the main one first.
        many: how many examples at most; 0 runs nothing.
        report: gets the figures, or why there are none.

    Returns:
        The examples; None if there are none.
    """
    alone = run.command == "finetune"
    parts = [CLOUDS, CONFUSIONS] if alone else [SIMILARITY, DISAGREEMENTS, CLOUDS, CONFUSIONS]
    if alone:
        why = "it compares a student with its teacher, and this model has none"
        report.miss(why, SIMILARITY, DISAGREEMENTS)
    folder = next(iter(students.values()))
    if not many:
        report.miss("models were not to be run (--no-models)", *parts)
        return None
    if not (folder / "config.json").is_file():
        report.miss(f"{folder} holds no model yet", *parts)
        return None
    try:
        examples = load_examples(run, folder, many, data_dir)
    except (CodirError, OSError) as error:
        report.miss(f"the validation data cannot be read: {error}", *parts)
        return None
    count, whole = len(examples.numbers), examples.whole
    of_all = f"{count:,} of the {whole:,} of the validation split (a fixed random subset)"
    words = f"all {count:,} of the validation split" if count == whole else of_all
    report.facts.append(("examples that the models were run over", words))
    settings = run.section("objectives").items()
    poolings = {name: mapping(each).get("pooling", "mean") for name, each in settings}
    poolings = {name: how for name, how in poolings.items() if how in ("mean", "cls")}
    wanted = cast(list[Pooling], list(dict.fromkeys(["mean", *poolings.values()])))  # similarity is of means
    paths: dict[str, Any] = {"teacher": run.config.get("teacher"), **students} if not alone else {**students}
    models = {name: _run(run, path, name, examples, wanted, report) for name, path in paths.items()}
    there = [model for model in models.values() if model is not None]
    if examples.task.labels is None:
        report.miss("the task has scores, not classes", CONFUSIONS)
    else:
        labels = examples.task.labels
        counts = [(model.name, confusion(model, examples)) for model in there]
        report.confusions = [confusion_figure(name, labels, each, n) for n, (name, each) in enumerate(counts)]
    if alone:
        _add_planes(there, examples, report)
        return examples
    teacher, student = models["teacher"], models[next(iter(students))]
    if teacher is None or student is None:
        report.miss("it takes the teacher and the student", SIMILARITY, DISAGREEMENTS)
        why = "it takes the teacher and the student"
    else:
        report.disagreements, report.disagreements_total = disagreements(teacher, student, examples)
        _add_similarities(teacher, [model for model in there if model is not teacher], report)
        why = _add_contrasts(run, teacher, student, examples, poolings, report)
    if why is not None:
        report.miss(f"{why}; each model's own last layer is shown instead", _SPACE)
        _add_planes([each for each in (teacher, student) if each is not None], examples, report)
    return examples


def _run(
    run: RunFiles, path: Any, name: str, examples: Examples, poolings: Sequence[Pooling], report: Report
) -> Outputs | None:
    if path is None:
        report.miss("the run does not name it", name)
        return None
    length = run.section("data").get("max_length")
    try:
        found = run.find(path) or path
        return run_model(found, name, examples, length if isinstance(length, int) else 128, poolings)
    except (CodirError, OSError, ValueError) as error:
        report.miss(f"it cannot be run: {error}", name)
        return None


# ---- similarity ------------------------------------------------------------------------------------------------------


def _add_similarities(teacher: Outputs, students: Sequence[Outputs], report: Report) -> None:
    blind = next(
        (name for each, name in ((teacher, "teacher"), (students[0], "student")) if not each.pooled), ""
    )
    if blind:
        report.miss(f"the {blind} {_NO_LAYERS}", SIMILARITY)
        return
    try:
        theirs = torch.from_numpy(teacher.pooled["mean"])
        found = [
            (each.name, linear_cka(torch.from_numpy(each.pooled["mean"]), theirs).numpy())
            for each in students
        ]
    except ValueError as error:
        report.miss(str(error), SIMILARITY)
        return
    # all share one colour scale: one is the top, the bottom a round tenth
    report.ramp = min(0.9, float(np.floor(10 * min(values.min() for _, values in found)) / 10)), 1.0
    report.similarities = [
        similarity_figure(name, values, report.ramp, len(theirs), number)
        for number, (name, values) in enumerate(found)
    ]


def similarity_figure(
    student: str, values: np.ndarray, ends: tuple[float, float], examples: int, number: int
) -> Figure:
    """Returns the CKA of a student's layers (rows) with the teacher's; each row's highest value is bold."""
    best = values.argmax(axis=1)
    texts = [[f"{value:.2f}" for value in row] for row in values]
    for row, column in enumerate(best):
        texts[row][column] = f"<b>{texts[row][column]}</b>"
    across, down = ([str(place + 1) for place in range(n)] for n in reversed(values.shape))
    hover = "student layer %{y}, teacher layer %{x}: %{z:.3f}<extra></extra>"
    height = 110 + min(44, max(22, 480 // len(down))) * len(down)
    ticks = {"type": "category", "showgrid": False}
    name = shortened(student, 30)
    takeaway = (
        f"The last layer of {name} is most like the teacher's layer {best[-1] + 1} ({values[-1].max():.2f}); the "
        f"highest value of each row is {values.max(axis=1).mean():.2f} on average. {examples} examples, mean pooling."
    )
    return Figure(
        name=f"similarity-{number}",
        title=capital(f"{name} and teacher"),
        takeaway=takeaway,
        data=squares(values, ends, across, down, texts, hovertemplate=hover),
        layout={
            "xaxis": axis("layer of teacher", **ticks),
            "yaxis": axis(f"layer of {for_plotly(student, 30)}", **ticks, autorange="reversed"),
            "margin": margin(),
        },
        narrow={"font": {"size": 10}, "margin": margin(40, 4, 8, 44)},
        height=height,
        narrow_height=height,
        wide=False,
    )


# ---- representations in a plane --------------------------------------------------------------------------------------


def _add_contrasts(
    run: RunFiles,
    teacher: Outputs,
    student: Outputs,
    examples: Examples,
    poolings: Mapping[str, Any],
    report: Report,
) -> str | None:
    """Adds the spaces that contrastive objectives compare in; returns why there is none, or None."""
    path = run.path / "contrast.safetensors"
    if not path.is_file():
        if any(name.startswith("crd") for name in run.section("objectives")):
            return f"{path.name} is not there: the run is of an older codir, or unfinished"
        return "the run has no contrastive objective"
    try:
        tensors = _read(path)
        for name in sorted({key.partition("/")[0] for key in tensors if key.endswith("/teacher.weight")}):
            pooling = cast(Pooling, poolings.get(name, "mean"))
            sides: list[Cloud] = []
            for which, model in (("teacher", teacher), ("student", student)):
                points = _projected(tensors, f"{name}/{which}", model.pooled[pooling])
                sides.append((which, points, examples.classes, _texts(examples)))
            rows, ids = tensors.get(f"{name}/rows"), tensors.get(f"{name}/labels")
            if rows is not None and len(rows):
                labels = [] if ids is None or not examples.classes else [int(number) for number in ids]
                sides.append(("bank", rows, [student.names.get(n, str(n)) for n in labels], []))
            dimensions = sides[0][1].shape[1]
            about = f"This is the space that the objective {name} contrasts in, of {dimensions} dimensions."
            report.clouds.append(
                cloud_figure(f"the contrast's space: {name}", sides, about, len(report.clouds))
            )
    except (CodirError, ValueError, IndexError, KeyError) as error:
        return str(error)
    return None if report.clouds else f"{path.name} holds no projections"


def _read(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    require_results(path.parent, path.name)
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def _projected(tensors: Mapping[str, np.ndarray], side: str, pooled: np.ndarray) -> np.ndarray:
    """Maps [n, layers, d] into a contrast's space: the chosen layers, a linear map, length one; [n, m]."""
    weight, bias, layers = (tensors[f"{side}.{part}"] for part in ("weight", "bias", "layers"))
    chosen = pooled[:, layers - 1].reshape(len(pooled), -1)
    if chosen.shape[1] != weight.shape[1]:
        raise ValueError(f"{chosen.shape[1]} numbers do not fit a projection of {weight.shape[1]}")
    mapped = chosen.astype(np.float64) @ weight.T.astype(np.float64) + bias
    return mapped / np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)


def _add_planes(models: Sequence[Outputs], examples: Examples, report: Report) -> None:
    """Adds the pooled output of each model's last layer, in its own plane."""
    for model in models:
        if not model.pooled:
            report.miss(f"{model.name} {_NO_LAYERS}", CLOUDS)
            continue
        cloud = model.name, model.pooled["mean"][:, -1], examples.classes, _texts(examples)
        space = f"the last layer of the {model.name} (mean pooling)"
        report.clouds.append(cloud_figure(space, [cloud], "", len(report.clouds)))


def _texts(examples: Examples) -> list[str]:
    return [first if second is None else f"{first} | {second}" for first, second in examples.texts]


def cloud_figure(space: str, clouds: Sequence[Cloud], about: str, number: int) -> Figure:
    """Returns point clouds in the plane of their two joint principal components: clouds by shape, classes by colour.

    A trace's `meta` says [cloud, class] by their places in the switches. Points of a cloud without classes, beside
    clouds that have some, are grey and belong to no class.
    """
    from sklearn.decomposition import PCA

    every = np.concatenate([points.astype(np.float64) for _, points, _, _ in clouds])
    # exact and the same every time, signs too
    pca = PCA(n_components=min(2, *every.shape), svd_solver="full").fit(every)
    plane = np.zeros((len(every), 2))
    plane[:, : pca.n_components_] = pca.transform(every)
    first, second = [*np.nan_to_num(pca.explained_variance_ratio_), 0.0][:2]
    planes = np.split(plane, np.cumsum([len(points) for _, points, _, _ in clouds])[:-1])
    classes = _classes(clouds)
    colours = [named("s0") if name == OTHERS else series(place) for place, name in enumerate(classes)]
    data: list[Trace] = []
    numbers = {name: number for number, name in enumerate(classes)}
    for place in reversed(range(len(clouds))):  # the bank lies below
        name, _, labels, texts = clouds[place]
        groups = [numbers.get(label, len(classes) - 1) for label in labels] or [len(classes)] * len(
            planes[place]
        )
        looks = [*colours, named("s0") if classes else series(place)]
        for group in sorted(set(groups)):
            rows = [row for row, each in enumerate(groups) if each == group]
            x, y = floats(planes[place][rows]).T
            title = " · ".join(for_plotly(part) for part in (name, *classes[group : group + 1]))
            trace = dots(x, y, _marker(place, looks[group]), name=title, meta=[place, group])
            trace["hovertemplate"] = "<b>%{fullData.name}</b><br>%{text}<extra></extra>"
            trace["text"] = [for_hover(texts[row], 120) for row in rows] if len(texts) else [""] * len(rows)
            data.append(trace | ({"type": "scattergl"} if len(every) > _GL_FROM else {}))
    many = ", ".join(f"{clean(name)}: {plural(len(points), 'point')}" for name, points, _, _ in clouds)
    frame = {
        "showticklabels": False,
        "showgrid": False,
        "showline": True,
        "mirror": True,
        "linecolor": named("rule"),
    }
    return Figure(
        name=f"clouds-{number}",
        title=capital(clean(space)),
        takeaway=f"{clean(about)} ".lstrip()
        + f"PCA: the two components hold {share(first)} and {share(second)} of the variance. {capital(many)}.",
        data=data,
        layout={
            "xaxis": axis(f"component 1 ({share(first)} of the variance)", **frame),
            "yaxis": axis(f"component 2 ({share(second)})", **frame, scaleanchor="x"),
            "margin": margin(32, 8, 8, 36),
            "dragmode": "pan",
        },
        height=470,
        narrow_height=360,
        wide=False,
        switches=(
            [(clean(cloud[0]), shape) for cloud, shape in zip(clouds, _SHAPES, strict=False)],
            [(clean(name), colour) for name, colour in zip(classes, colours, strict=True)],
        ),
    )


def _marker(place: int, colour: str) -> dict[str, Any]:
    bank = _SHAPES[place].endswith("-thin")
    rim = {"width": 1 if bank else 0.6, "color": colour if bank else named("paper")}
    return {
        "color": colour,
        "symbol": _SHAPES[place],
        "size": 5 if bank else 8,
        "opacity": 0.55 if bank else 0.8,
        "line": rim,
    }


def _classes(clouds: Sequence[Cloud]) -> list[str]:
    """Returns the most frequent classes, in the order of their names, and one for all others where there are more."""
    names, counts = np.unique([label for cloud in clouds for label in cloud[2]], return_counts=True)
    if len(names) <= SERIES:
        return names.tolist()
    return [*sorted(names[np.argsort(-counts, kind="stable")[: SERIES - 1]].tolist()), OTHERS]
