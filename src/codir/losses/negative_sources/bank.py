"""Negatives out of a memory bank: rows that a sampler draws, or those of the mini-batch's other examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from codir.contrast.bank import Bank
from codir.contrast.infonce import info_nce, streamed_info_nce
from codir.contrast.negatives import NegativeSampler
from codir.contrast.similarity import group_similarity
from codir.gather import gather_rows
from codir.losses.base import ObjectiveContext, Step, Term
from codir.losses.contrastive import bank_summary, make_bank, make_sampler
from codir.losses.negative_sources.base import RememberingSource, SourceSettings, contrastive_term


class BankSource(RememberingSource):
    """What the sources with a memory bank have in common: its rows are written after each step (Eq. 5)."""

    keeps = "bank"
    has_bank = True

    def __init__(self, settings: SourceSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self.bank: Bank = make_bank(settings, context)

    def _write(self, ids: Tensor, embeddings: Tensor) -> None:
        """Writes the rows of the step's examples (Eq. 5)."""
        self.bank.update(ids, embeddings)

    def prefill(self, ids: Tensor, rows: Tensor) -> None:
        """Sets rows, without momentum."""
        self.bank.update(ids, rows, momentum=0.0)

    def state(self) -> dict[str, Tensor]:
        """The generator and what the bank puts into a checkpoint."""
        rows = {"bank" if key == "rows" else f"bank_{key}": value for key, value in self.bank.state().items()}
        return {**rows, **super().state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See the base class."""
        super().load_state(state)
        self.bank.load_state(
            {
                "rows" if key == "bank" else key.removeprefix("bank_"): value
                for key, value in state.items()
                if key.startswith("bank")
            }
        )

    def summary(self) -> dict[str, Tensor]:
        """See the base class."""
        return bank_summary(self.bank, self.context.labels)

    def checkpoint_saved(self, step: int, kept: Sequence[int]) -> None:
        """See `Objective.checkpoint_saved`."""
        self.bank.checkpoint_saved(step, kept)

    def rewind(self, step: int) -> None:
        """See `Objective.rewind`."""
        self.discard()
        self.bank.rewind(step)


class BankDraws(BankSource):
    """Rows of the whole bank, chosen by a sampler (`codir.contrast.negatives`): the paper's in fine-tuning."""

    def __init__(
        self, settings: SourceSettings, context: ObjectiveContext, sampler: NegativeSampler | None = None
    ):
        super().__init__(settings, context)
        self.sampler = make_sampler(settings, context) if sampler is None else sampler
        self.generator = self.sampler.generator

    def contrast(
        self, step: Step, anchor: Tensor, live: Tensor, temperature: float | Tensor | None = None
    ) -> Term:
        """See the base class."""
        tau, positive = self._tau(temperature), (anchor * live).sum(dim=1)
        if self.k == "all":
            result = streamed_info_nce(anchor, positive, self.bank, self.sampler.admissible(step.ids), tau)
        else:
            negatives = self.sampler.draw(step.ids, self.k)
            similarity = group_similarity(anchor, self.bank.rows(negatives.ids), negatives.group)  # [B, K]
            mask = None if negatives.mask is None else negatives.mask[negatives.group]
            result = info_nce(positive, similarity, tau, mask)
        return contrastive_term(result)

    def describe(self) -> list[str]:
        """The sampler and the bank's memory."""
        return [
            f"negatives: {self.sampler.name}, K = {self.k}, {self.settings.sharing}",
            f"memory bank: {self.bank.describe()}",
        ]


class MiniBatchBank(BankSource):
    """Bank rows of the other examples of the mini-batch: the paper's in pre-training (Section 3.3).

    The mini-batch is that of the optimiser step. An example that occurs twice in it counts once.
    """

    name = "in-batch-bank"

    def __init__(self, settings: SourceSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        # The ids of the step's mini-batch as they came, each of them once, and their rows: the accumulated batches of
        # one step read the same rows, and no row changes before its end.
        self._read: tuple[Tensor, Tensor, Tensor] | None = None

    def contrast(
        self, step: Step, anchor: Tensor, live: Tensor, temperature: float | Tensor | None = None
    ) -> Term:
        """See the base class."""
        given = step.batch_ids
        if given is None or self._read is None or self._read[0] is not given:
            batch = gather_rows(step.ids)[0] if given is None else given
            unique = torch.unique(batch.to(anchor.device))
            self._read = batch, unique, self.bank.rows(unique).to(anchor)
        _, batch, rows = self._read
        return self._nce(anchor, live, rows, batch != step.ids.to(anchor.device).unsqueeze(1), temperature)

    def after_step(self) -> None:
        """See the base class."""
        self._read = None
        super().after_step()

    def discard(self) -> None:
        """See the base class."""
        self._read = None
        super().discard()

    def prefill(self, ids: Tensor, rows: Tensor) -> None:
        """See the base class."""
        self._read = None
        super().prefill(ids, rows)

    def describe(self) -> list[str]:
        """How many, and the bank's memory."""
        return [
            f"negatives: bank rows of the other examples of the mini-batch, {self._counted(self.context.batch)}",
            f"memory bank: {self.bank.describe()}",
        ]
