"""Which layers of an encoder are meant: the one place where such a choice is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

from codir.errors import ConfigError, nearest

NAMED_CHOICES = ("all", "every-other", "odd")

_RULE = "Layers are counted from 1; the embedding layer is not a layer and cannot be chosen."


def choose_layers(spec: str | Sequence[int], layers: int) -> tuple[int, ...]:
    """Resolves a choice of layers to their numbers, counted from 1.

    Args:
        spec: `all`; `every-other`, every second layer counted back from the last one, which is therefore in
            (2, 4, ..., 12 of 12); `odd`, 1, 3, 5, ... as in the released code, which never matches the last of 12;
            or the numbers themselves, as a list or as text such as "2,4,6".
        layers: how many layers the encoder has.

    Returns:
        The numbers, in the order given (ascending for a named choice).

    Raises:
        ConfigError: an unknown word, no number, a number outside 1..layers, or one given twice.
    """
    if isinstance(spec, str):
        word = spec.strip().lower()
        if word == "all":
            return tuple(range(1, layers + 1))
        if word == "every-other":
            return tuple(range(2 - layers % 2, layers + 1, 2))
        if word == "odd":
            return tuple(range(1, layers + 1, 2))
        try:
            numbers = [int(part) for part in word.split(",")]
        except ValueError:
            raise ConfigError(
                f"Cannot read the choice of layers {spec!r}{nearest(word, NAMED_CHOICES)}: give one of "
                f"{', '.join(NAMED_CHOICES)}, or numbers such as 2,4,6. {_RULE}"
            ) from None
    else:
        numbers = [int(number) for number in spec]
    if not numbers:
        raise ConfigError(
            f"The choice of layers is empty: choose at least one of the layers 1..{layers}. {_RULE}"
        )
    for number in numbers:
        if not 1 <= number <= layers:
            raise ConfigError(
                f"Layer {number} in {spec!r} does not exist: the encoder has the layers 1..{layers}. {_RULE}"
            )
    if len(set(numbers)) < len(numbers):
        raise ConfigError(
            f"A layer is given twice in {spec!r}: name each of the layers 1..{layers} at most once."
        )
    return tuple(numbers)


NAMED_MATCHINGS = ("spread", "skip", "last", "top")


def _known(spec: str | list[tuple[int, int]]) -> str | list[tuple[int, int]]:
    """Refuses an unknown word when a recipe is read, where its line is known."""
    if isinstance(spec, str) and spec.strip().lower() not in NAMED_MATCHINGS:
        raise ValueError(_unknown(spec))
    return spec


def _unknown(word: str) -> str:
    return (
        f"unknown matching of layers {word!r}{nearest(word, NAMED_MATCHINGS)}: choose one of "
        f"{', '.join(NAMED_MATCHINGS)}, or pairs [[student, teacher], ...] counted from 1."
    )


Matching = Annotated[str | list[tuple[int, int]], AfterValidator(_known)]

MATCHING_HELP = (
    "which layers are matched: `spread` evenly, the last ones included; `skip`, the same without the last pair; "
    "`last`, the student's layers with the teacher's last ones, without the last pair; `top`, the last ones only; or "
    "pairs [[student, teacher], ...] counted from 1"
)


def match_layers(spec: Matching, student: int, teacher: int) -> tuple[tuple[int, int], ...]:
    """Resolves a matching to pairs (layer of the student, layer of the teacher), both counted from 1.

    Args:
        spec: for a student of S and a teacher of T layers
            `spread`: s with floor(s * T / S) for s = 1..S (TinyBERT's uniform mapping; 12 to 6: 2, 4, ..., 12);
            `skip`: the same for s = 1..S-1 (PKD-Skip: the last layer is left to the loss on the predictions);
            `last`: s with T - S + s for s = 1..S-1 (PKD-Last; 12 to 6: 7, 8, 9, 10, 11);
            `top`: S with T alone (MiniLM, DistilBERT);
            or the pairs themselves, in any order.
        student: S.
        teacher: T.

    Returns:
        The pairs, by the student's layer.

    Raises:
        ConfigError: an unknown word, a layer that does not exist, a student's layer given twice, or nothing to match.
    """
    if isinstance(spec, str):
        pairs = _named(spec.strip().lower(), student, teacher)
    else:
        pairs = [(int(own), int(other)) for own, other in spec]
        _check(pairs, student, teacher)
    if not pairs:
        raise ConfigError(
            f"The matching {spec!r} leaves nothing of a student with {student} layer(s) and a teacher with {teacher}: "
            "choose `spread` or `top`, or name pairs [[student, teacher], ...]."
        )
    return tuple(sorted(pairs))


def _named(word: str, student: int, teacher: int) -> list[tuple[int, int]]:
    if word not in NAMED_MATCHINGS:
        raise ConfigError(_unknown(word))
    if student > teacher:
        raise ConfigError(
            f"The student has {student} layers and the teacher {teacher}: name the pairs yourself, or choose a "
            "student that is not deeper."
        )
    if word == "top":
        return [(student, teacher)]
    if word == "last":
        return [(number, teacher - student + number) for number in range(1, student)]
    spread = [(number, number * teacher // student) for number in range(1, student + 1)]
    return spread if word == "spread" else spread[:-1]


def _check(pairs: Sequence[tuple[int, int]], student: int, teacher: int) -> None:
    taken: set[int] = set()
    for own, other in pairs:
        for number, depth, side in ((own, student, "student"), (other, teacher, "teacher")):
            if not 1 <= number <= depth:
                raise ConfigError(
                    f"The pair [{own}, {other}] names layer {number} of the {side}, which has the layers 1..{depth}. "
                    "Pairs are [student, teacher], counted from 1; the embedding layer is not a layer."
                )
        if own in taken:
            raise ConfigError(
                f"Layer {own} of the student is matched twice: each can learn from one layer only."
            )
        taken.add(own)
