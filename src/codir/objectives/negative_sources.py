"""Where the negatives of `crd` come from: rows of a bank, the mini-batch, or a queue of the last embeddings.

A source is one small class: it compares the anchors of a batch with their positives and negatives, and remembers what
later steps will need of the student. Each has the state of its own generator, and whatever it remembers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from codir.errors import ConfigError, RunError
from codir.functional.bank import Bank
from codir.functional.draws import draw_allowed
from codir.functional.gather import align_generator, gather_rows, gather_with_grad
from codir.functional.infonce import ContrastiveResult, info_nce, streamed_info_nce
from codir.functional.negatives import NegativeSampler
from codir.functional.queue import EmbeddingQueue
from codir.functional.similarity import group_similarity
from codir.objectives.base import ObjectiveContext, Step, Term
from codir.objectives.contrastive import (
    SUMMARY_ROWS,
    ContrastiveSettings,
    PendingWrites,
    bank_summary,
    check_contrastive,
    make_bank,
    make_sampler,
    negatives_name,
    number_of_negatives,
)
from codir.objectives.temperature import HIGHEST, LOWEST
from codir.storage import human_bytes


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
        default=100.0, gt=0.0, description="learn_temperature: log(1/tau) learns at so many learning rates"
    )


def _term(result: ContrastiveResult, **more: Tensor) -> Term:
    return Term(
        result.loss,
        {"accuracy": result.accuracy, "positive": result.positive, "negative": result.negative, **more},
    )


class NegativeSource:
    """Base of the sources; by itself it remembers nothing."""

    name: ClassVar[str]
    keeps: ClassVar[str | None] = None  # how the keys of its state begin

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
        return _term(result, negatives=count)


class BankSource(NegativeSource):
    """What the sources with a memory bank have in common: its rows are written after each step (Eq. 5)."""

    keeps = "bank"

    def __init__(self, settings: SourceSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self.bank: Bank = make_bank(settings, context)
        self._pending = PendingWrites(settings.dim, context.device)

    def remember(self, ids: Tensor, live: Tensor) -> None:
        """See the base class."""
        self._pending.add(ids, live)

    def after_step(self) -> None:
        """Writes the rows of the step's examples (Eq. 5)."""
        super().after_step()
        written = self._pending.take()
        if written is not None:
            ids, embeddings = written
            self.bank.update(ids, embeddings)

    def discard(self) -> None:
        """See the base class."""
        self._pending.clear()

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
    """Rows of the whole bank, chosen by a sampler (`codir.functional.negatives`): the paper's in fine-tuning."""

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
        return _term(result)

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


class LiveMiniBatch(NegativeSource):
    """Live representations of the other examples that all processes compute at the same time; there is no bank.

    Of an example that occurs twice the last representation counts, as in the bank. (A process left without an example
    at the end of an epoch computes a copy of another's.)
    """

    name = "in-batch"

    def contrast(
        self, step: Step, anchor: Tensor, live: Tensor, temperature: float | Tensor | None = None
    ) -> Term:
        """See the base class."""
        own = step.ids.to(anchor.device)
        if self.settings.negatives_gradient:
            rows, (ids,) = gather_with_grad(live), gather_rows(own)
        else:
            ids, rows = gather_rows(own, live.detach())
        again = (ids.unsqueeze(1) == ids).triu(diagonal=1).any(dim=1)  # [G] occurs once more, further on
        return self._nce(anchor, live, rows, (ids != own.unsqueeze(1)) & ~again, temperature)

    def describe(self) -> list[str]:
        """How many, and whether they are trained."""
        how = "with" if self.settings.negatives_gradient else "without"
        return [
            "negatives: live representations of the other examples computed at the same time, "
            f"{self._counted(self.context.micro_batch)}, {how} gradient"
        ]


