"""Negatives out of a queue of the student's last embeddings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codir.contrast.queue import EmbeddingQueue
from codir.losses.base import ObjectiveContext, Step, Term
from codir.losses.contrastive import SUMMARY_ROWS
from codir.losses.negative_sources.base import RememberingSource, SourceSettings
from codir.storage import human_bytes


class QueueSource(RememberingSource):
    """The student's last embeddings, of whatever examples they were: a queue instead of a bank."""

    name = "queue"
    keeps = "queue_"

    def __init__(self, settings: SourceSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self.queue = EmbeddingQueue(settings.queue_size, settings.dim, context.device)

    def contrast(
        self, step: Step, anchor: Tensor, live: Tensor, temperature: float | Tensor | None = None
    ) -> Term:
        """See the base class; while the queue is empty the loss is 0."""
        allowed = self.queue.filled & (self.queue.ids != step.ids.to(anchor.device).unsqueeze(1))
        return self._nce(anchor, live, self.queue.data, allowed, temperature)

    def _write(self, ids: Tensor, embeddings: Tensor) -> None:
        """Puts the step's embeddings in, of an example that occurs twice the last one."""
        # By id, so that the queue does not depend on how the mini-batch was divided over processes.
        order = ids.argsort(stable=True)
        ids = ids[order]
        last = torch.ones_like(ids, dtype=torch.bool)
        last[:-1] = ids[1:] != ids[:-1]
        self.queue.put(ids[last], embeddings[order[last]])

    def describe(self) -> list[str]:
        """Its length and memory."""
        return [
            f"negatives: the last {self.queue.size:,} embeddings, {self._counted(None)}; "
            f"{human_bytes(self.queue.nbytes)} on {self.queue.data.device}"
        ]

    def summary(self) -> dict[str, Tensor]:
        """See the base class; slots in their order."""
        slots = self.queue.filled.nonzero().squeeze(1)[:SUMMARY_ROWS]
        ids = self.queue.ids[slots].cpu()
        found = {"ids": ids, "rows": self.queue.data[slots]}
        labels = self.context.labels
        return found if labels is None else {**found, "labels": labels.cpu()[ids]}

    def state(self) -> dict[str, Tensor]:
        """The generator and the queue."""
        return {**{f"queue_{key}": value for key, value in self.queue.state().items()}, **super().state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See the base class."""
        super().load_state(state)
        self.queue.load_state(
            {key.removeprefix("queue_"): value for key, value in state.items() if key.startswith("queue_")}
        )
