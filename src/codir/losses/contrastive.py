"""What the contrastive losses share: settings, checks, projections of chosen layers, sampler, writes to banks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field
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
from codir.gather import align_generator, gather_rows, processes
from codir.losses.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Step
from codir.models.layers import choose_layers
from codir.models.representations import EncoderShape, Pooling

SUMMARY_ROWS = 2000  # bank rows that are kept to be looked at
_FROM_A_BANK = 500  # K where it is `auto`, from the paper: one point of its grid


class ContrastiveSettings(ObjectiveSettings):
    """Settings that every contrastive loss has."""

    dim: int = Field(default=128, ge=1, description="m: length of the projected representations and of a bank row")
    temperature: float = Field(default=0.07, gt=0.0, le=1e4, description="tau of the contrastive loss")
    momentum: float = Field(default=0.5, ge=0.0, lt=1.0, description="beta: how much of a bank row is kept (Eq. 5)")
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
    bank_dtype: Literal["float32", "float16"] = Field(default="float32", description="how the bank's rows are stored")


def negatives_of(settings: ContrastiveSettings, context: ObjectiveContext) -> tuple[str, int | Literal["all"]]:
    """Resolves `auto`: the name of the negatives, and K."""
    name = context.kind.negatives if settings.negatives == "auto" else settings.negatives
    if settings.k != "auto":
        return name, settings.k
    return name, _FROM_A_BANK if name in SAMPLERS else "all"


def rows_drawn(settings: ObjectiveSettings) -> int:
    """Returns how many of a task's examples a draw from a bank takes, which must be there; 0 without such a draw."""
    if not isinstance(settings, ContrastiveSettings) or settings.negatives not in ("auto", *SAMPLERS):
        return 0
    return _FROM_A_BANK if settings.k == "auto" else 0 if settings.k == "all" else settings.k


# ---- what does not fit ---------------------------------------------------------------------------------------------


