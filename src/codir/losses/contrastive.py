"""What the contrastive losses share: settings, checks, projections of chosen layers, sampler, bank, pending writes."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from codir.contrast.bank import Bank
from codir.contrast.negatives import (
    SAMPLERS,
    AnyOther,
    DifferentLabel,
    Hard,
    NegativeSampler,
    Sharing,
    neighbour_index,
)
from codir.errors import ConfigError, DataError, nearest
from codir.files import human_bytes
from codir.gather import gather_rows, processes
from codir.losses.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Step
from codir.models.layers import choose_layers
from codir.models.representations import EncoderShape, Pooling

SUMMARY_ROWS = 2000  # bank rows that are kept to be looked at
_FROM_A_BANK = 500  # K where it is `auto`, from the paper: one point of its grid


class ContrastiveSettings(ObjectiveSettings):
    """Settings that every contrastive loss has."""

    dim: int = Field(
        default=128, ge=1, description="m: length of the projected representations and of a bank row"
    )
    temperature: float = Field(default=0.07, gt=0.0, le=1e4, description="tau of the contrastive loss")
    momentum: float = Field(
        default=0.5, ge=0.0, lt=1.0, description="beta: how much of a bank row is kept (Eq. 5)"
    )
    pooling: Pooling = Field(default="mean", description="how a layer's tokens become one vector (Eq. 3)")
    teacher_layers: str | list[int] = Field(
        default="all", description="all, every-other, odd, or numbers counted from 1"
    )
    student_layers: str | list[int] = Field(default="all", description="as teacher_layers, for the student")
    negatives: str = Field(
        default="auto",
        description="auto (different-label for classes, any for scores, in-batch-bank for masked-lm), or a name",
    )
    k: int | Literal["all", "auto"] = Field(
        default="auto",
        description="K negatives for each example, or all admissible ones; auto: 500 drawn from a bank, all of a batch",
    )
    sharing: Sharing = Field(
        default="shared",
        description="one pool of negatives for the examples of a class, or independent draws",
    )
    candidates: int = Field(
        default=4, ge=1, le=10_000, description="hard negatives: candidates looked at for each one wanted"
    )
    max_similarity: float = Field(
        default=0.9, gt=-1.0, le=1.0, description="hard negatives: closer ones count as false negatives"
    )
    score_margin: float = Field(
        default=0.25,
        ge=0.0,
        le=100.0,
        description="hard negatives: scores closer than this many standard deviations too",
    )
    bank_storage: Literal["auto", "gpu", "cpu"] = Field(
        default="auto", description="where the bank lies; auto: with the training"
    )
    bank_dtype: Literal["float32", "float16"] = Field(
        default="float32", description="how the bank's rows are stored"
    )

    # What an older version had: the values that mean what is done now, and what to do instead of the others.
    _gone: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "contrast": ("concatenated", "all chosen layers are contrasted together, as in Eq. 3"),
        "matching": (
            "spread",
            "it chose the layers of contrast: blocks; use teacher_layers and student_layers",
        ),
        "bank_init": ("random", "rows start at random; negatives: in-batch needs no bank"),
        "queue_size": (4096, "use negatives: in-batch or in-batch-bank"),
        "learn_temperature": (False, "give temperature"),
        "temperature_rate": (100.0, "give temperature"),
    }

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_gone(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        for key, (was, instead) in cls._gone.items():
            if key in given and given[key] != was:
                raise ValueError(f"{key} is gone: {instead}")
        if given.get("negatives") == "queue":
            raise ValueError("negatives: queue is gone: use in-batch or in-batch-bank")
        if given.get("bank_storage") == "disk":
            raise ValueError(
                "bank_storage: disk is gone: use cpu, and bank_dtype: float16 for half the memory"
            )
        return {key: value for key, value in given.items() if key not in cls._gone}


def negatives_name(settings: ContrastiveSettings, context: ObjectiveContext) -> str:
    """Resolves `negatives: auto`."""
    if settings.negatives != "auto":
        return settings.negatives
    return context.kind.negatives


def number_of_negatives(settings: ContrastiveSettings, context: ObjectiveContext) -> int | Literal["all"]:
    """Resolves `k: auto`."""
    if settings.k != "auto":
        return settings.k
    return _FROM_A_BANK if negatives_name(settings, context) in SAMPLERS else "all"


def rows_drawn(settings: ObjectiveSettings) -> int:
    """Returns how many of a task's examples a draw from a bank takes, which must be there; 0 without such a draw."""
    if not isinstance(settings, ContrastiveSettings) or settings.negatives not in ("auto", *SAMPLERS):
        return 0
    return _FROM_A_BANK if settings.k == "auto" else 0 if settings.k == "all" else settings.k


