"""The memory bank (Eq. 5): one row for each training example, written by training steps only."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from codir.contrast.noise import unit_noise
from codir.errors import RunError
from codir.storage import human_bytes

_CHUNK = 1 << 18  # rows filled at a time at the start


class Bank:
    """M in R^{N x m} (Eq. 5), outside of autograd: what the banks have in common, wherever their rows lie.

    It is no buffer of a module: data-parallel wrappers would overwrite it with rank 0's, and a bank of millions of
    rows has no place in a model's state.

    A bank may be *lazy*: a row of zeros then means "never visited", and reads as a random unit vector that depends on
    the seed and the row's number alone (`unit_noise`). So opening costs the same at every N.

    Attributes:
        data: [N, m] the rows as they are stored; use `rows` and `chunk` to read them.
        momentum: beta in [0, 1): how much of the old row is kept.
    """

    def __init__(self, data: Tensor, momentum: float, noise_seed: int | None):
        """Takes the rows; `noise_seed` makes the bank lazy."""
        self.data, self.momentum, self._noise_seed = data, momentum, noise_seed

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

    @property
    def place(self) -> str:
        """Where the rows lie, in words."""
        return str(self.data.device)

    def describe(self) -> str:
        """Size, bytes and place: `50,000,000 x 128 float16, 12.8 GB on cpu`."""
        kind = str(self.data.dtype).removeprefix("torch.")
        half = "" if self.data.dtype == torch.float32 else f" {kind}"
        return f"{self.size:,} x {self.dim}{half}, {human_bytes(self.nbytes)} on {self.place}"

    def rows(self, ids: Tensor) -> Tensor:
        """Copies rows: ids of any shape [...] give [..., m] in fp32 (later updates do not change the copy).

        Only these rows are read and, if `ids` are on another device than the bank, moved there.
        """
        flat = ids.reshape(-1)
        rows = self.data.index_select(0, flat.to(self.data.device)).to(ids.device)
        rows = self._with_noise(rows, flat)
        return rows.view(*ids.shape, self.dim).to(self._wide)

    def visited(self, ids: Tensor) -> Tensor:
        """[B] False for rows [B] of a lazy bank that were never written, True for all others."""
        if self._noise_seed is None:
            return torch.ones(ids.shape, dtype=torch.bool, device=ids.device)
        return self.data.index_select(0, ids.to(self.data.device)).any(dim=1).to(ids.device)

    def chunk(self, start: int, stop: int) -> Tensor:
        """[stop - start, m] rows start..stop-1 as they are stored, for a pass over all. Not to be written to."""
        rows = self.data[start:stop]
        if self._noise_seed is None:
            return rows
        return self._with_noise(rows.clone(), torch.arange(start, start + rows.shape[0], device=rows.device))

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
        embeddings = embeddings.to(self._wide)
        stored = self.data.index_select(0, ids)
        old = stored if self._noise_seed is None else self._with_noise(stored.clone(), ids)
        mixed = torch.lerp(embeddings, old.to(self._wide), beta)
        length = torch.linalg.vector_norm(mixed, dim=1, keepdim=True)
        mixed = torch.where(length > 1e-6, mixed, embeddings)
        unit = torch.nn.functional.normalize(mixed, dim=1)
        self._store(ids, stored, unit.to(self.data.dtype))

    def _store(self, ids: Tensor, before: Tensor, after: Tensor) -> None:
        """Writes rows; `before` is what they hold."""
        self.data.index_copy_(0, ids, after)

    @property
    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.data.dtype, torch.float32)

    def _with_noise(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Fills the rows that were never visited, in place."""
        if self._noise_seed is not None:
            never = (~rows.any(dim=1)).nonzero().squeeze(1)
            if never.numel():
                rows[never] = unit_noise(ids[never], self.dim, self._noise_seed, rows.dtype)
        return rows

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the bank. Not a copy: write it out before the next update."""
        raise NotImplementedError

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores `state()` bit for bit."""
        raise NotImplementedError

    def checkpoint_saved(self, step: int, kept: Sequence[int]) -> None:
        """Called by every process once the checkpoint of `step` is whole (see `Objective`)."""

    def rewind(self, step: int) -> None:
        """Called by every process before training goes on from the checkpoint of `step` (see `Objective`)."""


