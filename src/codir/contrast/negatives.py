"""Who is a negative: samplers of bank rows.

All draws are uniform, come from the generator that the sampler was given, never hold the example itself, and cost the
same at every N.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from codir.contrast.draws import draw_indices
from codir.contrast.infonce import group_similarity

Sharing = Literal["independent", "shared"]
"""`shared`: one pool of negatives for the examples of one class; `independent`: a draw for each example."""
SAMPLERS = ("different-label", "any", "hard")

_CENTRE_ROWS = 50_000  # rows that the mean of the teacher's space is taken over, evenly spaced


class Negatives(NamedTuple):
    """Negatives of a batch: anchor b is compared with the rows `ids[group[b]]`."""

    # [G, K] rows of the bank. Independent negatives have G = B; a shared pool has one row for each class of the batch,
    # or one for all.
    ids: Tensor
    group: Tensor  # [B] which row of `ids` belongs to an anchor
    mask: Tensor | None = None  # [G, K] False where a negative does not count, or None if all do


class NegativeSampler:
    """Base of the samplers."""

    name: ClassVar[str]

    def __init__(self, examples: int, sharing: Sharing, generator: torch.Generator):
        self.examples, self.generator = examples, generator
        self.sharing: Sharing = sharing
        self.available = examples - 1  # how many rows every example can be compared with, at least
        self._warned = False

    def draw(self, ids: Tensor, k: int) -> Negatives:
        """Draws K negatives for each of the examples `ids` [B]."""
        raise NotImplementedError

    def admissible(self, ids: Tensor) -> Tensor:
        """[B, N], True where a row may be a negative of the example: for K = `all`."""
        raise NotImplementedError

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
    """Examples of another class (the paper's choice in fine-tuning); there are at least two.

    Ids sorted by class make every class one slice, so that a draw among the others is a draw among N - n_c numbers
    that skips the slice.
    """

    name = "different-label"

    def __init__(self, labels: Tensor, sharing: Sharing, generator: torch.Generator):
        """Takes the class ids [N] of all examples."""
        super().__init__(labels.numel(), sharing, generator)
        _, index, counts = torch.unique(labels.to(generator.device), return_inverse=True, return_counts=True)
        self._class = index  # [N] the index of each example's class among those that occur
        self._count = counts
        self._order = torch.argsort(index, stable=True)  # [N] ids, class after class
        self._start = counts.cumsum(0) - counts
        self.available = self.examples - int(counts.max())

    def draw(self, ids: Tensor, k: int) -> Negatives:
        """See the base class; a shared pool is one for each class of the batch."""
        ids = ids.to(self._class.device)
        if self.sharing == "shared":
            own, group = torch.unique(self._class[ids], return_inverse=True)
        else:
            own, group = self._class[ids], torch.arange(ids.numel(), device=ids.device)
        drawn = self._draw_indices(self.examples - self._count[own], k)
        drawn += (drawn >= self._start[own].unsqueeze(1)) * self._count[own].unsqueeze(1)
        return Negatives(self._order[drawn], group)

    def admissible(self, ids: Tensor) -> Tensor:
        """See the base class."""
        return self._class != self._class[ids.to(self._class.device)].unsqueeze(1)


class AnyOther(NegativeSampler):
    """Any other example: for scores, for data without labels, for one class only.

    A shared pool is one for the whole batch and avoids every example of it. Where a batch leaves fewer than K rows
    for that, its examples draw independently.
    """

    name = "any"

    def draw(self, ids: Tensor, k: int) -> Negatives:
        """See the base class."""
        ids = ids.to(self.generator.device)
        batch = torch.unique(ids)
        free = self.examples - batch.numel()
        if self.sharing == "shared" and free >= k:
            drawn = self._draw_indices(ids.new_tensor([free]), k)
            # The j-th id of the batch has batch[j] - j free ids before it: skip as many as come before the draw.
            drawn += torch.searchsorted(batch - torch.arange(batch.numel(), device=ids.device), drawn, right=True)
            return Negatives(drawn, torch.zeros_like(ids))
        drawn = self._draw_indices(torch.full_like(ids, self.examples - 1), k)
        drawn += drawn >= ids.unsqueeze(1)
        return Negatives(drawn, torch.arange(ids.numel(), device=ids.device))

    def admissible(self, ids: Tensor) -> Tensor:
        """See the base class."""
        ids = ids.to(self.generator.device)
        return torch.arange(self.examples, device=ids.device) != ids.unsqueeze(1)


class Hard(NegativeSampler):
    """The nearest to the anchor in the teacher's space, out of a random draw of candidates.

    Probable false negatives are left out: candidates whose cosine with the anchor is above `max_similarity`, and for
    scores those within `score_margin` standard deviations. Where fewer than K are left the rest is masked.
    """

    name = "hard"

    def __init__(
        self,
        candidates: NegativeSampler,
        index: Tensor,
        factor: int = 4,
        max_similarity: float = 0.9,
        scores: Tensor | None = None,
        score_margin: float = 0.25,
    ):
        """Takes the sampler of the candidates, `factor` for each negative wanted, and the `neighbour_index` [N, w]."""
        super().__init__(candidates.examples, candidates.sharing, candidates.generator)
        self._candidates, self._factor, self._max_similarity = candidates, factor, max_similarity
        self.available = candidates.available
        self._scores, self._score_margin = None, score_margin
        if scores is not None:
            scores = scores.to(self.generator.device, torch.float32)
            self._scores = scores / scores.std().clamp_min(1e-12)
        self.index = index.to(self.generator.device)

    def draw(self, ids: Tensor, k: int) -> Negatives:
        """See the base class; a shared pool means shared candidates, from which each anchor takes its nearest."""
        ids = ids.to(self.generator.device)
        wanted = max(k, min(self._factor * k, self.available))
        pool, group, _ = self._candidates.draw(ids, wanted)  # [G, W], [B]
        similarity = group_similarity(self.index[ids].float(), self.index[pool].float(), group)  # [B, W]
        offered = pool[group]  # [B, W]
        excluded = similarity > self._max_similarity
        if self._scores is not None:
            near = (self._scores[offered] - self._scores[ids].unsqueeze(1)).abs() <= self._score_margin
            excluded |= near
        best, position = similarity.masked_fill(excluded, -torch.inf).topk(k, dim=1)
        return Negatives(offered.gather(1, position), torch.arange(ids.numel(), device=ids.device), best > -torch.inf)


def neighbour_index(space: Any, dim: int = 256, seed: int = 0, chunk: int = 8192) -> Tensor:
    """Makes unit vectors of at most `dim` numbers whose products approximate cosines in the teacher's space.

    The representations are centred (those of a transformer share one large direction, which would make every cosine
    near 1), projected by a seeded Gaussian matrix if they are wider than `dim` (Johnson and Lindenstrauss: the error
    of a cosine is about 1 / sqrt(dim)), and scaled to length one. `space` is read a chunk at a time.

    Args:
        space: [N, D] array-like, for example a half-precision memory map.
        dim: the largest width of the index.
        seed: of the projection.
        chunk: rows at a time.

    Returns:
        [N, min(D, dim)] half precision. A row that equals the mean is all zeros.
    """

    def read(part: slice) -> Tensor:
        rows = space[part]  # a copy: torch must not be handed the read-only memory of a map
        return rows.cpu().float() if isinstance(rows, Tensor) else torch.from_numpy(np.array(rows, np.float32))

    count, width = space.shape
    step = max(1, -(-count // _CENTRE_ROWS))
    centre = torch.zeros(width, dtype=torch.float64)
    for start in range(0, count, chunk * step):
        centre += read(slice(start, start + chunk * step, step)).sum(dim=0, dtype=torch.float64)
    centre = (centre / -(-count // step)).float()
    projection = None
    if width > dim:
        generator = torch.Generator().manual_seed(seed)
        projection = torch.randn(width, dim, generator=generator) / dim**0.5
    index = torch.empty(count, min(width, dim), dtype=torch.float16)
    for start in range(0, count, chunk):
        rows = read(slice(start, start + chunk)) - centre
        rows = rows if projection is None else rows @ projection
        index[start : start + chunk] = torch.nn.functional.normalize(rows, dim=1)
    return index
