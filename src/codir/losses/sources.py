"""Where the negatives of `crd` come from: rows of a bank that a sampler draws, or the mini-batch's other examples."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from codir.contrast.draws import draw_allowed
from codir.contrast.infonce import ContrastiveResult, group_similarity, info_nce
from codir.errors import ConfigError
from codir.gather import align_generator, gather_rows, gather_with_grad
from codir.losses.base import ObjectiveContext, Step, Term
from codir.losses.contrastive import (
    ContrastiveSettings,
    PendingWrites,
    check_contrastive,
    make_bank,
    make_sampler,
    negatives_name,
    number_of_negatives,
)


class CRDSettings(ContrastiveSettings):
    """Settings of the loss `crd`."""

    negatives_gradient: bool = Field(
        default=False, description="in-batch: whether the student is also trained through the negatives"
    )


def _term(result: ContrastiveResult, **more: Tensor) -> Term:
    measured = {"accuracy": result.accuracy, "positive": result.positive, "negative": result.negative}
    return Term(result.loss, {**measured, **more})


class NegativeSource(nn.Module):
    """Base of the sources: they compare the anchors of a batch with positives and negatives."""

    name: ClassVar[str]
    has_bank: ClassVar[bool] = False

    def __init__(self, settings: CRDSettings, context: ObjectiveContext, generator: torch.Generator):
        super().__init__()
        self.settings, self.context, self.generator = settings, context, generator
        self.k: int | Literal["all"] = number_of_negatives(settings, context)

    def forward(self, step: Step, anchor: Tensor, live: Tensor) -> Term:
        """InfoNCE (Eq. 4) of the anchors [B, m] and the student's live representations [B, m], their positives.

        Both are unit vectors in fp32, in the order of `step.ids`. Called by every process, outside of autocast.
        """
        raise NotImplementedError

    def remember(self, ids: Tensor, live: Tensor) -> None:
        """Keeps the student's representations [B, m] of a training batch until the optimiser has stepped."""

    def after_step(self, stepped: bool) -> None:
        """Writes what was kept, or forgets it if there was no step. Called by every process."""
        if stepped and self.k != "all":  # processes may have drawn for different numbers of anchors
            align_generator(self.generator)

    def describe(self) -> list[str]:
        """What the negatives are, and the memory they take."""
        raise NotImplementedError

    def _counted(self, batch: int | None) -> str:
        """K in words, out of a batch of a known size."""
        if self.k != "all":
            return f"K = {self.k}, {self.settings.sharing}"
        return "K = all" if batch is None else f"K = all {batch - 1:,}"

    def _contrast_with(self, anchor: Tensor, live: Tensor, rows: Tensor, allowed: Tensor) -> Term:
        """Contrasts with those of the rows [G, m] that are allowed [B, G], or K of them."""
        if self.k != "all":
            allowed = draw_allowed(allowed, self.k, self.settings.sharing == "shared", self.generator)
        positive = (anchor * live).sum(dim=1)
        result = info_nce(positive, anchor @ rows.T, self.settings.temperature, allowed)
        return _term(result, negatives=allowed.sum(dim=1, dtype=torch.float32).mean())


class BankSource(NegativeSource):
    """What the sources with a memory bank have in common: its rows are written after each step (Eq. 5)."""

    has_bank = True

    def __init__(self, settings: CRDSettings, context: ObjectiveContext, generator: torch.Generator):
        super().__init__(settings, context, generator)
        self.bank = make_bank(settings, context)
        self._pending = PendingWrites(settings.dim, context.device)

    def remember(self, ids: Tensor, live: Tensor) -> None:
        """See the base class."""
        self._pending.add(ids, live)

    def after_step(self, stepped: bool) -> None:
        """See the base class."""
        super().after_step(stepped)
        if not stepped:
            self._pending.clear()
        elif (written := self._pending.take()) is not None:
            self.bank.update(*written)


class BankDraws(BankSource):
    """Rows of the whole bank, chosen by a sampler (`codir.contrast.negatives`): the paper's in fine-tuning."""

    def __init__(self, settings: CRDSettings, context: ObjectiveContext, generator: torch.Generator):
        super().__init__(settings, context, generator)
        self.sampler = make_sampler(settings, context, self.generator)

    def forward(self, step: Step, anchor: Tensor, live: Tensor) -> Term:
        """See the base class."""
        tau, positive = self.settings.temperature, (anchor * live).sum(dim=1)
        if self.k == "all":
            similarity = anchor @ self.bank.data.to(anchor).T  # [B, N]
            mask = self.sampler.admissible(step.ids).to(anchor.device)
            return _term(info_nce(positive, similarity, tau, mask))
        negatives = self.sampler.draw(step.ids, self.k)
        similarity = group_similarity(anchor, self.bank.rows(negatives.ids), negatives.group)  # [B, K]
        mask = None if negatives.mask is None else negatives.mask[negatives.group]
        return _term(info_nce(positive, similarity, tau, mask))

    def describe(self) -> list[str]:
        """See the base class."""
        return [
            f"negatives: {self.sampler.name}, K = {self.k}, {self.settings.sharing}",
            f"memory bank: {self.bank.describe()}",
        ]


