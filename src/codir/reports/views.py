"""What needs models and data: similarity of layers, representations in a plane, answers; each may fail by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.special import softmax
from sklearn.metrics import confusion_matrix

from codir.errors import CodirError, RunError
from codir.kinds import kind_named
from codir.manifest import require_results
from codir.models.representations import Pooling
from codir.reports.figures import SERIES, Figure, Trace, axis, dots, floats, margin, named, series, squares
from codir.reports.files import RunFiles
from codir.reports.outputs import Examples, Outputs, linear_cka, load_examples, run_model
from codir.reports.text import capital, clean, for_hover, for_plotly, plural, share, shortened
from codir.reports.values import Disagreement, Report, Wanted

SIMILARITY, CLOUDS, CONFUSIONS, DISAGREEMENTS = "similarity", "representations", "confusions", "disagreements"
OTHERS = "other classes"
_SPACE = "the contrast's shared space"
_NO_LAYERS = "has no layers of one encoder that could be compared"
_GL_FROM = 3000  # from so many points WebGL draws them: SVG would be slow
_SHAPES = ("circle", "triangle-up", "cross-thin")
_APART = 0.5  # scores further apart than this many standard deviations of the labels count as a disagreement
_LISTED = 500
Cloud = tuple[str, np.ndarray, Sequence[str], Sequence[str]]  # name, [n, d], classes, texts


def add_views(run: RunFiles, students: Mapping[str, Path], wanted: Wanted, report: Report) -> Examples | None:
    """Runs the teacher (if the run has one) and students over validation examples and adds what comes of it.

    Args:
        students: folders by name, the main one first.
        report: gets the figures, or why there are none.

    Returns:
        The examples; None if there are none.
    """
    alone, of_two = run.command == "finetune", (SIMILARITY, DISAGREEMENTS)
    parts = (CLOUDS, CONFUSIONS) if alone else (*of_two, CLOUDS, CONFUSIONS)
    if alone:
        report.miss("it compares a student with its teacher, and this model has none", *of_two)
    folder = next(iter(students.values()))
    if not wanted.examples:
        report.miss("models were not to be run (--no-models)", *parts)
        return None
    if not (folder / "config.json").is_file():
        report.miss(f"{folder} holds no model yet", *parts)
        return None
    try:
        examples = load_examples(run, folder, wanted.examples, wanted.data_dir)
    except (CodirError, OSError) as error:
        report.miss(f"the validation data cannot be read: {error}", *parts)
        return None
    count, whole = len(examples.numbers), examples.whole
    of_all = f"{count:,} of the {whole:,} of the validation split (a fixed random subset)"
    words = f"all {count:,} of the validation split" if count == whole else of_all
    report.facts.append(("examples that the models were run over", words))
    poolings = {name: each.get("pooling") or "mean" for name, each in run.section("objectives").items()}
    wanted_poolings = cast(list[Pooling], list(dict.fromkeys(["mean", *poolings.values()])))
    paths: dict[str, Any] = {} if alone else {"teacher": run.config.get("teacher")}
    models: dict[str, Outputs] = {}
    for name, path in (paths | dict(students)).items():
        if path is None:
            report.miss("the run does not name it", name)
            continue
        try:
            limit = run.section("data").get("max_length") or 128
            models[name] = run_model(run.find(path) or path, name, examples, limit, wanted_poolings)
        except (CodirError, OSError, ValueError) as error:
            report.miss(f"it cannot be run: {error}", name)
    kind, classes = kind_named(examples.task.kind), examples.task.labels or ()
    if not kind.has_classes:
        report.miss("the task has scores, not classes", CONFUSIONS)
    for number, (name, model) in enumerate(models.items() if kind.has_classes else ()):
        answers = kind.answers(model.logits)
        counts = confusion_matrix(examples.labels, answers, labels=range(len(classes)))
        report.confusions.append(confusion_figure(name, classes, counts, number))
    teacher, student = models.get("teacher"), models.get(next(iter(students)))
    why: str | None = "it takes the teacher and the student"
    if teacher is not None and student is not None:
        report.disagreements, report.disagreements_total = disagreements(teacher, student, examples)
        _add_similarities(teacher, [each for each in models.values() if each is not teacher], report)
        why = _add_contrasts(run, teacher, student, examples, poolings, report)
    elif not alone:
        report.miss(why or "", *of_two)
    if why is not None:
        if not alone:
            report.miss(f"{why}; each model's own last layer is shown instead", _SPACE)
        for model in filter(None, (teacher, student)):
            if not model.pooled:
                report.miss(f"{model.name} {_NO_LAYERS}", CLOUDS)
                continue
            cloud = model.name, model.pooled["mean"][:, -1], examples.classes, _texts(examples)
            space = f"the last layer of the {model.name} (mean pooling)"
            report.clouds.append(cloud_figure(space, [cloud], "", len(report.clouds)))
    return examples


# ---- answers ---------------------------------------------------------------------------------------------------------


def confusion_figure(name: str, labels: Any, counts: np.ndarray, number: int) -> Figure:
    """Returns the counts of one model and their shares of the true class, coloured by the share."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    classes, names = len(labels), [for_plotly(each, 60) for each in labels]
    few, places = classes <= 8, list(range(classes))
    ticks = {"tickvals": places, "ticktext": [for_plotly(each, 18 if few else 12) for each in labels]}
    texts: list[list[str]] = [[] for _ in names]
    hover: list[list[str]] = [[] for _ in names]
    for (row, column), n in np.ndenumerate(counts):
        part = 100 * shares[row, column]
        texts[row].append(f"{n}<br>{part:.0f} %" if few else str(n) if n else "")
        hover[row].append(f"true {names[row]}, answered {names[column]}: {n} ({part:.1f} %)")
    total, right = int(counts.sum()), int(np.trace(counts))
    takeaway = f"{right} of {total} right ({share(right / max(total, 1))})."
    off = shares - np.diag(np.diag(shares))
    row, column = np.unravel_index(int(off.argmax()), off.shape)
    if off[row, column]:
        true, said = shortened(labels[int(row)], 40), shortened(labels[int(column)], 40)
        mistake = f"{share(float(off[row, column]))} of {true} are taken for {said}"
        takeaway = f"{takeaway[:-1]}; the most frequent mistake of a class: {mistake}."
    small = {"tickfont": {"size": 11 if few else 9}}
    return Figure(
        name=f"confusion-{number}",
        title=capital(shortened(name, 40)),
        takeaway=takeaway,
        data=squares(100 * shares, (0, 100), places, places, texts, hovertext=hover, hoverinfo="text"),
        layout={
            "xaxis": axis("answered", **ticks, showgrid=False, tickangle=0 if classes < 5 else -40),
            "yaxis": axis("true class", **ticks, showgrid=False, autorange="reversed"),
            "margin": margin(),
        },
        narrow={"xaxis": small, "yaxis": small},
        height=100 + (72 * classes if classes <= 5 else max(300, min(15 * classes + 60, 520))),
        wide=False,
    )