def check_contrastive(
    name: str, settings: ContrastiveSettings, context: ObjectiveContext, sources: Collection[str] = ()
) -> None:
    """Raises `ConfigError` or `DataError` for settings that do not fit the models or the data.

    Args:
        name: the loss's name, for the messages.
        settings: to be checked.
        context: to be checked against.
        sources: names of negatives that the loss offers beside the samplers of bank rows.
    """
    assert context.teacher is not None, "checked before"
    for side, spec, shape in (
        ("teacher", settings.teacher_layers, context.teacher),
        ("student", settings.student_layers, context.student),
    ):
        try:
            choose_layers(spec, shape.layers)
        except ConfigError as error:
            raise ConfigError(f"{name}.{side}_layers: {error}") from None
    if settings.bank_storage == "gpu" and context.device.type == "cpu":
        raise ConfigError(f"{name}.bank_storage='gpu', and the training runs on a CPU: use auto or cpu.")
    negatives, k = negatives_name(settings, context), number_of_negatives(settings, context)
    if negatives not in (*SAMPLERS, *sources):
        if settings.negatives == "auto":
            raise ConfigError(
                f"The objective {name!r} has no negatives for the prediction of masked tokens, where examples have no "
                "labels: use the objective 'crd', or negatives: any."
            )
        raise ConfigError(
            f"{name}.negatives={negatives!r} is no sampler of negatives{nearest(negatives, (*SAMPLERS, *sources))}: "
            f"choose auto, {', '.join((*SAMPLERS, *sources))}."
        )
    if negatives == "different-label":
        _check_different_label(name, context)
    if negatives == "hard":
        _check_hard(name, k, context)
    _check_memory(name, settings, context, bank=negatives != "in-batch")
    # Of fewer than K in the mini-batch all are taken: K need not fit there.
    if k != "all" and (k < 1 or (negatives in SAMPLERS and k > context.examples)):
        raise ConfigError(
            f"{name}.k={k} does not fit N={context.examples} training examples: choose K between 1 and "
            f"{context.examples}, or take every admissible one: --set objectives.{name}.k=all"
        )
    if context.examples < 2:
        raise DataError(
            f"{context.examples} training example leaves no other one to be a negative: give more data."
        )


def _check_different_label(name: str, context: ObjectiveContext) -> None:
    if context.kind.per_token:
        raise ConfigError(
            f"{name}.negatives='different-label' needs classes, and there are no labels in a corpus: use "
            "in-batch-bank, in-batch or any."
        )
    if not context.kind.has_classes:
        raise ConfigError(
            f"{name}.negatives='different-label' needs classes, and these labels are scores: use negatives: any."
        )
    if context.labels is None:
        raise DataError(
            f"{name}.negatives='different-label' needs labels, and this data has none: use negatives: any."
        )
    classes = torch.unique(context.labels)
    if classes.numel() < 2:
        raise DataError(
            f"All {context.examples} training examples have the label {classes.tolist()}, so {name} finds no "
            "example of a different label to be a negative: use negatives: any."
        )


def _check_hard(name: str, k: int | Literal["all"], context: ObjectiveContext) -> None:
    if context.kind.per_token:
        raise ConfigError(
            f"{name}.negatives='hard' looks for neighbours in the teacher's cache, and a pre-training has none: "
            "use in-batch-bank, whose blocks of one document are hard negatives."
        )
    if k == "all":
        raise ConfigError(
            f"{name}.k='all' takes every admissible row and leaves nothing to choose for hard negatives: "
            "give a number, or negatives: different-label."
        )
    if context.teacher_space is None:
        raise ConfigError(
            f"{name}.negatives='hard' looks for neighbours among the teacher's representations of all examples, "
            "which are only there with the teacher's cache: drop --no-cache, or choose different-label."
        )