class QueueSource(NegativeSource):
    """The student's last embeddings, of whatever examples they were: a queue instead of a bank."""

    name = "queue"
    keeps = "queue_"

    def __init__(self, settings: SourceSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self.queue = EmbeddingQueue(settings.queue_size, settings.dim, context.device)
        self._pending = PendingWrites(settings.dim, context.device)

    def contrast(
        self, step: Step, anchor: Tensor, live: Tensor, temperature: float | Tensor | None = None
    ) -> Term:
        """See the base class; while the queue is empty the loss is 0."""
        allowed = self.queue.filled & (self.queue.ids != step.ids.to(anchor.device).unsqueeze(1))
        return self._nce(anchor, live, self.queue.data, allowed, temperature)

    def remember(self, ids: Tensor, live: Tensor) -> None:
        """See the base class."""
        self._pending.add(ids, live)

    def after_step(self) -> None:
        """Puts the step's embeddings in, of an example that occurs twice the last one."""
        super().after_step()
        written = self._pending.take()
        if written is not None:
            ids, embeddings = written
            # By id, so that the queue does not depend on how the mini-batch was divided over processes.
            order = ids.argsort(stable=True)
            ids = ids[order]
            last = torch.ones_like(ids, dtype=torch.bool)
            last[:-1] = ids[1:] != ids[:-1]
            self.queue.put(ids[last], embeddings[order[last]])

    def discard(self) -> None:
        """See the base class."""
        self._pending.clear()

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


SOURCES: Mapping[str, type[NegativeSource]] = {
    cls.name: cls for cls in (MiniBatchBank, LiveMiniBatch, QueueSource)
}


def check_source(name: str, settings: SourceSettings, context: ObjectiveContext) -> None:
    """Raises `ConfigError` or `DataError` for settings that do not fit each other, the models or the data.

    Args:
        name: of the objective, for the messages.
        settings: to be checked.
        context: to be checked against.
    """
    check_contrastive(name, settings, context, SOURCES)
    if settings.learn_temperature and not LOWEST <= settings.temperature <= HIGHEST:
        raise ConfigError(
            f"{name}.temperature={settings.temperature:g} with learn_temperature: a trained temperature stays between "
            f"{LOWEST} and {HIGHEST:g}. Start it there, or drop learn_temperature."
        )
    negatives = negatives_name(settings, context)
    if settings.negatives_gradient and negatives != "in-batch":
        raise ConfigError(
            f"{name}.negatives_gradient=True with negatives: {negatives}: only live representations have a gradient; "
            "use negatives: in-batch, or drop it."
        )
    if settings.bank_init == "student":
        if negatives in ("in-batch", "queue"):
            raise ConfigError(
                f"{name}.bank_init='student' fills a memory bank, and negatives: {negatives} has none: drop it."
            )
        if context.kind == "masked-lm":
            raise ConfigError(
                f"{name}.bank_init='student' runs the student over all the data before training, which is not done "
                "with a corpus: use bank_init: random, or negatives: in-batch or queue, which need no bank."
            )
    if negatives == "in-batch-bank" and context.batch is not None and context.batch < 2:
        raise ConfigError(
            f"{name}.negatives='in-batch-bank' with {context.batch} example in a mini-batch: there is no other one to "
            "be a negative. Use batches of 2 or more, or negatives: queue or any."
        )
    together = context.micro_batch if context.micro_batch is not None else context.batch
    if negatives == "in-batch" and together is not None and together < 2:
        raise ConfigError(
            f"{name}.negatives='in-batch' with {together} example computed at a time: there is no other one to be a "
            "negative. Use micro-batches of 2 or more (accumulated ones do not see each other), or negatives: "
            "in-batch-bank or queue."
        )
    if negatives == "queue" and context.batch is not None and settings.queue_size < context.batch:
        raise ConfigError(
            f"{name}.queue_size={settings.queue_size} does not hold one mini-batch of {context.batch} examples: give "
            f"{context.batch} or more, or use negatives: in-batch-bank."
        )


def make_source(
    settings: SourceSettings, context: ObjectiveContext, sampler: NegativeSampler | None = None
) -> NegativeSource:
    """Builds the source of the settings, which have been checked; `sampler` is another source's, to be shared."""
    source = SOURCES.get(negatives_name(settings, context))
    return BankDraws(settings, context, sampler) if source is None else source(settings, context)