class MemoryBank(Bank):
    """A bank in the memory of a CPU or GPU; its rows are part of every checkpoint."""

    def __init__(
        self,
        size: int,
        dim: int,
        momentum: float = 0.5,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        start: Literal["sphere", "uniform", "lazy"] = "sphere",
    ):
        """Allocates the bank and, unless it is lazy, fills it in place and a chunk at a time.

        Args:
            size: N, the number of rows.
            dim: m, the length of a row.
            momentum: beta in [0, 1): how much of the old row is kept.
            seed: seeds the rows at the start.
            device: where the rows live.
            dtype: how they are stored; updates are computed in fp32.
            start: `sphere`, unit vectors of random direction; `uniform`, entries in +-1/sqrt(m/3) as in the
                released code, which are unit vectors only on average; `lazy`, unit vectors of random direction that
                are computed when they are read, until the row is written.
        """
        device = torch.device(device)
        if start == "lazy":
            super().__init__(_zeros(size, dim, device, dtype), momentum, seed)
            return
        super().__init__(torch.empty(size, dim, device=device, dtype=dtype), momentum, None)
        generator = torch.Generator(device=self.data.device).manual_seed(seed)
        bound = 1.0 / math.sqrt(dim / 3)
        for part in self.data.split(_CHUNK):
            if start == "uniform":
                part.uniform_(-bound, bound, generator=generator)
            else:
                part.normal_(generator=generator)
                part.div_(torch.linalg.vector_norm(part, dim=1, keepdim=True, dtype=self._wide))

    def state(self) -> dict[str, Tensor]:
        """The rows and, if the bank is lazy, the seed of the others. Not a copy: write it before the next update."""
        if self._noise_seed is None:
            return {"rows": self.data}
        return {"rows": self.data, "noise_seed": torch.tensor(self._noise_seed)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores `state()` bit for bit.

        Raises:
            RunError: the state is of another size or type than this bank, or of a bank on disk.
        """
        if "rows" not in state:
            raise RunError(
                "The checkpoint belongs to a memory bank on disk, and this run's is in memory: resume with "
                "bank_storage=disk, or start a new run."
            )
        rows = state["rows"]
        if rows.shape != self.data.shape or rows.dtype != self.data.dtype:
            raise RunError(
                f"The saved memory bank is {tuple(rows.shape)} {rows.dtype}, this run's is {tuple(self.data.shape)} "
                f"{self.data.dtype}: the training data or the settings differ from those of the checkpoint. Resume "
                "with the same ones, or start a new run."
            )
        self.data.copy_(rows)
        self._noise_seed = int(state["noise_seed"]) if "noise_seed" in state else None


def _zeros(size: int, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros; on a CPU they cost nothing until they are written (torch.zeros writes them all)."""
    if device.type != "cpu":
        return torch.zeros(size, dim, device=device, dtype=dtype)
    private = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    flags = {"flags": private} if private else {}
    try:
        memory = mmap.mmap(-1, size * dim * dtype.itemsize, **flags)
    except OSError as error:
        needed = human_bytes(size * dim * dtype.itemsize)
        raise RunError(
            f"The memory bank of {size:,} x {dim} needs {needed} of memory, which this machine does not give "
            f"({error.strerror}): use bank_storage=disk or bank_dtype=float16."
        ) from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # Rows are visited in random order: with huge pages each new one would clear 2 MB.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(size, dim)


def _last_of_each(ids: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Keeps the last row of each id: a write of one id twice would depend on the order of threads."""
    unique, inverse = torch.unique(ids, return_inverse=True)
    if unique.numel() == ids.numel():
        return ids, embeddings
    position = torch.arange(ids.numel(), device=ids.device)
    last = torch.zeros_like(unique).scatter_reduce(0, inverse, position, "amax", include_self=True)
    return unique, embeddings.index_select(0, last)