def _check_memory(name: str, settings: ContrastiveSettings, context: ObjectiveContext, bank: bool) -> None:
    """Raises `ConfigError` where projections, their gradients and moments, and a bank in memory cannot fit into it."""
    assert context.teacher is not None, "checked before"
    inputs = sum(shape.layers * shape.width for shape in (context.teacher, context.student))
    taken = 4 * 4 * inputs * settings.dim
    if bank and (settings.bank_storage == "cpu" or context.device.type == "cpu"):
        taken += (4 if settings.bank_dtype == "float32" else 2) * context.examples * settings.dim
    if taken > (available := _available_memory()):
        raise ConfigError(
            f"{name}.dim={settings.dim} takes {human_bytes(taken)} of memory, and {human_bytes(available)} are "
            f"available: choose less, for example --set objectives.{name}.dim=128, or {name}.bank_dtype=float16."
        )


def _available_memory() -> int:
    """Bytes of memory that the machine can still give to each process on it; 8 GB where it does not say."""
    available = 8 * 10**9
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo", encoding="ascii") as file:
            available = 1024 * int(next(line.split()[1] for line in file if line.startswith("MemAvailable")))
    return available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def make_sampler(
    settings: ContrastiveSettings, context: ObjectiveContext, generator: torch.Generator
) -> NegativeSampler:
    """Builds the sampler of the settings, which have been checked."""
    name, sharing = negatives_name(settings, context), settings.sharing
    if context.labels is not None and context.kind.has_classes and name != "any":
        sampler: NegativeSampler = DifferentLabel(context.labels, sharing, generator)
    else:
        sampler = AnyOther(context.examples, sharing, generator)
    if name != "hard":
        return sampler
    assert context.teacher_space is not None, "checked before"
    index = neighbour_index(context.teacher_space(settings.pooling), seed=context.seed + 2)
    scores = None if context.kind.has_classes else context.labels
    return Hard(sampler, index, settings.candidates, settings.max_similarity, scores, settings.score_margin)


def make_bank(settings: ContrastiveSettings, context: ObjectiveContext) -> Bank:
    """Makes the bank of the settings: one row for each training example, unit vectors of random direction."""
    stays = settings.bank_storage == "cpu"
    return Bank(
        context.examples,
        settings.dim,
        settings.momentum,
        context.seed + 3,
        torch.device("cpu") if stays else context.device,
        torch.float16 if settings.bank_dtype == "float16" else torch.float32,
        stays=stays,
    )