def disagreements(teacher: Outputs, student: Outputs, examples: Examples) -> tuple[list[Disagreement], int]:
    """Lists the examples that teacher and student answer differently, worst first, and says how many there are.

    Classes: the predictions differ; the order is by what the student loses of the true class's probability. Scores:
    they lie more than half a standard deviation of the labels apart; the order is by how much further from the truth
    the student is.
    """
    kind = kind_named(examples.task.kind)
    truth, theirs, ours = examples.labels, kind.answers(teacher.logits), kind.answers(student.logits)
    theirs_sure = ours_sure = np.empty((0, 0))
    if kind.has_classes:
        rows, truth = np.arange(len(truth)), truth.astype(np.int64)
        theirs_sure, ours_sure = (softmax(each.logits.astype(float), axis=1) for each in (teacher, student))
        badness = theirs_sure[rows, truth] - ours_sure[rows, truth]
        differ = theirs != ours
    else:
        badness = np.abs(ours - truth) - np.abs(theirs - truth)
        differ = np.abs(theirs - ours) > _APART * truth.astype(np.float64).std()
    order = np.flatnonzero(differ)[np.argsort(-badness[differ], kind="stable")]
    names = [shortened(name, 120) for name in examples.task.labels or ()]
    found = []
    for row in order[:_LISTED].tolist():
        sure: tuple[float | None, float | None] = None, None
        how = "far apart"
        if kind.has_classes:
            label, said, answer = (names[int(each[row])] for each in (truth, theirs, ours))
            sure = float(theirs_sure[row].max()), float(ours_sure[row].max())
            how = "lost" if label == said else "won" if label == answer else "both wrong"
        else:
            label, said, answer = f"{truth[row]:.3g}", f"{theirs[row]:.2f}", f"{ours[row]:.2f}"
        text, pair = examples.texts[row]
        number, bad = int(examples.numbers[row]), float(badness[row])
        found.append(Disagreement(number, text, pair, label, said, answer, *sure, kind=how, badness=bad))
    return found, len(order)


