"""Which layers of an encoder are meant: those that are compared, those that are matched, those a student starts from.

Layers are counted from 1; the embedding layer is none and cannot be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator

from codir.errors import ConfigError, ModelError, nearest

_NAMED_CHOICES = ("all", "every-other", "odd")
_NAMED_MATCHINGS = ("spread", "skip", "last", "top")
_NAMED_STARTS = ("spread", "ends", "first", "last", "random")

Initialisation = Literal["spread", "ends", "first", "last", "random"] | Sequence[int]


def choose_layers(spec: str | Sequence[int], layers: int) -> tuple[int, ...]:
    """Resolves a choice of layers to their numbers, in the order given (ascending for a named choice).

    Args:
        spec: `all`; `every-other`, every second layer counted back from the last one, which is therefore in
            (2, 4, ..., 12 of 12); `odd`, 1, 3, 5, ... as in the released code, which never matches the last of 12;
            or the numbers themselves, as a list or as text such as "2,4,6".
        layers: how many layers the encoder has.

    Raises:
        ConfigError: an unknown word, no number, a number outside 1..layers, or one given twice.
    """
    if isinstance(spec, str):
        word = spec.strip().lower()
        if word in _NAMED_CHOICES:
            first = 2 - layers % 2 if word == "every-other" else 1
            return tuple(range(first, layers + 1, 1 if word == "all" else 2))
        try:
            numbers = [int(part) for part in word.split(",")]
        except ValueError:
            raise ConfigError(
                f"Cannot read the choice of layers {spec!r}{nearest(word, _NAMED_CHOICES)}: give one of "
                f"{', '.join(_NAMED_CHOICES)}, or numbers such as 2,4,6, counted from 1."
            ) from None
    else:
        numbers = [int(number) for number in spec]
    if not numbers:
        raise ConfigError(f"The choice of layers is empty: choose at least one of the layers 1..{layers}.")
    for number in numbers:
        if not 1 <= number <= layers:
            raise ConfigError(
                f"Layer {number} in {spec!r} does not exist: the encoder has the layers 1..{layers}, counted from 1; "
                "the embedding layer is none and cannot be chosen."
            )
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"A layer is given twice in {spec!r}: name each of the layers 1..{layers} at most once.")
    return tuple(numbers)


def _known(spec: str | list[tuple[int, int]]) -> str | list[tuple[int, int]]:
    """Refuses an unknown word when a recipe is read, where its line is known."""
    if isinstance(spec, str) and spec.strip().lower() not in _NAMED_MATCHINGS:
        raise ValueError(
            f"unknown matching of layers {spec!r}{nearest(spec, _NAMED_MATCHINGS)}: choose one of "
            f"{', '.join(_NAMED_MATCHINGS)}, or pairs [[student, teacher], ...] counted from 1."
        )
    return spec


Matching = Annotated[str | list[tuple[int, int]], AfterValidator(_known)]

MATCHING_HELP = (
    "which layers are matched: `spread` evenly, the last ones included; `skip`, the same without the last pair; "
    "`last`, the student's layers with the teacher's last ones, without the last pair; `top`, the last ones only; or "
    "pairs [[student, teacher], ...] counted from 1"
)


def match_layers(spec: Matching, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Resolves a matching to pairs (layer of the student, layer of the teacher), by the student's layer.

    Args:
        spec: for a student of S and a teacher of T layers
            `spread`: s with floor(s * T / S) for s = 1..S (TinyBERT's uniform mapping; 12 to 6: 2, 4, ..., 12);
            `skip`: the same for s = 1..S-1 (PKD-Skip: the last layer is left to the loss on the predictions);
            `last`: s with T - S + s for s = 1..S-1 (PKD-Last; 12 to 6: 7, 8, 9, 10, 11);
            `top`: S with T alone (MiniLM, DistilBERT);
            or the pairs themselves, in any order.
        student: S.
        teacher: T.

    Raises:
        ConfigError: an unknown word, a layer that does not exist, a student's layer given twice, or nothing to match.
    """
    if isinstance(spec, str):
        try:
            word = str(_known(spec)).strip().lower()
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if student > teacher:
            raise ConfigError(
                f"The student has {student} layers and the teacher {teacher}: name the pairs yourself, or choose a "
                "student that is not deeper."
            )
        own = range(1, student + 1)
        pairs = list(zip(own, spread_layers(teacher, student), strict=True))
        if word == "last":
            pairs = [(number, teacher - student + number) for number in own]
        pairs = pairs[-1:] if word == "top" else pairs if word == "spread" else pairs[:-1]
    else:
        pairs = sorted((int(own), int(other)) for own, other in spec)
        for pair in pairs:
            for number, depth, side in zip(pair, (student, teacher), ("student", "teacher"), strict=True):
                if not 1 <= number <= depth:
                    raise ConfigError(
                        f"The pair {list(pair)} names layer {number} of the {side}, which has the layers 1..{depth}. "
                        "Pairs are [student, teacher], counted from 1; the embedding layer is none."
                    )
        if len({own for own, _ in pairs}) < len(pairs):
            raise ConfigError(f"A layer of the student is matched twice in {spec}: each can learn from one layer only.")
    if not pairs:
        raise ConfigError(
            f"The matching {spec!r} leaves nothing of a student with {student} layer(s) and a teacher with {teacher}: "
            "choose `spread` or `top`, or name pairs [[student, teacher], ...]."
        )
    return tuple(pairs)


