"""Who is a negative: samplers of bank rows, found by name.

A sampler is a class with a `name` in `SAMPLERS`. All draws are uniform, come from the sampler's own generator, never
hold the example itself, and cost the same at every N.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from codir.contrast.draws import draw_indices
from codir.contrast.neighbours import neighbour_index
from codir.contrast.similarity import group_similarity
from codir.errors import ConfigError, DataError, nearest

Sharing = Literal["independent", "shared"]


class Negatives(NamedTuple):
    """Negatives of a batch: anchor b is compared with the rows `ids[group[b]]`.

    Attributes:
        ids: [G, K] rows of the bank. Independent negatives have G = B; a shared pool has one row for each class of
            the batch, or one for all.
        group: [B] which row of `ids` belongs to an anchor.
        mask: [G, K] False where a negative does not count, or None if all do.
    """

    ids: Tensor
    group: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class SamplerContext:
    """What samplers are built from.

    Attributes:
        examples: N.
        labels: [N] class ids, scores, or None.
        scores: the labels are continuous.
        sharing: `shared`, one pool for the examples of one class; `independent`, a draw for each example.
        seed: seeds the generator.
        device: where ids are drawn; that of the bank.
        candidates: `hard` only: how many random candidates are looked at for each negative wanted.
        max_similarity: `hard` only: candidates whose cosine with the anchor in the teacher's space is above this
            are probable false negatives and left out.
        score_margin: `hard` only, with scores: candidates this close to the anchor's score, in standard deviations
            of the scores, are left out.
        teacher_space: `hard` only: gives the teacher's representations [N, D], array-like.
    """

    examples: int
    labels: Tensor | None = None
    scores: bool = False
    sharing: Sharing = "shared"
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    candidates: int = 4
    max_similarity: float = 0.9
    score_margin: float = 0.25
    teacher_space: Callable[[], Any] | None = None


class NegativeSampler:
    """Base of the samplers."""

    name: ClassVar[str]

    def __init__(self, context: SamplerContext):
        self.context = context
        self.generator = torch.Generator(device=context.device).manual_seed(context.seed)
        self._warned = False

    @property
    def available(self) -> int:
        """How many rows every example can be compared with, at least."""
        return self.context.examples - 1

    def draw(self, ids: Tensor, k: int) -> Negatives:
        """Draws K negatives for each of the examples `ids` [B]."""
        raise NotImplementedError

    def admissible(self, ids: Tensor) -> Callable[[int, int], Tensor]:
        """Says which rows are admissible at all, for K = `all`.

        Returns:
            A function of (start, stop) that gives [B, stop - start], True where a row of start..stop-1 may be a
            negative of the example.
        """
        raise NotImplementedError

    def state(self) -> Tensor:
        """State of the generator."""
        return self.generator.get_state()

    def load_state(self, state: Tensor) -> None:
        """Restores `state()`."""
        self.generator.set_state(state.cpu())

    def _draw_indices(self, counts: Tensor, k: int) -> Tensor:
        if not self._warned and bool((counts < k).any()):
            self._warned = True
            warnings.warn(
                f"Only {int(counts.min())} rows can be negatives of some examples, fewer than K={k}: they are drawn "
                "with replacement there. A smaller K, or K='all', avoids it.",
                stacklevel=3,
            )
        return draw_indices(counts, k, self.generator)


class DifferentLabel(NegativeSampler):
    """Examples of another class (the paper's choice in fine-tuning).

    Ids sorted by class make every class one slice, so that a draw among the others is a draw among N - n_c numbers
    that skips the slice.
    """

    name = "different-label"

    def __init__(self, context: SamplerContext):
        super().__init__(context)
        if context.labels is None:
            raise DataError(
                "different-label negatives need labels, and this data has none: use the sampler 'any'."
            )
        if context.scores:
            raise ConfigError(
                "different-label negatives need classes, and these labels are scores: use 'any'."
            )
        classes, index, counts = torch.unique(
            context.labels.to(context.device), return_inverse=True, return_counts=True
        )
        if classes.numel() < 2:
            raise DataError(
                f"All {context.examples} examples have the label {classes.tolist()}: there is no example of a "
                "different label to be a negative. Use the sampler 'any'."
            )
        self._class = index  # [N] index of each example's class among those that occur
        self._count = counts
        self._order = torch.argsort(index, stable=True)  # [N] ids, class after class
        self._start = counts.cumsum(0) - counts
        self._available = context.examples - int(counts.max())

    @property
    def available(self) -> int:
        """N less the examples of the largest class."""
        return self._available

    def draw(self, ids: Tensor, k: int) -> Negatives:
        """See the base class; a shared pool is one for each class of the batch."""
        ids = ids.to(self._class.device)
        if self.context.sharing == "shared":
            own, group = torch.unique(self._class[ids], return_inverse=True)
        else:
            own, group = self._class[ids], torch.arange(ids.numel(), device=ids.device)
        drawn = self._draw_indices(self.context.examples - self._count[own], k)
        drawn += (drawn >= self._start[own].unsqueeze(1)) * self._count[own].unsqueeze(1)
        return Negatives(self._order[drawn], group)

    def admissible(self, ids: Tensor) -> Callable[[int, int], Tensor]:
        """Rows of another class."""
        own = self._class[ids.to(self._class.device)].unsqueeze(1)
        return lambda start, stop: self._class[start:stop] != own


class AnyOther(NegativeSampler):
    """Any other example: for scores, for data without labels, for one class only.

    A shared pool is one for the whole batch and avoids every example of it. Where a batch leaves fewer than K rows
    for that, its examples draw independently.
    """

    name = "any"

    def __init__(self, context: SamplerContext):
        super().__init__(context)
        if context.examples < 2:
            raise DataError(
                f"{context.examples} example(s) leave no other one to be a negative: give more data."
            )

    def draw(self, ids: Tensor, k: int) -> Negatives:
        """See the base class."""
        ids = ids.to(self.context.device)
        batch = torch.unique(ids)
        free = self.context.examples - batch.numel()
        if self.context.sharing == "shared" and free >= k:
            drawn = self._draw_indices(ids.new_tensor([free]), k)
            # The j-th id of the batch has batch[j] - j free ids before it: skip as many as come before the draw.
            drawn += torch.searchsorted(
                batch - torch.arange(batch.numel(), device=ids.device), drawn, right=True
            )
            return Negatives(drawn, torch.zeros_like(ids))
        drawn = self._draw_indices(torch.full_like(ids, self.context.examples - 1), k)
        drawn += drawn >= ids.unsqueeze(1)
        return Negatives(drawn, torch.arange(ids.numel(), device=ids.device))

    def admissible(self, ids: Tensor) -> Callable[[int, int], Tensor]:
        """Every row but the example's own."""
        own = ids.to(self.context.device).unsqueeze(1)
        return lambda start, stop: torch.arange(start, stop, device=own.device) != own


class Hard(NegativeSampler):
    """The nearest to the anchor in the teacher's space, out of a random draw of candidates.

    Candidates have another label where there are classes. Probable false negatives are left out: candidates whose
    cosine with the anchor is above `max_similarity`, and for scores those within `score_margin`. Where fewer than K
    are left the rest is masked.
    """

    name = "hard"

    def __init__(self, context: SamplerContext):
        super().__init__(context)
        if context.teacher_space is None:
            raise ConfigError(
                "hard negatives look for neighbours among the teacher's representations of all examples, which this "
                "run does not have: keep the teacher's cache on, or use 'different-label' or 'any'."
            )
        classes = context.labels is not None and not context.scores
        self._candidates = (DifferentLabel if classes else AnyOther)(context)
        self._candidates.generator = self.generator
        self._scores: Tensor | None = None
        if context.scores and context.labels is not None:
            scores = context.labels.to(context.device, torch.float32)
            self._scores = scores / scores.std().clamp_min(1e-12)
        self.index = neighbour_index(context.teacher_space(), seed=context.seed).to(context.device)

    def draw(self, ids: Tensor, k: int) -> Negatives:
        """See the base class; a shared pool means shared candidates, from which each anchor takes its nearest."""
        ids = ids.to(self.context.device)
        wanted = max(k, min(self.context.candidates * k, self._candidates.available))
        candidates = self._candidates.draw(ids, wanted)
        pool, group = candidates.ids, candidates.group  # [G, W], [B]
        similarity = group_similarity(self.index[ids].float(), self.index[pool].float(), group)  # [B, W]
        offered = pool[group]  # [B, W]
        excluded = similarity > self.context.max_similarity
        if self._scores is not None:
            near = (self._scores[offered] - self._scores[ids].unsqueeze(1)).abs() <= self.context.score_margin
            excluded |= near
        best, position = similarity.masked_fill(excluded, -torch.inf).topk(k, dim=1)
        return Negatives(
            offered.gather(1, position), torch.arange(ids.numel(), device=ids.device), best > -torch.inf
        )

    def admissible(self, ids: Tensor) -> Callable[[int, int], Tensor]:
        """Not defined: with every row as a negative, none is chosen for being hard."""
        raise ConfigError(
            "K='all' takes every admissible row and leaves nothing to choose for hard negatives: give K."
        )


SAMPLERS: Mapping[str, type[NegativeSampler]] = {cls.name: cls for cls in (DifferentLabel, AnyOther, Hard)}


def build_sampler(name: str, context: SamplerContext) -> NegativeSampler:
    """Builds the sampler called `name`.

    Raises:
        ConfigError: there is none of that name, or it does not fit the data.
        DataError: the data cannot give what it needs.
    """
    if name not in SAMPLERS:
        raise ConfigError(
            f"There is no sampler of negatives {name!r}{nearest(name, SAMPLERS)}: choose {', '.join(SAMPLERS)}."
        )
    return SAMPLERS[name](context)
