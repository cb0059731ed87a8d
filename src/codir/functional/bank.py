"""The memory bank (Eq. 5): one row for each training example, written by training steps only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from codir.errors import RunError

_CHUNK = 1 << 18  # rows filled at a time at the start


class MemoryBank:
    """M in R^{N x m} (Eq. 5), outside of autograd.

    It is no buffer of a module: data-parallel wrappers would overwrite it with rank 0's, and a bank of millions of
    rows has no place in a model's state.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        momentum: float = 0.5,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        start: Literal["sphere", "uniform"] = "sphere",
    ):
        """Allocates the bank and fills it, in place and a chunk at a time.

        Args:
            size: N, the number of rows.
            dim: m, the length of a row.
            momentum: beta in [0, 1): how much of the old row is kept.
            seed: seeds the rows at the start.
            device: where the rows live.
            dtype: how they are stored; updates are computed in fp32.
            start: `sphere`, unit vectors of random direction; `uniform`, entries in +-1/sqrt(m/3) as in the
                released code, which are unit vectors only on average.
        """
        self.momentum = momentum
        self.data = torch.empty(size, dim, device=device, dtype=dtype)
        generator = torch.Generator(device=self.data.device).manual_seed(seed)
        wide = torch.promote_types(dtype, torch.float32)
        bound = 1.0 / math.sqrt(dim / 3)
        for part in self.data.split(_CHUNK):
            if start == "uniform":
                part.uniform_(-bound, bound, generator=generator)
            else:
                part.normal_(generator=generator)
                part.div_(torch.linalg.vector_norm(part, dim=1, keepdim=True, dtype=wide))

    @property
    def size(self) -> int:
        """N, the number of rows."""
        return self.data.shape[0]

    @property
    def dim(self) -> int:
        """m, the length of a row."""
        return self.data.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory of the rows in bytes."""
        return self.data.numel() * self.data.element_size()

    def rows(self, ids: Tensor) -> Tensor:
        """Copies rows: ids of any shape [...] give [..., m] in fp32 (later updates do not change the copy)."""
        flat = self.data.index_select(0, ids.reshape(-1))
        return flat.view(*ids.shape, self.dim).to(torch.promote_types(self.data.dtype, torch.float32))

    @torch.no_grad()
    def update(self, ids: Tensor, embeddings: Tensor, momentum: float | None = None) -> None:
        """Rows of `ids` become beta * row + (1 - beta) * h, scaled to length one (Eq. 5).

        Only those rows are read or written. If an id occurs more than once, its last embedding counts and the others
        are ignored. A sum of length zero (h opposite to the row) is replaced by h.

        Args:
            ids: [B] rows to write.
            embeddings: [B, m] unit vectors h.
            momentum: beta for this update only, by default the bank's own; 0 sets the rows.
        """
        beta = self.momentum if momentum is None else momentum
        ids, embeddings = _last_of_each(ids.to(self.data.device), embeddings.detach().to(self.data.device))
        wide = torch.promote_types(self.data.dtype, torch.float32)
        embeddings = embeddings.to(wide)
        mixed = torch.lerp(embeddings, self.data.index_select(0, ids).to(wide), beta)
        length = torch.linalg.vector_norm(mixed, dim=1, keepdim=True)
        mixed = torch.where(length > 1e-6, mixed, embeddings)
        unit = torch.nn.functional.normalize(mixed, dim=1)
        self.data.index_copy_(0, ids, unit.to(self.data.dtype))

    def state(self) -> dict[str, Tensor]:
        """The rows, as a checkpoint holds them. Not a copy: write it out before the next update."""
        return {"rows": self.data}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores `state()` bit for bit.

        Raises:
            RunError: the state is of another size or type than this bank.
        """
        rows = state["rows"]
        if rows.shape != self.data.shape or rows.dtype != self.data.dtype:
            raise RunError(
                f"The saved memory bank is {tuple(rows.shape)} {rows.dtype}, this run's is {tuple(self.data.shape)} "
                f"{self.data.dtype}: the training data or the settings differ from those of the checkpoint. Resume "
                "with the same ones, or start a new run."
            )
        self.data.copy_(rows)


def _last_of_each(ids: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Keeps the last row of each id: a write of one id twice would depend on the order of threads."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    if unique.numel() == ids.numel():
        return ids, embeddings
    position = torch.arange(ids.numel(), device=ids.device)
    last = torch.zeros_like(unique).scatter_reduce(0, inverse, position, "amax", include_self=True)
    return unique, embeddings.index_select(0, last)
