"""What every source of the negatives of `crd` does: it compares the anchors of a batch with positives and negatives.

A source also remembers what later steps will need of the student. Each has the state of its own generator, and whatever
it remembers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from codir.contrast.draws import draw_allowed
from codir.contrast.infonce import ContrastiveResult, info_nce
from codir.errors import RunError
from codir.gather import align_generator
from codir.losses.base import ObjectiveContext, Step, Term
from codir.losses.contrastive import (
    ContrastiveSettings,
    PendingWrites,
    negatives_name,
    number_of_negatives,
)


class SourceSettings(ContrastiveSettings):
    """What the sources need beside the settings of every contrastive objective."""

    bank_init: Literal["random", "student"] = Field(
        default="random",
        description="bank rows at the start: random, or one pass of the student over the data",
    )
    negatives_gradient: bool = Field(
        default=False, description="in-batch: whether the student is also trained through the negatives"
    )
    queue_size: int = Field(default=4096, ge=2, description="queue: how many past embeddings are kept")
    learn_temperature: bool = Field(
        default=False, description="tau is trained, starting at `temperature`, within [0.01, 1]"
    )
    temperature_rate: float = Field(
        default=100.0,
        gt=0.0,
        le=1e6,
        description="learn_temperature: log(1/tau) learns at so many learning rates",
    )


def contrastive_term(result: ContrastiveResult, **more: Tensor) -> Term:
    """Returns the term of a contrast: its loss, accuracy and mean cosines, and `more` of its own."""
    return Term(
        result.loss,
        {"accuracy": result.accuracy, "positive": result.positive, "negative": result.negative, **more},
    )


class NegativeSource:
    """Base of the sources; by itself it remembers nothing."""

    name: ClassVar[str]
    keeps: ClassVar[str | None] = None  # how the keys of its state begin
    has_bank: ClassVar[bool] = False

    def __init__(self, settings: SourceSettings, context: ObjectiveContext):
        """Allocates what the source remembers."""
        self.settings, self.context = settings, context
        self.k: int | Literal["all"] = number_of_negatives(settings, context)
        self.generator = torch.Generator(device=context.device).manual_seed(context.seed + 2)

    def contrast(
        self, step: Step, anchor: Tensor, live: Tensor, temperature: float | Tensor | None = None
    ) -> Term:
        """InfoNCE (Eq. 4) of the anchors [B, m] and the student's live representations [B, m], their positives.

        Both are unit vectors in fp32, in order of `step.ids`. Called by every process, outside of autocast.
        `temperature`: tau; a scalar tensor gets a gradient; None for that of the settings.
        """
        raise NotImplementedError

    def remember(self, ids: Tensor, live: Tensor) -> None:
        """Keeps the student's representations [B, m] of a training batch until the optimiser has stepped."""

    def after_step(self) -> None:
        """Writes what was kept. Called by every process."""
        if self.k != "all":  # processes may have drawn for different numbers of anchors
            align_generator(self.generator)

    def discard(self) -> None:
        """Forgets what was kept."""

    def prefill(self, ids: Tensor, rows: Tensor) -> None:
        """Takes the student's representations [B, m] of examples before training, if `bank_init` asks for them."""

    def describe(self) -> list[str]:
        """What the negatives are, and the memory they take."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        return {"generator": self.generator.get_state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores `state()`; one of another source or size raises `RunError`."""
        for key in state:
            if key != "generator" and not (self.keeps and key.startswith(self.keeps)):
                raise RunError(
                    f"The checkpoint holds {key!r} for the objective 'crd', which negatives: "
                    f"{negatives_name(self.settings, self.context)} does not have: resume with the settings of the "
                    "run, or start a new one."
                )
        self.discard()
        self.generator.set_state(state["generator"].cpu())

    def checkpoint_saved(self, step: int, kept: Sequence[int]) -> None:
        """See `Objective.checkpoint_saved`."""

    def rewind(self, step: int) -> None:
        """See `Objective.rewind`."""

    def summary(self) -> dict[str, Tensor]:
        """Some of what was remembered at the end: `ids` [R], `rows` [R, m] and, with labels, `labels` [R]."""
        return {}

    def _counted(self, batch: int | None) -> str:
        """K in words, out of a batch of a known size."""
        if self.k != "all":
            return f"K = {self.k}, {self.settings.sharing}"
        return "K = all" if batch is None else f"K = all {batch - 1:,}"

    def _tau(self, given: float | Tensor | None) -> float | Tensor:
        return self.settings.temperature if given is None else given

    def _nce(
        self, anchor: Tensor, live: Tensor, rows: Tensor, allowed: Tensor, temperature: float | Tensor | None
    ) -> Term:
        """Contrasts with those of the rows [G, m] that are allowed [B, G], or K of them."""
        if self.k != "all":
            allowed = draw_allowed(allowed, self.k, self.settings.sharing == "shared", self.generator)
        positive = (anchor * live).sum(dim=1)
        result = info_nce(positive, anchor @ rows.T, self._tau(temperature), allowed)
        count = allowed.sum(dim=1, dtype=torch.float32).mean()
        return contrastive_term(result, negatives=count)


class RememberingSource(NegativeSource):
    """Base of the sources that write the representations of a step down when the optimiser has stepped."""

    def __init__(self, settings: SourceSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self._pending = PendingWrites(settings.dim, context.device)

    def remember(self, ids: Tensor, live: Tensor) -> None:
        """See the base class."""
        self._pending.add(ids, live)

    def after_step(self) -> None:
        """See the base class."""
        super().after_step()
        written = self._pending.take()
        if written is not None:
            self._write(*written)

    def discard(self) -> None:
        """See the base class."""
        self._pending.clear()

    def _write(self, ids: Tensor, embeddings: Tensor) -> None:
        """Takes the step's examples [B] and representations [B, m] of all processes."""
        raise NotImplementedError
