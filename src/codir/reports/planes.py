"""Representations of teacher, student and bank in two dimensions: principal components of the space they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codir.errors import RunError
from codir.manifest import require_results
from codir.models.representations import Pooling
from codir.reports.contents import Clouds, PointCloud
from codir.reports.outputs import Examples, Outputs

_SHOWN = 120  # characters of a text


@dataclass(frozen=True)
class Projection:
    """One side's map into the contrast's space: chosen blocks' pooled outputs, a linear map, length one.

    Attributes:
        weight: [m, chosen * d].
        bias: [m].
        blocks: [chosen] their numbers, counted from 1.
    """

    weight: np.ndarray
    bias: np.ndarray
    blocks: np.ndarray

    def __call__(self, pooled: np.ndarray) -> np.ndarray:
        """Maps [n, blocks, d] to unit vectors [n, m]."""
        chosen = pooled[:, self.blocks - 1].reshape(len(pooled), -1)
        if chosen.shape[1] != self.weight.shape[1]:
            raise ValueError(f"{chosen.shape[1]} numbers do not fit a projection of {self.weight.shape[1]}")
        mapped = chosen.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias
        return mapped / np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Contrast:
    """What is left of a contrastive objective after its training.

    Attributes:
        name: of the objective.
        pooling: how the blocks are pooled.
        teacher, student: the projections.
        rows: [R, m] of the bank; none where there is no bank.
        labels: [R] the student's class ids of the rows' examples; None if unlabelled or scores.
    """

    name: str
    pooling: Pooling
    teacher: Projection
    student: Projection
    rows: np.ndarray
    labels: np.ndarray | None


def read_contrasts(path: Path, poolings: dict[str, Pooling]) -> list[Contrast]:
    """Reads what a training left of its contrastive objectives.

    Args:
        path: the file.
        poolings: by objective.

    Raises:
        RunError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    require_results(path.parent, path.name)
    try:
        tensors = load_file(path)
        names = sorted({key.partition("/")[0] for key in tensors if key.endswith("/teacher.weight")})
        return [_contrast(name, tensors, poolings) for name in names]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"{path} is damaged: {error}") from error


def _contrast(name: str, tensors: dict[str, np.ndarray], poolings: dict[str, Pooling]) -> Contrast:
    def side(which: str) -> Projection:
        return Projection(*(tensors[f"{name}/{which}.{part}"] for part in ("weight", "bias", "blocks")))

    teacher = side("teacher")
    rows = tensors.get(f"{name}/rows", np.zeros((0, len(teacher.bias)), np.float32))
    labels = tensors.get(f"{name}/labels")
    pooling = poolings.get(name, "mean")
    return Contrast(name, pooling, teacher, side("student"), rows, labels)


def shared_plane(
    contrast: Contrast, teacher: Outputs, student: Outputs, examples: Examples, note: str = ""
) -> Clouds:
    """Returns teacher, student and bank in the plane of their joint two principal components.

    Args:
        contrast: projections and rows.
        teacher: its outputs.
        student: the student's.
        examples: of both.
        note: a sentence said of the space on top.

    Raises:
        ValueError: the projections do not fit the models.
    """
    points = [
        contrast.teacher(teacher.pooled[contrast.pooling]),
        contrast.student(student.pooled[contrast.pooling]),
        contrast.rows.astype(np.float64),
    ]
    labels = _labels(examples)
    names: Sequence[str] = ()
    if labels and contrast.labels is not None:
        known = student.classes
        names = [known.get(int(number), str(number)) for number in contrast.labels]
    sides = [
        ("teacher", labels, _texts(examples)),
        ("student", labels, _texts(examples)),
        ("bank", names, ()),
    ]
    planes, explained = _plane(points)
    clouds = [
        PointCloud(name, plane, label, text)
        for (name, label, text), plane in zip(sides, planes, strict=True)
        if len(plane)
    ]
    space = f"the contrast's space: {contrast.name}"
    dimensions = len(contrast.teacher.bias)
    about = f"This is the space that the objective {contrast.name} contrasts in, of {dimensions} dimensions."
    return Clouds(space, clouds, explained, f"{about} {note}".strip())


def own_plane(outputs: Outputs, examples: Examples, pooling: Pooling = "mean") -> Clouds:
    """Returns the pooled output of a model's last block in its own two principal components."""
    planes, explained = _plane([outputs.pooled[pooling][:, -1].astype(np.float64)])
    cloud = PointCloud(outputs.name, planes[0], _labels(examples), _texts(examples))
    return Clouds(f"the last block of the {outputs.name} ({pooling} pooling)", [cloud], explained)


def _plane(parts: Sequence[np.ndarray]) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Fits two principal components to all parts together, and gives each part's points [n, 2] in them."""
    from sklearn.decomposition import PCA

    points = np.concatenate(parts)
    count = min(2, *points.shape)
    # exact and the same every time, signs too
    pca = PCA(n_components=count, svd_solver="full").fit(points)
    mapped = np.zeros((len(points), 2))
    mapped[:, :count] = pca.transform(points)
    shares = [*np.nan_to_num(pca.explained_variance_ratio_), 0.0][:2]
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return np.split(mapped, ends), (float(shares[0]), float(shares[1]))


def _labels(examples: Examples) -> list[str]:
    names = examples.task.labels
    return [] if names is None else [names[int(label)] for label in examples.labels]


def _texts(examples: Examples) -> list[str]:
    return [_short(first if second is None else f"{first} | {second}") for first, second in examples.texts]


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _SHOWN else f"{one_line[: _SHOWN - 1]}…"
