"""How deep a student may be for a wish: cut students are timed beside their teacher, sizes are arithmetic.

Weights do not matter for either: a matrix product takes as long with random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from codir.errors import ConfigError, ModelError
from codir.models.loading import count_parameters, encoder_shape
from codir.models.narrowing import narrow_config
from codir.models.shallower import shallower_config
from codir.models.student import fresh_model, spread_blocks
from codir.runs.timing import RealLengths, Text, measure_requests

MEASURED_AT_ONCE = 7
"""Most students that are timed beside the teacher in one go; the depths between them are found in a second."""
TOLERANCE = 0.03
"""A time within so much of the wish meets it: measured again it falls on the other side as often as not."""
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Wish:
    """What the student is wanted to be; None: no wish.

    Attributes:
        speedup: times as fast as the teacher.
        max_ms: milliseconds that half of the requests stay within.
        max_mb: megabytes (powers of ten) of its weights in fp32.
    """

    speedup: float | None = None
    max_ms: float | None = None
    max_mb: float | None = None

    @property
    def timed(self) -> bool:
        """Whether a clock is needed to judge it."""
        return self.speedup is not None or self.max_ms is not None

    def __bool__(self) -> bool:
        return self.timed or self.max_mb is not None

    def __str__(self) -> str:
        parts = [
            (self.speedup, "{:g} times as fast as the teacher"),
            (self.max_ms, "at most {:g} ms a request"),
            (self.max_mb, "at most {:g} MB"),
        ]
        return ", ".join(text.format(value) for value, text in parts if value is not None)


@dataclass(frozen=True)
class Option:
    """A student that could be, or the teacher.

    Attributes:
        layers: its blocks.
        width: of its hidden states.
        parameters: how many.
        bytes: of its weights in fp32.
        time: measured beside the others; None where it was not.
    """

    layers: int
    width: int
    parameters: int
    bytes: int
    time: RealLengths | None = None

    @property
    def int8_bytes(self) -> int:
        """About what it takes exported in int8: one byte a parameter."""
        return self.parameters

    def misses(self, wish: Wish) -> float:
        """By what factor it misses the wish at its worst point; 1 or less: it fits. Times not measured do not count."""
        factors = [0.0]
        if wish.max_mb is not None:
            factors.append(self.bytes / _MEGABYTE / wish.max_mb)
        if self.time is not None and wish.max_ms is not None:
            factors.append(self.time.p50 / wish.max_ms / (1 + TOLERANCE))
        if self.time is not None and wish.speedup is not None:
            factors.append(wish.speedup / max(self.time.speedup, 1e-9) / (1 + TOLERANCE))
        return max(factors)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {**asdict(self), "int8_bytes": self.int8_bytes}


@dataclass(frozen=True)
class Choice:
    """The student that is proposed.

    Attributes:
        teacher: as measured; its time is None where nothing was timed.
        options: students that were looked at, deepest first.
        chosen: one of them; of no fitting ones the nearest.
        fits: whether it meets the wish.
        why: a sentence.
        otherwise: what else would meet the wish, where no depth does; sentences.
    """

    teacher: Option
    options: tuple[Option, ...]
    chosen: Option
    fits: bool
    why: str
    otherwise: tuple[str, ...] = ()


Timer = Callable[[Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]]], Mapping[str, RealLengths]]


def choose_student(
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    wish: Wish,
    *,
    layers: int | None = None,
    width: int | None = None,
    batch_size: int = 1,
    max_length: int = 128,
    rounds: int = 3,
    device: str = "cpu",
    measure: Timer | None = None,
) -> Choice:
    """Chooses the deepest student that meets a wish; without one, half of the teacher's blocks.

    Teacher and students take turns on the same requests at their real lengths (`measure_requests`). Of more than
    `MEASURED_AT_ONCE` depths some are timed first, then those around the one that a straight line through them names.

    Args:
        teacher: the teacher; it is only run.
        tokenizer: its own.
        texts: requests are made of these.
        wish: what the student should be.
        layers: settles the depth; the wish is only looked at then.
        width: of a narrower student; by default the teacher's.
        batch_size: texts in a request.
        max_length: tokens after which a text is cut.
        rounds: passes over the texts.
        device: where to measure.
        measure: replaced in tests.

    Raises:
        ConfigError: a depth or width that the teacher cannot be cut to, a family that cannot be made narrower.
        ModelError: the family does not say its shape.
    """
    shape, settled = encoder_shape(teacher), layers is not None
    if shape.blocks < 2 and layers is None:
        raise ConfigError(f"A teacher of {shape.blocks} block has no shallower student.")
    if layers is not None and not 1 <= layers <= shape.blocks:
        raise ConfigError(f"--student-layers {layers}: the teacher has {shape.blocks} blocks.")

    def timed(models: Mapping[str, tuple[PreTrainedModel, PreTrainedTokenizerBase]]) -> Any:
        return measure_requests(models, texts, batch_size, max_length, rounds, device)

    clock = measure or timed
    config = teacher.config if width is None else narrow_config(teacher.config, width)
    cut = _Cut(teacher, config)
    total, _ = count_parameters(teacher)
    own = Option(shape.blocks, shape.width, total, 4 * total)
    deepest = shape.blocks if width is not None else shape.blocks - 1
    depths = list(range(1, deepest + 1)) if layers is None else [layers]
    options = {depth: cut.option(depth) for depth in depths}

    def run(chosen: Sequence[int]) -> None:
        nonlocal own
        names = {str(depth): (cut.model(depth), tokenizer) for depth in chosen}
        times = clock({"teacher": (teacher, tokenizer), **names})
        own = replace(own, time=times["teacher"])
        for depth in chosen:
            options[depth] = replace(options[depth], time=times[str(depth)])

    half = max(1, shape.blocks // 2)
    if layers is not None or not wish.timed:
        if layers is None:
            layers = _deepest(options, wish) if wish else min(half, deepest)
        run([layers])
    else:
        first = _spread(depths)
        run(first)
        between = _between(options, wish, first)
        if between:
            run(between)
        layers = _deepest({depth: each for depth, each in options.items() if each.time is not None}, wish)
    chosen = options[layers]
    fits = chosen.misses(wish) <= 1
    shown = [each for each in options.values() if each.time is not None or wish.max_mb is not None]
    otherwise = (
        () if fits else tuple(_otherwise(teacher, tokenizer, options, chosen, own, wish, clock, width))
    )
    return Choice(
        own,
        tuple(sorted(shown, key=lambda each: -each.layers)),
        chosen,
        fits,
        _why(chosen, own, wish, fits, options.get(layers + 1), settled),
        otherwise,
    )


class _Cut:
    """Students of the teacher's family with random weights."""

    def __init__(self, teacher: PreTrainedModel, config: PretrainedConfig):
        self.kind, self.config, self.blocks = type(teacher), config, encoder_shape(teacher).blocks

    def config_of(self, depth: int) -> PretrainedConfig:
        return shallower_config(self.config, spread_blocks(self.blocks, depth))

    def option(self, depth: int) -> Option:
        with torch.device("meta"):  # no memory for the weights
            model = self.kind(self.config_of(depth))
        total, _ = count_parameters(model)
        return Option(depth, encoder_shape(model).width, total, 4 * total)

    def model(self, depth: int) -> PreTrainedModel:
        return fresh_model(self.kind, self.config_of(depth), seed=0)


