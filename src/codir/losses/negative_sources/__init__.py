"""Where the negatives of `crd` come from: rows of a bank, the mini-batch, or a queue of the last embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from codir.contrast.negatives import NegativeSampler
from codir.errors import ConfigError
from codir.losses.base import ObjectiveContext
from codir.losses.contrastive import check_contrastive, negatives_name
from codir.losses.negative_sources.bank import BankDraws, MiniBatchBank
from codir.losses.negative_sources.base import NegativeSource, SourceSettings
from codir.losses.negative_sources.batch import LiveMiniBatch
from codir.losses.negative_sources.queue import QueueSource
from codir.losses.temperature import HIGHEST, LOWEST

SOURCES: Mapping[str, type[NegativeSource]] = {
    cls.name: cls for cls in (MiniBatchBank, LiveMiniBatch, QueueSource)
}


def has_bank(negatives: str) -> bool:
    """Whether negatives of that name come out of a memory bank."""
    return SOURCES.get(negatives, BankDraws).has_bank


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
        if not has_bank(negatives):
            raise ConfigError(
                f"{name}.bank_init='student' fills a memory bank, and negatives: {negatives} has none: drop it."
            )
        if context.kind.per_token:
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