# ---- similarity ------------------------------------------------------------------------------------------------------


def _add_similarities(teacher: Outputs, students: Sequence[Outputs], report: Report) -> None:
    blind = [side for side, each in (("teacher", teacher), ("student", students[0])) if not each.pooled]
    if blind:
        report.miss(f"the {blind[0]} {_NO_LAYERS}", SIMILARITY)
        return
    theirs = torch.from_numpy(teacher.pooled["mean"])
    found = [(s.name, linear_cka(torch.from_numpy(s.pooled["mean"]), theirs).numpy()) for s in students]
    # all share one colour scale: one is the top, the bottom a round tenth
    report.ramp = min(0.9, float(np.floor(10 * min(values.min() for _, values in found)) / 10)), 1.0
    report.similarities = [
        similarity_figure(name, values, report.ramp, len(theirs), number) for number, (name, values) in enumerate(found)
    ]


def similarity_figure(
    student: str, values: np.ndarray, ends: tuple[float, float], examples: int, number: int
) -> Figure:
    """Returns the CKA of a student's layers (rows) with the teacher's; each row's highest value is bold."""
    best = values.argmax(axis=1)
    texts = [[f"{value:.2f}" if value < row.max() else f"<b>{value:.2f}</b>" for value in row] for row in values]
    across, down = ([str(place + 1) for place in range(n)] for n in reversed(values.shape))
    hover = "student layer %{y}, teacher layer %{x}: %{z:.3f}<extra></extra>"
    ticks = {"type": "category", "showgrid": False}
    name = shortened(student, 30)
    return Figure(
        name=f"similarity-{number}",
        title=capital(f"{name} and teacher"),
        takeaway=f"The last layer of {name} is most like the teacher's layer {best[-1] + 1} "
        f"({values[-1].max():.2f}); the highest value of each row is {values.max(axis=1).mean():.2f} on average. "
        f"{examples} examples, mean pooling.",
        data=squares(values, ends, across, down, texts, hovertemplate=hover),
        layout={
            "xaxis": axis("layer of teacher", **ticks),
            "yaxis": axis(f"layer of {for_plotly(student, 30)}", **ticks, autorange="reversed"),
            "margin": margin(),
        },
        narrow={"font": {"size": 10}, "margin": margin(40, 4, 8, 44)},
        height=110 + min(44, max(22, 480 // len(down))) * len(down),
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
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = run.path / "contrast.safetensors"
    if not path.is_file():
        contrasts = any(name.startswith("crd") for name in run.section("objectives"))
        return f"{path.name} is not there" if contrasts else "the run has no contrastive objective"
    try:
        require_results(path.parent, path.name)
        tensors = load_file(path)
        for name in sorted({key.partition("/")[0] for key in tensors if key.endswith("/teacher.weight")}):
            sides: list[Cloud] = []
            for which, model in (("teacher", teacher), ("student", student)):
                pooled = model.pooled[cast(Pooling, poolings.get(name, "mean"))]
                points = _projected(tensors, f"{name}/{which}", pooled)
                sides.append((which, points, examples.classes, _texts(examples)))
            rows, ids = tensors.get(f"{name}/rows"), tensors.get(f"{name}/labels")
            if rows is not None and len(rows):
                labels = [] if ids is None or not examples.classes else [int(number) for number in ids]
                sides.append(("bank", rows, [student.names.get(n, str(n)) for n in labels], []))
            many = sides[0][1].shape[1]
            about = f"This is the space that the objective {name} contrasts in, of {many} dimensions."
            figure = cloud_figure(f"the contrast's space: {name}", sides, about, len(report.clouds))
            report.clouds.append(figure)
    except RunError as error:
        return str(error)
    except (OSError, SafetensorError, ValueError, IndexError, KeyError) as error:
        return f"{path} is damaged, or of other models: {error}"
    return None if report.clouds else f"{path.name} holds no projections"


def _projected(tensors: Mapping[str, np.ndarray], side: str, pooled: np.ndarray) -> np.ndarray:
    """Maps [n, layers, d] into a contrast's space: the chosen layers, a linear map, length one; [n, m]."""
    weight, bias, layers = (tensors[f"{side}.{part}"] for part in ("weight", "bias", "layers"))
    chosen = pooled[:, layers - 1].reshape(len(pooled), -1)
    mapped = chosen.astype(np.float64) @ weight.T.astype(np.float64) + bias
    return mapped / np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)


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
    # the most frequent classes, in the order of their names, and one for all others where there are more
    names, counts = np.unique([label for cloud in clouds for label in cloud[2]], return_counts=True)
    classes = names.tolist()
    if len(names) > SERIES:
        most = names[np.argsort(-counts, kind="stable")[: SERIES - 1]]
        classes = [*sorted(most.tolist()), OTHERS]
    colours = [named("s0") if name == OTHERS else series(place) for place, name in enumerate(classes)]
    data: list[Trace] = []
    for place in reversed(range(len(clouds))):  # the bank lies below
        name, _, labels, texts = clouds[place]
        where = {label: group for group, label in enumerate(classes)}
        groups = np.array(
            [where.get(label, len(classes) - 1) for label in labels] or [len(classes)] * len(planes[place])
        )
        for group in np.unique(groups).tolist():
            rows = np.flatnonzero(groups == group)
            x, y = floats(planes[place][rows]).T
            title = " · ".join(for_plotly(part) for part in (name, *classes[group : group + 1]))
            colour = [*colours, named("s0") if classes else series(place)][group]
            bank = _SHAPES[place].endswith("-thin")
            rim = {"width": 1 if bank else 0.6, "color": colour if bank else named("paper")}
            marker = {"color": colour, "symbol": _SHAPES[place], "size": 5 if bank else 8, "line": rim}
            marker["opacity"] = 0.55 if bank else 0.8
            trace = dots(x, y, marker, name=title, meta=[place, group])
            trace["hovertemplate"] = "<b>%{fullData.name}</b><br>%{text}<extra></extra>"
            trace["text"] = [for_hover(texts[row], 120) for row in rows.tolist()] if len(texts) else [""] * len(rows)
            data.append(trace | ({"type": "scattergl"} if len(every) > _GL_FROM else {}))
    many = ", ".join(f"{clean(name)}: {plural(len(points), 'point')}" for name, points, _, _ in clouds)
    frame: dict[str, Any] = {"showticklabels": False, "showgrid": False, "showline": True, "mirror": True}
    frame |= {"linecolor": named("rule")}
    about = f"{clean(about)} PCA: the two components hold {share(first)} and {share(second)} of the variance."
    return Figure(
        name=f"clouds-{number}",
        title=capital(clean(space)),
        takeaway=f"{about.lstrip()} {capital(many)}.",
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