def _spread(depths: Sequence[int]) -> list[int]:
    if len(depths) <= MEASURED_AT_ONCE:
        return list(depths)
    steps = MEASURED_AT_ONCE - 2  # room for those between
    return sorted({depths[round(number * (len(depths) - 1) / (steps - 1))] for number in range(steps)})


def _between(options: Mapping[int, Option], wish: Wish, measured: Sequence[int]) -> list[int]:
    """Returns the depths, not measured yet, on both sides of where a straight line through the times meets the wish."""
    fitting = [depth for depth in measured if options[depth].misses(wish) <= 1]
    low = max(fitting, default=None)
    if low is None:
        return []
    high = min((depth for depth in measured if depth > low), default=None)
    if high is None or high - low < 2:
        return []
    a, b = options[low].misses(wish), options[high].misses(wish)
    near = low + (high - low) * (1 - a) / (b - a) if b > a else low + 1
    return sorted({min(max(int(near) + step, low + 1), high - 1) for step in (0, 1)})


def _deepest(options: Mapping[int, Option], wish: Wish) -> int:
    """Returns the deepest that fits; of none the one that misses by the least."""
    fitting = [depth for depth, option in options.items() if option.misses(wish) <= 1]
    return max(fitting) if fitting else min(options, key=lambda depth: options[depth].misses(wish))


