"""What the contrastive objectives share: projections of chosen blocks, negatives, pending writes, checks."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from codir.contrast.bank import Bank, MemoryBank
from codir.contrast.disk_bank import DiskBank
from codir.contrast.negatives import SAMPLERS, NegativeSampler, SamplerContext, Sharing, build_sampler
from codir.errors import ConfigError, DataError, nearest
from codir.gather import gather_rows, processes
from codir.losses.bank_storage import available_memory, check_storage, choose_storage
from codir.losses.base import ObjectiveContext, ObjectiveSettings
from codir.models.blocks import choose_blocks
from codir.models.representations import EncoderShape, Pooling
from codir.storage import human_bytes

SUMMARY_ROWS = 2000  # bank rows that are kept to be looked at


_FROM_A_BANK = 500  # K where it is `auto`, from the paper: one point of its grid


class ContrastiveSettings(ObjectiveSettings):
    """Settings that every contrastive objective has."""

    dim: int = Field(
        default=128, ge=1, description="m: length of the projected representations and of a bank row"
    )
    temperature: float = Field(default=0.07, gt=0.0, le=1e4, description="tau of the contrastive loss")
    momentum: float = Field(
        default=0.5, ge=0.0, lt=1.0, description="beta: how much of a bank row is kept (Eq. 5)"
    )
    pooling: Pooling = Field(default="mean", description="how a block's tokens become one vector (Eq. 3)")
    teacher_blocks: str | list[int] = Field(
        default="all", description="all, every-other, odd, or numbers counted from 1"
    )
    student_blocks: str | list[int] = Field(default="all", description="as teacher_blocks, for the student")
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
    bank_storage: Literal["auto", "gpu", "cpu", "disk"] = Field(
        default="auto",
        description="where the bank lies; auto: with the training for a task, by its size for a corpus",
    )
    bank_dtype: Literal["float32", "float16"] = Field(
        default="float32", description="how the bank's rows are stored"
    )


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


def _check_memory(name: str, settings: ContrastiveSettings, context: ObjectiveContext, bank: bool) -> None:
    """Raises `ConfigError` where projections, their gradients and moments, and a bank in memory cannot fit into it."""
    assert context.teacher is not None
    inputs = sum(shape.blocks * shape.width for shape in (context.teacher, context.student))
    taken = 4 * 4 * inputs * settings.dim
    if bank and settings.bank_storage in ("cpu", "gpu"):
        taken += (4 if settings.bank_dtype == "float32" else 2) * context.examples * settings.dim
    queue: int = getattr(settings, "queue_size", 0) if settings.negatives == "queue" else 0
    taken += 2 * 4 * queue * settings.dim
    if taken > (available := available_memory()):
        keys = f"dim={settings.dim}" + (f" and queue_size={queue}" if queue else "")
        raise ConfigError(
            f"{name}.{keys} takes {human_bytes(taken)} of memory, and {human_bytes(available)} are available: choose "
            f"less, for example --set objectives.{name}.dim=128"
            + (f" --set objectives.{name}.queue_size=4096." if queue else ".")
        )


def check_contrastive(
    name: str, settings: ContrastiveSettings, context: ObjectiveContext, sources: Collection[str] = ()
) -> None:
    """Raises `ConfigError` or `DataError` for settings that do not fit the models or the data.

    Args:
        name: of the objective, for the messages.
        settings: to be checked.
        context: to be checked against.
        sources: names of negatives that the objective offers beside the samplers of bank rows.
    """
    if context.teacher is None:
        raise ConfigError(
            f"The objective {name!r} needs a teacher and there is none: name one, or drop {name!r}."
        )
    for side, spec, shape in (
        ("teacher", settings.teacher_blocks, context.teacher),
        ("student", settings.student_blocks, context.student),
    ):
        try:
            choose_blocks(spec, shape.blocks)
        except ConfigError as error:
            raise ConfigError(f"{name}.{side}_blocks: {error}") from None
    check_storage(name, settings.bank_storage, context.device, context.folder)
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
    _check_memory(name, settings, context, negatives in SAMPLERS)
    # Of fewer than K in the mini-batch or the queue all are taken: K need not fit there.
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
            "in-batch-bank, in-batch, queue or any."
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


def make_sampler(settings: ContrastiveSettings, context: ObjectiveContext) -> NegativeSampler:
    """Builds the sampler of the settings."""
    space = context.teacher_space
    return build_sampler(
        negatives_name(settings, context),
        SamplerContext(
            examples=context.examples,
            labels=context.labels,
            scores=not context.kind.has_classes,
            sharing=settings.sharing,
            seed=context.seed + 2,
            device=context.device,
            candidates=settings.candidates,
            max_similarity=settings.max_similarity,
            score_margin=settings.score_margin,
            teacher_space=None if space is None else lambda: space(settings.pooling),
        ),
    )


def storage_of(
    settings: ContrastiveSettings, context: ObjectiveContext, banks: int = 1
) -> Literal["auto", "gpu", "cpu", "disk"]:
    """Resolves `bank_storage: auto` of a corpus by the size of so many banks; of a task it stays: with the training."""
    if settings.bank_storage != "auto" or not context.kind.per_token:
        return settings.bank_storage
    item = 2 if settings.bank_dtype == "float16" else 4
    nbytes = banks * context.examples * settings.dim * item
    return choose_storage(nbytes, context.device, _bank_folder(context))


def _bank_folder(context: ObjectiveContext) -> Path | None:
    return None if context.folder is None else context.folder / "bank"


def make_bank(settings: ContrastiveSettings, context: ObjectiveContext) -> MemoryBank | DiskBank:
    """Opens or makes the bank of the settings: one row for each training example.

    A task's bank lies where the training is and starts with rows that are drawn one after the other; a corpus's bank
    lies where it fits and starts with rows that are computed when they are read, so that it opens at once.

    Raises:
        ConfigError: the storage asked for does not exist.
        RunError: the bank on disk is another corpus's, or truncated, or the disk is too small.
    """
    dtype = torch.float16 if settings.bank_dtype == "float16" else torch.float32
    seed, corpus = context.seed + 3, context.kind.per_token
    storage, folder = storage_of(settings, context), _bank_folder(context)
    if storage == "disk" and folder is not None:
        return DiskBank(
            folder, context.examples, settings.dim, settings.momentum, seed, dtype, context.data_key
        )
    return MemoryBank(
        context.examples,
        settings.dim,
        settings.momentum,
        seed,
        torch.device("cpu") if storage == "cpu" else context.device,
        dtype,
        start="lazy" if corpus else "sphere",
    )


@contextlib.contextmanager
def untouched(generator: torch.Generator, when: bool) -> Iterator[None]:
    """Puts the generator back after the block, so that an evaluation does not change the training that follows."""
    state = generator.get_state() if when else None
    yield
    if state is not None:
        generator.set_state(state)


class BlockProjection(nn.Module):
    """phi: chosen blocks' pooled outputs, concatenated [B, chosen * d], mapped linearly to m, length one; fp32."""

    index: Tensor

    def __init__(self, spec: str | list[int], shape: EncoderShape, dim: int, seed: int):
        """Chooses the blocks and draws the weights from `seed` alone."""
        super().__init__()
        self.blocks = choose_blocks(spec, shape.blocks)
        self.total = shape.blocks
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(len(self.blocks) * shape.width, dim)
        self.register_buffer("index", torch.tensor(self.blocks) - 1, persistent=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Maps [B, blocks, d] (all blocks, any type) to unit vectors [B, m] in fp32, also inside autocast."""
        with torch.autocast(self.linear.weight.device.type, enabled=False):
            pooled = pooled.to(self.linear.weight.device)
            if len(self.blocks) < self.total:
                pooled = pooled.index_select(1, self.index)
            projected = functional.linear(
                pooled.flatten(1).float(), self.linear.weight.float(), self.linear.bias.float()
            )
            return functional.normalize(projected, dim=1)

    def summary(self, side: str) -> dict[str, Tensor]:
        """Weight [m, chosen * d], bias [m] and chosen blocks, counted from 1, named `SIDE.weight` and so on."""
        return {
            f"{side}.weight": self.linear.weight.detach(),
            f"{side}.bias": self.linear.bias.detach(),
            f"{side}.blocks": torch.tensor(self.blocks),
        }

    def describe(self) -> str:
        """Names the chosen blocks: `2, 4, 6 of 1..6, embeddings excluded`."""
        return f"{', '.join(map(str, self.blocks))} of 1..{self.total}, embeddings excluded"


def bank_summary(bank: Bank, labels: Tensor | None) -> dict[str, Tensor]:
    """Returns at most `SUMMARY_ROWS` rows of a bank, drawn the same every time, of those that were ever written.

    Args:
        bank: of the training.
        labels: [N] of the examples; None where there are none.

    Returns:
        `ids` [R], `rows` [R, m] in fp32 and, with labels, `labels` [R].
    """
    # More than wanted, since a lazy bank may hold rows that were never visited.
    drawn = np.random.default_rng(0).choice(bank.size, min(bank.size, 10 * SUMMARY_ROWS), replace=False)
    ids = torch.from_numpy(drawn)
    ids = ids[bank.visited(ids).cpu()][:SUMMARY_ROWS].sort().values
    found = {"ids": ids, "rows": bank.rows(ids).float()}
    return found if labels is None else {**found, "labels": labels.cpu()[ids]}


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
        if items:
            parts = [torch.cat(column) for column in zip(*items, strict=True)]
        else:
            none = torch.zeros(0, dtype=torch.long, device=self._device)
            parts = [
                none,
                *(none.new_zeros(0, self._dim, dtype=torch.float32) for _ in range(self._embeddings)),
            ]
        gathered = gather_rows(*parts)
        return gathered if gathered[0].numel() else None

    def clear(self) -> None:
        """Forgets what this process has queued."""
        self._items = []
