"""Contrastive distillation of intermediate representations, as the paper defines it (Eq. 3 to 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from codir.contrast.bank import Bank
from codir.contrast.negatives import NegativeSampler
from codir.errors import ConfigError, RunError
from codir.losses.base import Needs, Objective, ObjectiveContext, ObjectiveSettings, Step, Term
from codir.losses.contrast import Contrast, mean_term
from codir.losses.contrastive import storage_of
from codir.losses.matched_states import Pairs, matched, say_pairs
from codir.losses.negative_sources import check_source
from codir.losses.negative_sources.bank import BankDraws, BankSource
from codir.losses.negative_sources.base import NegativeSource, SourceSettings
from codir.losses.temperature import LearnedTemperature
from codir.models.matching import MATCHING_HELP, Matching
from codir.models.representations import Pooling, Representations
from codir.storage import human_bytes

_SEEDS = 1000  # between the seeds of two pairs of blocks


class CRDSettings(SourceSettings):
    """Settings of the objective `crd`."""

    contrast: Literal["concatenated", "blocks"] = Field(
        default="concatenated",
        description="one contrast of all chosen blocks together (Eq. 3), or one for each pair of matched blocks",
    )
    matching: Matching = Field(default="spread", description=f"contrast: blocks only: {MATCHING_HELP}")


class CRD(Objective):
    """InfoNCE between the teacher's and the student's representation of an example (Eq. 4).

    The anchor is the teacher's representation, the positive the live student's, the negatives are the student's
    representations of other examples: rows of the memory bank, or what `codir.losses.negative_sources` offers
    beside it. Both projections are trained. Rows are written (Eq. 5) once the optimiser has stepped, from training
    batches only. Everything from the projections on is fp32: exp(cos / 0.07) overflows half precision.

    A representation is the concatenation of all chosen blocks (Eq. 3). With `contrast: blocks` there is one contrast
    for each pair of matched blocks instead, each with its own two projections, bank (or queue) and draws; loss and
    metrics are the means over the pairs.

    Metrics: `accuracy`, how often the positive ranks before every negative; `positive` and `negative`, the mean cosine
    of an anchor with its positive and with the negatives that count for it (a loss that falls while both rise tells no
    examples apart: the representations drift to one point); `negatives`, where their number is not fixed: how many an
    anchor has on average; `temperature`, where it is learned; `block_S`, where there are several pairs: the loss of
    each of the student's blocks.

    Attributes:
        pairs: the matched blocks of `contrast: blocks`, (student's, teacher's); empty otherwise.
        contrasts: one, or one for each pair.
        learned_temperature: tau as a parameter; None where it is fixed.
    """

    name = "crd"
    Settings = CRDSettings

    def __init__(self, settings: ObjectiveSettings, context: ObjectiveContext):
        super().__init__(settings, context)
        self._settings = settings = cast(CRDSettings, settings)
        if context.teacher is None:
            raise ConfigError("The objective 'crd' needs a teacher and there is none.")
        self.pairs: Pairs = ()
        self.contrasts: tuple[Contrast, ...]
        if settings.contrast == "blocks":
            self.pairs = matched(self.name, settings.matching, context.student, context.teacher)
            self.contrasts = _of_pairs(settings, context, self.pairs)
            self.blocks = nn.ModuleDict(
                {
                    name: nn.ModuleDict(
                        {"teacher": each.teacher_projection, "student": each.student_projection}
                    )
                    for name, each in zip(self._names, self.contrasts, strict=True)
                }
            )
        else:
            only = Contrast(settings, context, settings.teacher_blocks, settings.student_blocks)
            self.contrasts = (only,)
            self.teacher_projection, self.student_projection = (
                only.teacher_projection,
                only.student_projection,
            )
        self.learned_temperature = None
        if settings.learn_temperature:
            self.learned_temperature = LearnedTemperature(settings.temperature, settings.temperature_rate)
        self.to(context.device)

    @property
    def _names(self) -> list[str]:
        """What the contrasts of single blocks are called; empty where there is one of all."""
        return [f"block_{own}" for own, _ in self.pairs]

    @property
    def source(self) -> NegativeSource:
        """Where the negatives come from; of several pairs of blocks the last one's."""
        return self.contrasts[-1].source

    @property
    def bank(self) -> Bank:
        """The memory bank, of several pairs of blocks the last one's; `ConfigError` if the negatives need none."""
        if not isinstance(self.source, BankSource):
            raise ConfigError(f"crd.negatives={self._settings.negatives!r} has no memory bank.")
        return self.source.bank

    @property
    def sampler(self) -> NegativeSampler:
        """The sampler of bank rows; `ConfigError` if the negatives are not drawn from the whole bank."""
        if not isinstance(self.source, BankDraws):
            raise ConfigError(f"crd.negatives={self._settings.negatives!r} has no sampler of bank rows.")
        return self.source.sampler

    @classmethod
    def needs(cls, settings: ObjectiveSettings) -> Needs:
        """One pooling of all blocks."""
        return Needs(pooled=frozenset({cast(CRDSettings, settings).pooling}))

    @classmethod
    def check(cls, settings: ObjectiveSettings, context: ObjectiveContext) -> None:
        """Raises `ConfigError` or `DataError` for settings that do not fit the models or the data."""
        settings = cast(CRDSettings, settings)
        check_source(cls.name, settings, context)
        if settings.contrast == "concatenated" and settings.matching != "spread":
            raise ConfigError(
                f"crd.matching={settings.matching!r} says which blocks are contrasted in pairs, and contrast: "
                "concatenated takes all chosen ones together: use contrast: blocks, or teacher_blocks and "
                "student_blocks."
            )
        if settings.contrast == "blocks" and context.teacher is not None:
            for side in ("teacher", "student"):
                chosen = getattr(settings, f"{side}_blocks")
                if chosen != "all":
                    raise ConfigError(
                        f"crd.{side}_blocks={chosen!r} with contrast: blocks, where `matching` chooses the blocks: "
                        f"use matching (spread, skip, last, top, or pairs), and drop {side}_blocks."
                    )
            matched(cls.name, settings.matching, context.student, context.teacher)

    def forward(self, step: Step) -> Term:
        """Reads the pooled blocks [B, blocks, d] of both sides; in training the student's are kept for later steps."""
        with torch.autocast(self.context.device.type, enabled=False):
            tau = (
                self._settings.temperature if self.learned_temperature is None else self.learned_temperature()
            )
            terms = [each(step, tau, self.training) for each in self.contrasts]
            term = terms[0] if len(terms) == 1 else mean_term(dict(zip(self._names, terms, strict=True)))
        if isinstance(tau, Tensor):
            term.metrics["temperature"] = tau.detach()
        return term

    @classmethod
    def prefill_needs(cls, settings: ObjectiveSettings) -> frozenset[Pooling]:
        """A pass of the student if `bank_init` is `student`."""
        settings = cast(CRDSettings, settings)
        return frozenset({settings.pooling}) if settings.bank_init == "student" else frozenset()

    @torch.no_grad()
    def prefill(self, ids: Tensor, student: Representations) -> None:
        """Sets rows to the student's projected representations, without momentum, if `bank_init` is `student`."""
        if self._settings.bank_init != "student":  # the pass is made for another objective
            return
        for each in self.contrasts:
            each.prefill(ids, student)

    def describe(self) -> list[str]:
        """The chosen blocks, the negatives and what they take of memory; the temperature if it is learned."""
        pooling, first = f"({self._settings.pooling} pooling)", self.contrasts[0]
        if self.pairs:
            lines = [f"{say_pairs(self.name, self.pairs)} {pooling}"]
        else:
            lines = [
                f"teacher blocks: {first.teacher_projection.describe()} {pooling}",
                f"student blocks: {first.student_projection.describe()} {pooling}",
            ]
        if len(self.contrasts) == 1:
            lines += first.source.describe()
        else:
            lines += [f"of each pair: {line}" for line in first.source.describe()]
            banks = [each.source.bank for each in self.contrasts if isinstance(each.source, BankSource)]
            if banks:
                lines.append(
                    f"memory of {len(banks)} banks: {human_bytes(sum(bank.nbytes for bank in banks))}"
                )
        return lines if self.learned_temperature is None else [*lines, self.learned_temperature.describe()]

    def after_step(self) -> None:
        """Writes the rows of the step's examples (Eq. 5) and keeps a learned temperature in its range."""
        if self.learned_temperature is not None:
            self.learned_temperature.clamp()
        for each in self.contrasts:
            each.source.after_step()

    def discard_step(self) -> None:
        """Forgets the step's rows."""
        for each in self.contrasts:
            each.source.discard()

    def checkpoint_saved(self, step: int, kept: Sequence[int]) -> None:
        """For a bank that is not part of checkpoints."""
        for each in self.contrasts:
            each.source.checkpoint_saved(step, kept)

    def rewind(self, step: int) -> None:
        """For a bank that is not part of checkpoints."""
        for each in self.contrasts:
            each.source.rewind(step)

    def extra_state(self) -> dict[str, Tensor]:
        """The bank's rows or the queue, and the generator of the draws; of pairs of blocks named `block_S/KEY`."""
        if not self.pairs:
            return self.source.state()
        return {
            f"{name}/{key}": value
            for name, each in zip(self._names, self.contrasts, strict=True)
            for key, value in each.source.state().items()
        }

    def summary_tensors(self) -> dict[str, Tensor]:
        """Both projections, and some rows of the bank or the queue; of several pairs of blocks the last one's."""
        return self.contrasts[-1].summary()

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores them; those of another size, of other negatives or of other blocks raise `RunError`."""
        if not self.pairs:
            self.source.load_state(state)
            return
        own = {name: {} for name in self._names}
        for key, value in state.items():
            name, _, rest = key.partition("/")
            own.setdefault(name, {})[rest] = value
        if own.keys() != set(self._names) or not all(own.values()):
            there = ", ".join(sorted(name for name, found in own.items() if found))
            raise RunError(
                f"The checkpoint's contrasts ({there}) are not this run's ({', '.join(self._names)}): resume with the "
                "contrast and matching of the run, or start a new one."
            )
        for name, each in zip(self._names, self.contrasts, strict=True):
            each.source.load_state(own[name])


def _of_pairs(settings: CRDSettings, context: ObjectiveContext, pairs: Pairs) -> tuple[Contrast, ...]:
    """Builds a contrast for each pair: seeds and folders of their own, one sampler for all (an index may be large)."""
    contrasts: list[Contrast] = []
    sampler: NegativeSampler | None = None
    for position, (own, other) in enumerate(pairs):
        folder = None if context.folder is None else context.folder / f"block_{own}"
        of_pair = replace(context, seed=context.seed + _SEEDS * position, folder=folder)
        if not position:  # all banks lie where all of them fit
            settings = settings.model_copy(update={"bank_storage": storage_of(settings, of_pair, len(pairs))})
        contrasts.append(Contrast(settings, of_pair, [other], [own], sampler))
        source = contrasts[-1].source
        sampler = source.sampler if isinstance(source, BankDraws) else None
    return tuple(contrasts)