def _why(
    chosen: Option, teacher: Option, wish: Wish, fits: bool, next_one: Option | None, settled: bool
) -> str:
    found = f"{chosen.bytes / _MEGABYTE:.1f} MB"
    if chosen.time is not None:
        found = f"{chosen.time.speedup:.2f} times as fast, {chosen.time.p50:.2f} ms a request, {found}"
    of = f"{chosen.layers} of {teacher.layers} blocks"
    if not wish:
        return f"{of}{', as you settled' if settled else ', half, as no wish was given'}: {found}."
    if not fits and settled:
        return (
            f"{of}, as you settled, do not meet the wish ({wish}): {found}. Without --student-layers the other depths "
            "are looked at, too."
        )
    if not fits:
        return f"No depth fits the wish ({wish}); {of} comes nearest: {found}."
    strictly = chosen.time is not None and (
        (wish.max_ms is not None and chosen.time.p50 > wish.max_ms)
        or (wish.speedup is not None and chosen.time.speedup < wish.speedup)
    )
    noise = f" (within {TOLERANCE:.0%}, the noise of such a measurement)" if strictly else ""
    deeper = "; one block more does not fit" if next_one is not None and next_one.misses(wish) > 1 else ""
    return f"{of} fits the wish ({wish}){noise}: {found}{deeper}."


def _otherwise(
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    options: Mapping[int, Option],
    chosen: Option,
    own: Option,
    wish: Wish,
    clock: Timer,
    width: int | None,
) -> list[str]:
    found = []
    half = max(1, own.layers // 2)
    if wish.max_mb is not None and chosen.bytes / _MEGABYTE > wish.max_mb:
        small = [each for each in options.values() if each.int8_bytes / _MEGABYTE <= wish.max_mb]
        up_to_half = [each for each in small if each.layers <= half] or small
        if up_to_half:
            best = max(up_to_half, key=lambda each: each.layers)
            found.append(
                f"Exported in int8 (`codir export --quantize int8`) a student of {best.layers} of {own.layers} blocks "
                f"takes about {best.int8_bytes / _MEGABYTE:.1f} MB, a byte a parameter: --student-layers {best.layers}."
            )
        else:
            found.append(f"Not even int8 is enough: about {chosen.int8_bytes / _MEGABYTE:.1f} MB.")
    if wish.timed:
        found.append(
            "Exported students are faster than PyTorch's in fp32, in bf16 or int8 by several times on processors made "
            "for it: `codir latency MODEL --engines torch,torch-bf16,openvino` measures it here."
        )
    if width is not None:
        return found
    try:
        heads = int(teacher.config.num_attention_heads)
        size = own.width // heads
        for share in (2 / 3, 1 / 2, 1 / 3):
            narrow = max(1, round(heads * share)) * size
            cut = _Cut(teacher, narrow_config(teacher.config, narrow))
            option = cut.option(half)
            if wish.timed:
                models = {"teacher": (teacher, tokenizer), "narrow": (cut.model(half), tokenizer)}
                option = replace(option, time=clock(models)["narrow"])
            if option.misses(wish) <= 1 and narrow < own.width:
                time = f"{option.time.p50:.2f} ms a request, " if option.time is not None else ""
                found.append(
                    f"A narrower student fits: {half} blocks, {narrow} wide: {time}{option.bytes / _MEGABYTE:.1f} MB "
                    f"(`--student-width {narrow}`); narrower students lose more."
                )
                break
    except (AttributeError, ConfigError, ModelError, TypeError, ValueError, RuntimeError):
        pass  # a family that cannot be made narrower so simply
    return found
