"""The memory bank (Eq. 5): one row for each training example, written by training steps only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from codir.files import human_bytes

_CHUNK = 1 << 18  # rows filled at a time at the start


class Bank(nn.Module):
    """M in R^{N x m} (Eq. 5): a registered buffer outside of autograd, which PyTorch saves, moves and loads.

    Data-parallel wrappers must not broadcast it in every step: every process writes the same rows.
    """

    data: Tensor  # [N, m] the rows as they are stored; `rows` gives them in fp32

    def __init__(
        self,
        size: int,
        dim: int,
        momentum: float = 0.5,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        start: Literal["sphere", "uniform"] = "sphere",
        stays: bool = False,
    ):
        """Allocates the bank and fills it in place, a chunk at a time.

        Args:
            size: N.
            dim: m.
            momentum: beta in [0, 1): how much of the old row is kept.
            seed: of the rows at the start.
            device: where the rows live.
            dtype: how they are stored; updates are computed in fp32.
            start: `sphere`, unit vectors of random direction; `uniform`, entries in +-1/sqrt(m/3) as in the
                released code, which are unit vectors only on average.
            stays: the rows stay where they are (in CPU memory, say) when the module is moved.
        """
        super().__init__()
        self.momentum, self._stays = momentum, stays
        rows = torch.empty(size, dim, device=device, dtype=dtype)
        generator = torch.Generator(device=rows.device).manual_seed(seed)
        wide, bound = torch.promote_types(dtype, torch.float32), 1.0 / math.sqrt(dim / 3)
        for part in rows.split(_CHUNK):
            if start == "uniform":
                part.uniform_(-bound, bound, generator=generator)
            else:
                part.normal_(generator=generator)
                part.div_(torch.linalg.vector_norm(part, dim=1, keepdim=True, dtype=wide))
        self.register_buffer("data", rows)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        return self if self._stays else super()._apply(fn, recurse)

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
        """The memory of the rows in bytes."""
        return self.data.numel() * self.data.element_size()

    def describe(self) -> str:
        """The size, bytes and place: `8,000,000 x 128 float16, 2.0 GB on cpu`."""
        kind = str(self.data.dtype).removeprefix("torch.")
        half = "" if self.data.dtype == torch.float32 else f" {kind}"
        return f"{self.size:,} x {self.dim}{half}, {human_bytes(self.nbytes)} on {self.data.device}"

    def rows(self, ids: Tensor) -> Tensor:
        """A copy of the rows of ids [...] on the device of `ids`: [..., m] in fp32."""
        flat = ids.reshape(-1).to(self.data.device)
        return self.data.index_select(0, flat).to(ids.device).view(*ids.shape, self.dim).to(self._wide)

    @torch.no_grad()
    def update(self, ids: Tensor, embeddings: Tensor) -> None:
        """Rows of `ids` [B] become beta * row + (1 - beta) * h, scaled to length one (Eq. 5).

        The embeddings h [B, m] are unit vectors. If an id occurs more than once, its last embedding counts and the
        others are ignored. A sum of length zero (h opposite to the row) is replaced by h.
        """
        ids, embeddings = ids.to(self.data.device), embeddings.detach().to(self.data.device)
        unique, inverse = torch.unique(ids, return_inverse=True)
        if unique.numel() < ids.numel():  # a write of one id twice would depend on the order of threads
            position = torch.arange(ids.numel(), device=ids.device)
            last = torch.zeros_like(unique).scatter_reduce(0, inverse, position, "amax", include_self=True)
            ids, embeddings = unique, embeddings.index_select(0, last)
        embeddings = embeddings.to(self._wide)
        old = self.data.index_select(0, ids).to(self._wide)
        mixed = torch.lerp(embeddings, old, self.momentum)
        length = torch.linalg.vector_norm(mixed, dim=1, keepdim=True)
        mixed = torch.where(length > 1e-6, mixed, embeddings)
        self.data.index_copy_(0, ids, nn.functional.normalize(mixed, dim=1).to(self.data.dtype))

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.data.dtype, torch.float32)
