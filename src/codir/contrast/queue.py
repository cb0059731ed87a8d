"""A fixed number of past embeddings, the oldest leaving first."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codir.errors import RunError


class EmbeddingQueue:
    """The last Q embeddings with the ids of their examples, outside of autograd.

    It starts empty: a slot that was never written is no negative, rather than one of random noise.

    Attributes:
        data: [Q, m] the embeddings, in order of slots, not of age.
        ids: [Q] the examples, -1 where a slot is empty.
    """

    def __init__(self, size: int, dim: int, device: torch.device | str = "cpu"):
        """Allocates Q = `size` embeddings of length m = `dim` in fp32."""
        self.data = torch.zeros(size, dim, device=device)
        self.ids = torch.full((size,), -1, dtype=torch.long, device=device)
        self._next = 0  # the slot that is written next: an empty one, or the oldest

    @property
    def size(self) -> int:
        """Q."""
        return self.data.shape[0]

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return self.data.numel() * self.data.element_size() + self.ids.numel() * self.ids.element_size()

    @property
    def filled(self) -> Tensor:
        """[Q] True where there is an embedding."""
        return self.ids >= 0

    @torch.no_grad()
    def put(self, ids: Tensor, embeddings: Tensor) -> None:
        """Puts B embeddings in the places of the oldest.

        Args:
            ids: [B] their examples.
            embeddings: [B, m], the last of them the newest. Of more than Q the last Q stay.
        """
        ids, embeddings = ids[-self.size :].to(self.ids), embeddings[-self.size :].detach().to(self.data)
        slots = (torch.arange(ids.numel(), device=self.ids.device) + self._next) % self.size
        self.data.index_copy_(0, slots, embeddings)
        self.ids.index_copy_(0, slots, ids)
        self._next = (self._next + ids.numel()) % self.size

    def state(self) -> dict[str, Tensor]:
        """Embeddings, ids and the next slot. Not a copy: write it out before the next `put`."""
        return {"data": self.data, "ids": self.ids, "next": torch.tensor(self._next)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores `state()` bit for bit.

        Raises:
            RunError: the state is of another size than this queue, or of none.
        """
        if "data" not in state or state["data"].shape != self.data.shape:
            saved = f"is {tuple(state['data'].shape)}" if "data" in state else "is missing"
            raise RunError(
                f"The saved queue of embeddings {saved}, this run's is {tuple(self.data.shape)}: the settings differ "
                "from those of the checkpoint. Resume with the same ones, or start a new run."
            )
        self.data.copy_(state["data"])
        self.ids.copy_(state["ids"])
        self._next = int(state["next"])