class LayerProjection(nn.Module):
    """phi: chosen layers' pooled outputs, concatenated [B, chosen * d], mapped linearly to m, length one; fp32."""

    index: Tensor

    def __init__(self, spec: str | list[int], shape: EncoderShape, dim: int, seed: int):
        """Chooses the layers and draws the weights from `seed` alone."""
        super().__init__()
        self.layers = choose_layers(spec, shape.layers)
        self.total = shape.layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(len(self.layers) * shape.width, dim)
        self.register_buffer("index", torch.tensor(self.layers) - 1, persistent=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Maps [B, layers, d] (all layers, any type) to unit vectors [B, m] in fp32, also inside autocast."""
        with torch.autocast(self.linear.weight.device.type, enabled=False):
            pooled = pooled.to(self.linear.weight.device)
            if len(self.layers) < self.total:
                pooled = pooled.index_select(1, self.index)
            projected = functional.linear(
                pooled.flatten(1).float(), self.linear.weight.float(), self.linear.bias.float()
            )
            return functional.normalize(projected, dim=1)

    def summary(self, side: str) -> dict[str, Tensor]:
        """Weight [m, chosen * d], bias [m] and chosen layers, counted from 1, named `SIDE.weight` and so on."""
        return {
            f"{side}.weight": self.linear.weight.detach(),
            f"{side}.bias": self.linear.bias.detach(),
            f"{side}.layers": torch.tensor(self.layers),
        }

    def describe(self) -> str:
        """Names the chosen layers: `2, 4, 6 of 1..6, embeddings excluded`."""
        return f"{', '.join(map(str, self.layers))} of 1..{self.total}, embeddings excluded"


class ContrastiveLoss(Objective):
    """Base of the contrastive losses: two projections, and a generator whose state a checkpoint holds.

    Attributes:
        teacher_projection: maps the teacher's layers to unit vectors.
        student_projection: maps the student's.
    """

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        assert isinstance(settings, ContrastiveSettings)
        assert context.teacher is not None, "checked before"
        self._pooling: Pooling = settings.pooling
        self.teacher_projection = LayerProjection(
            settings.teacher_layers, context.teacher, settings.dim, context.seed
        )
        self.student_projection = LayerProjection(
            settings.student_layers, context.student, settings.dim, context.seed + 1
        )
        self.generator = torch.Generator(device=context.device).manual_seed(context.seed + 2)

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """One pooling of all layers."""
        assert isinstance(settings, ContrastiveSettings)
        return Needs(pooled=frozenset({settings.pooling}))

    def project(self, step: Step) -> tuple[Tensor, Tensor]:
        """Maps the pooled layers [B, layers, d] of teacher and student to unit vectors [B, m]."""
        if step.teacher is None:
            raise ConfigError(
                f"The objective {self.name!r} needs the teacher's layers, and this batch comes without them."
            )
        return (
            self.teacher_projection(step.teacher.pooled[self._pooling]),
            self.student_projection(step.student.pooled[self._pooling]),
        )

    def describe(self) -> list[str]:
        """The chosen layers."""
        return [
            f"{side} layers: {projection.describe()} ({self._pooling} pooling)"
            for side, projection in (
                ("teacher", self.teacher_projection),
                ("student", self.student_projection),
            )
        ]

    def keep(self, bank: Bank | None) -> dict[str, Tensor]:
        """Both projections, and at most `SUMMARY_ROWS` rows of the bank, drawn the same every time.

        Of the rows `ids` [R], `rows` [R, m] in fp32 and, where there are labels, `labels` [R].
        """
        kept = {**self.teacher_projection.summary("teacher"), **self.student_projection.summary("student")}
        if bank is None:
            return kept
        drawn = np.random.default_rng(0).choice(bank.size, min(bank.size, SUMMARY_ROWS), replace=False)
        ids, labels = torch.from_numpy(drawn).sort().values, self.context.labels
        kept |= {"ids": ids, "rows": bank.rows(ids).float()}
        return kept if labels is None else {**kept, "labels": labels.cpu()[ids]}

    def get_extra_state(self) -> Tensor:
        """The generator's state: what a checkpoint holds beside parameters and buffers."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Restores `get_extra_state()`; what was kept of an unfinished step is forgotten."""
        self.generator.set_state(state.cpu())
        self.after_step(stepped=False)


class PendingWrites:
    """Ids and embeddings of the micro-batches of one step, kept until the optimiser has stepped."""

    def __init__(self, dim: int, device: torch.device, embeddings: int = 1):
        """Takes the length of an embedding, and how many there are for each id."""
        self._dim, self._device, self._embeddings = dim, device, embeddings
        self._items: list[tuple[Tensor, ...]] = []

    def add(self, ids: Tensor, *embeddings: Tensor) -> None:
        """Queues ids [B] with their embeddings [B, m]."""
        self._items.append((ids.to(self._device), *(embedding.detach() for embedding in embeddings)))

    def take(self) -> tuple[Tensor, ...] | None:
        """Returns what all micro-batches of all processes have queued, and forgets it; None if there is nothing.

        In data-parallel training every process has to call it, and gets the same rows.
        """
        items, self._items = self._items, []
        if not items and processes() == 1:
            return None
        none = torch.zeros(0, dtype=torch.long, device=self._device)
        empty = (none, *(none.new_zeros(0, self._dim, dtype=torch.float32) for _ in range(self._embeddings)))
        gathered = gather_rows(*(torch.cat(column) for column in zip(*(items or [empty]), strict=True)))
        return gathered if gathered[0].numel() else None

    def clear(self) -> None:
        """Forgets what this process has queued."""
        self._items = []