class MiniBatchBank(BankSource):
    """Bank rows of the other examples of the mini-batch: the paper's in pre-training (Section 3.3).

    The mini-batch is that of the optimiser step. An example that occurs twice in it counts once.
    """

    name = "in-batch-bank"

    def __init__(self, settings: CRDSettings, context: ObjectiveContext, generator: torch.Generator):
        super().__init__(settings, context, generator)
        # The ids of the step's mini-batch as they came, each of them once, and their rows: the accumulated batches of
        # one step read the same rows, and no row changes before its end.
        self._read: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, step: Step, anchor: Tensor, live: Tensor) -> Term:
        """See the base class."""
        given = step.batch_ids
        if given is None or self._read is None or self._read[0] is not given:
            batch = gather_rows(step.ids)[0] if given is None else given
            unique = torch.unique(batch.to(anchor.device))
            self._read = batch, unique, self.bank.rows(unique).to(anchor)
        _, batch, rows = self._read
        return self._contrast_with(anchor, live, rows, batch != step.ids.to(anchor.device).unsqueeze(1))

    def after_step(self, stepped: bool) -> None:
        """See the base class."""
        self._read = None
        super().after_step(stepped)

    def describe(self) -> list[str]:
        """See the base class."""
        return [
            f"negatives: bank rows of the other examples of the mini-batch, {self._counted(self.context.batch)}",
            f"memory bank: {self.bank.describe()}",
        ]


class LiveMiniBatch(NegativeSource):
    """Live representations of the other examples that all processes compute at the same time; there is no bank.

    Of an example that occurs twice the last representation counts, as in the bank. (A process left without an example
    at the end of an epoch computes a copy of another's.)
    """

    name = "in-batch"

    def forward(self, step: Step, anchor: Tensor, live: Tensor) -> Term:
        """See the base class."""
        own = step.ids.to(anchor.device)
        if self.settings.negatives_gradient:
            rows, (ids,) = gather_with_grad(live), gather_rows(own)
        else:
            ids, rows = gather_rows(own, live.detach())
        again = (ids.unsqueeze(1) == ids).triu(diagonal=1).any(dim=1)  # [G] occurs once more, further on
        return self._contrast_with(anchor, live, rows, (ids != own.unsqueeze(1)) & ~again)

    def describe(self) -> list[str]:
        """See the base class."""
        how = "with" if self.settings.negatives_gradient else "without"
        return [
            "negatives: live representations of the other examples computed at the same time, "
            f"{self._counted(self.context.micro_batch)}, {how} gradient"
        ]


SOURCES: dict[str, type[NegativeSource]] = {cls.name: cls for cls in (MiniBatchBank, LiveMiniBatch)}
"""The sources beside `BankDraws`, which stands for all samplers."""


def has_bank(negatives: str) -> bool:
    """Whether negatives of that name come out of a memory bank."""
    return SOURCES.get(negatives, BankDraws).has_bank


def check_source(name: str, settings: CRDSettings, context: ObjectiveContext) -> None:
    """Raises `ConfigError` or `DataError` for settings of the loss `name` that do not fit each other or the data."""
    check_contrastive(name, settings, context, SOURCES)
    negatives = negatives_name(settings, context)
    if settings.negatives_gradient and negatives != "in-batch":
        raise ConfigError(
            f"{name}.negatives_gradient=True with negatives: {negatives}: only live representations have a gradient; "
            "use negatives: in-batch, or drop it."
        )
    if negatives == "in-batch-bank" and context.batch is not None and context.batch < 2:
        raise ConfigError(
            f"{name}.negatives='in-batch-bank' with {context.batch} example in a mini-batch: there is no other one to "
            "be a negative. Use batches of 2 or more, or negatives: any."
        )
    together = context.micro_batch if context.micro_batch is not None else context.batch
    if negatives == "in-batch" and together is not None and together < 2:
        raise ConfigError(
            f"{name}.negatives='in-batch' with {together} example computed at a time: there is no other one to be a "
            "negative. Use micro-batches of 2 or more (accumulated ones do not see each other), or negatives: "
            "in-batch-bank."
        )


def make_source(
    settings: CRDSettings, context: ObjectiveContext, generator: torch.Generator
) -> NegativeSource:
    """Builds the source of the settings, which have been checked."""
    return SOURCES.get(negatives_name(settings, context), BankDraws)(settings, context, generator)