def spread_layers(teacher_layers: int, layers: int) -> list[int]:
    """Evenly spread layers, the last one included: layer floor(i * T / S) for i = 1..S.

    12 layers to 6 gives 2, 4, 6, 8, 10, 12; 12 to 5 gives 2, 4, 7, 9, 12.
    """
    return [step * teacher_layers // layers for step in range(1, layers + 1)]


def chosen_layers(
    teacher_layers: int, layers: int | None, init: Initialisation, whose: str = "the teacher"
) -> list[int]:
    """Returns the teacher's layers that a student starts from; for `random` those it would be compared with.

    Args:
        teacher_layers: T.
        layers: S; by default half of T, or the length of the list.
        init: `spread`, evenly (see `spread_layers`); `ends`, evenly from the first to the last one, which is what
            DistilBERT starts from (12 to 6: 1, 3, 5, 8, 10, 12); `first`; `last`; `random`; or an increasing list.
        whose: what messages call the model that the layers are taken from.

    Raises:
        ConfigError: an unknown name, or a list that is not increasing, or disagrees with `layers`.
        ModelError: the teacher does not have that many layers.
    """
    if not isinstance(init, str):
        chosen = [int(number) for number in init]
        if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 1:
            raise ConfigError(
                f"The student's layers {chosen} must be an increasing list of the layers of {whose}, counted from 1."
            )
        if layers not in (None, len(chosen)):
            raise ConfigError(f"The student is to have {layers} layers, but the list names {len(chosen)}: {chosen}.")
        if chosen[-1] > teacher_layers:
            raise ModelError(f"The student is to start from layer {chosen[-1]}, but {whose} has {teacher_layers}.")
        return chosen
    if init not in _NAMED_STARTS:
        raise ConfigError(
            f"Unknown initialisation {init!r}{nearest(init, _NAMED_STARTS)}: choose {', '.join(_NAMED_STARTS)} or a "
            "list of layers."
        )
    layers = max(1, teacher_layers // 2) if layers is None else layers
    if layers < 1:
        raise ConfigError(f"A student needs at least one layer, not {layers}.")
    require_depth(layers, teacher_layers, whose)
    if init == "first":
        return list(range(1, layers + 1))
    if init == "last":
        return list(range(teacher_layers - layers + 1, teacher_layers + 1))
    if init == "ends" and layers > 1:
        return [1 + round(step * (teacher_layers - 1) / (layers - 1)) for step in range(layers)]
    return spread_layers(teacher_layers, layers)


def require_depth(layers: int, teacher_layers: int, whose: str = "the teacher") -> None:
    """Raises `ModelError` for a student that is deeper than its teacher, or than the model it is cut out of."""
    if layers > teacher_layers:
        wrong = "is deeper than its teacher" if whose == "the teacher" else f"cannot be cut out of {whose}"
        raise ModelError(
            f"A student of {layers} layers {wrong}, which has {teacher_layers}. Choose at most {teacher_layers}."
        )