def check_contrastive(
    name: str, settings: ContrastiveSettings, context: ObjectiveContext, sources: Sequence[str] = ()
) -> None:
    """Raises `ConfigError` or `DataError` for settings of the loss `name` that do not fit the models or the data.

    `sources` are the names of negatives that the loss offers beside the samplers of bank rows.
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
    negatives, k = negatives_of(settings, context)
    known = (*SAMPLERS, *sources)
    if negatives not in known:
        if settings.negatives == "auto":
            raise ConfigError(
                f"The objective {name!r} has no negatives for the prediction of masked tokens, where examples have no "
                "labels: use the objective 'crd', or negatives: any."
            )
        raise ConfigError(
            f"{name}.negatives={negatives!r} is no sampler of negatives{nearest(negatives, known)}: choose auto, "
            f"{', '.join(known)}."
        )
    if negatives in ("different-label", "hard"):
        _check_sampler(f"{name}.negatives={negatives!r}", negatives, k, context)
    _check_memory(name, settings, context, bank=negatives != "in-batch")
    # Of fewer than K in the mini-batch all are taken: K need not fit there.
    if k != "all" and (k < 1 or (negatives in SAMPLERS and k > context.examples)):
        raise ConfigError(
            f"{name}.k={k} does not fit N={context.examples} training examples: choose K between 1 and "
            f"{context.examples}, or take every admissible one: --set objectives.{name}.k=all"
        )
    if context.examples < 2:
        raise DataError(f"{context.examples} training example leaves no other one to be a negative: give more data.")


def _check_sampler(setting: str, negatives: str, k: int | Literal["all"], context: ObjectiveContext) -> None:
    """Raises for a sampler (`setting` in the messages) of classes or of neighbours that finds none."""
    if negatives == "hard":
        if context.kind.per_token:
            raise ConfigError(
                f"{setting} looks for neighbours in the teacher's cache, and a pre-training has none: use "
                "in-batch-bank, whose blocks of one document are hard negatives."
            )
        if k == "all":
            raise ConfigError(f"{setting} leaves nothing to choose with k='all': give a number, or different-label.")
        if context.teacher_space is None:
            raise ConfigError(
                f"{setting} looks for neighbours among the teacher's representations of all examples, which are only "
                "there with the teacher's cache: drop --no-cache, raise cache_tokens_gb, or choose different-label."
            )
    elif not context.kind.has_classes:
        why, others = "these labels are scores", "any"
        if context.kind.per_token:
            why, others = "there are no labels in a corpus", "in-batch-bank, in-batch or any"
        raise ConfigError(f"{setting} needs classes, and {why}: use negatives: {others}.")
    elif context.labels is None:
        raise DataError(f"{setting} needs labels, and this data has none: use negatives: any.")
    elif (context.labels == context.labels[0]).all():
        raise DataError(
            f"{setting} finds no example of a different label: all {context.examples} training examples have the "
            f"label {context.labels[0].item()}. Use negatives: any."
        )


def _check_memory(name: str, settings: ContrastiveSettings, context: ObjectiveContext, bank: bool) -> None:
    """Raises `ConfigError` where projections, their gradients and moments, and a bank in memory cannot fit into it."""
    assert context.teacher is not None, "checked before"
    inputs = sum(shape.layers * shape.width for shape in (context.teacher, context.student))
    taken = 4 * 4 * inputs * settings.dim
    if bank and (settings.bank_storage == "cpu" or context.device.type == "cpu"):
        taken += (4 if settings.bank_dtype == "float32" else 2) * context.examples * settings.dim
    available, machine = 8 * 10**9, Path("/proc/meminfo")  # 8 GB where the machine does not say
    if machine.exists():
        lines = machine.read_text(encoding="ascii").splitlines()
        available = 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable")))
    available //= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if taken > available:
        raise ConfigError(
            f"{name}.dim={settings.dim} takes {human_bytes(taken)} of memory, and {human_bytes(available)} are "
            f"available: choose less, for example --set objectives.{name}.dim=128, or {name}.bank_dtype=float16."
        )


# ---- what they are made of -----------------------------------------------------------------------------------------


def make_sampler(
    settings: ContrastiveSettings, context: ObjectiveContext, generator: torch.Generator
) -> NegativeSampler:
    """Builds the sampler of the settings, which have been checked."""
    (name, _), sharing = negatives_of(settings, context), settings.sharing
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


class ContrastiveLoss(Objective):
    """Base of the contrastive losses: two projections, banks, and a generator whose state a checkpoint holds.

    What a training batch gives `queue` is written into the `banks` once the optimiser has stepped.
    """

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        assert context.teacher is not None, "checked before"
        self.chosen = chosen = cast(ContrastiveSettings, settings)
        self.negatives: str
        self.k: int | Literal["all"]
        self.negatives, self.k = negatives_of(chosen, context)
        self.teacher_projection = LayerProjection(chosen.teacher_layers, context.teacher, chosen.dim, context.seed)
        self.student_projection = LayerProjection(chosen.student_layers, context.student, chosen.dim, context.seed + 1)
        self.generator = torch.Generator(device=context.device).manual_seed(context.seed + 2)
        self._pending: list[tuple[Tensor, ...]] = []  # ids [B] and embeddings [B, m] of the step's micro-batches

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """One pooling of all layers."""
        return Needs(pooled=frozenset({cast(ContrastiveSettings, settings).pooling}))

    @property
    def banks(self) -> tuple[Bank, ...]:
        """Those that are written after a step, in the order of what is queued for them; the first is the student's."""
        return ()

    def project(self, step: Step) -> tuple[Tensor, Tensor]:
        """Maps the pooled layers [B, layers, d] of teacher and student to unit vectors [B, m]."""
        if step.teacher is None:
            raise ConfigError(
                f"The objective {self.name!r} needs the teacher's layers, and this batch comes without them."
            )
        pooling = self.chosen.pooling
        teacher = self.teacher_projection(step.teacher.pooled[pooling])
        return teacher, self.student_projection(step.student.pooled[pooling])

    def queue(self, ids: Tensor, *embeddings: Tensor) -> None:
        """Keeps the ids [B] of a training batch with their embeddings [B, m], one for each bank."""
        if self.training and self.banks:
            self._pending.append((ids.to(self.context.device), *(each.detach() for each in embeddings)))

    def after_step(self, stepped: bool) -> None:
        """Writes the rows of the step's examples of all processes (Eq. 5), or forgets them."""
        items, self._pending = self._pending, []
        if not stepped:
            return
        if self.k != "all":  # processes may have drawn for different numbers of anchors
            align_generator(self.generator)
        if not self.banks or (not items and processes() == 1):
            return
        if not items:  # of this process; every one has to take part
            none = torch.zeros(0, dtype=torch.long, device=self.context.device)
            empty = none.new_zeros(0, self.chosen.dim, dtype=torch.float32)
            items = [(none, *(empty for _ in self.banks))]
        ids, *embeddings = gather_rows(*(torch.cat(column) for column in zip(*items, strict=True)))
        if ids.numel():
            for bank, rows in zip(self.banks, embeddings, strict=True):
                bank.update(ids, rows)

    def describe(self) -> list[str]:
        """The chosen layers."""
        return [
            f"{side} layers: {', '.join(map(str, each.layers))} of 1..{each.total}, embeddings excluded "
            f"({self.chosen.pooling} pooling)"
            for side, each in (("teacher", self.teacher_projection), ("student", self.student_projection))
        ]

    def summary(self) -> dict[str, Tensor]:
        """Both projections, and at most `SUMMARY_ROWS` rows of the student's bank, drawn the same every time.

        Of a projection the weight [m, chosen * d], the bias [m] and the chosen layers, counted from 1, named
        `teacher.weight` and so on; of the rows `ids` [R], `rows` [R, m] in fp32 and, where there are labels, `labels`.
        """
        kept: dict[str, Tensor] = {}
        for side, each in (("teacher", self.teacher_projection), ("student", self.student_projection)):
            parts = {"weight": each.linear.weight, "bias": each.linear.bias, "layers": torch.tensor(each.layers)}
            kept |= {f"{side}.{name}": tensor.detach() for name, tensor in parts.items()}
        for bank in self.banks[:1]:
            drawn = np.random.default_rng(0).choice(bank.size, min(bank.size, SUMMARY_ROWS), replace=False)
            kept["ids"] = torch.from_numpy(drawn).sort().values
            kept["rows"] = bank.rows(kept["ids"]).float()
            if self.context.labels is not None:
                kept["labels"] = self.context.labels.cpu()[kept["ids"]]
        return kept

    def get_extra_state(self) -> Any:
        """The generator's state: what a checkpoint holds beside parameters and buffers."""
        return self.generator.get_state()

    def set_extra_state(self, state: Any) -> None:
        """Restores `get_extra_state()`; what was kept of an unfinished step is forgotten."""
        self.generator.set_state(state.cpu())
        self.after_step(stepped=False)
