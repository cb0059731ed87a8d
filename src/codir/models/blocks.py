"""Which blocks of an encoder are meant: the one place where such a choice is read."""

from __future__ import annotations

from collections.abc import Sequence

from codir.errors import ConfigError, nearest

NAMED_CHOICES = ("all", "every-other", "odd")

_RULE = "Blocks are counted from 1; the embedding layer is not a block and cannot be chosen."


def choose_blocks(spec: str | Sequence[int], blocks: int) -> tuple[int, ...]:
    """Resolves a choice of blocks to their numbers, counted from 1.

    Args:
        spec: `all`; `every-other`, every second block counted back from the last one, which is therefore in
            (2, 4, ..., 12 of 12); `odd`, 1, 3, 5, ... as in the released code, which never matches the last of 12;
            or the numbers themselves, as a list or as text such as "2,4,6".
        blocks: how many blocks the encoder has.

    Returns:
        The numbers, in the order given (ascending for a named choice).

    Raises:
        ConfigError: an unknown word, no number, a number outside 1..blocks, or one given twice.
    """
    if isinstance(spec, str):
        word = spec.strip().lower()
        if word == "all":
            return tuple(range(1, blocks + 1))
        if word == "every-other":
            return tuple(range(2 - blocks % 2, blocks + 1, 2))
        if word == "odd":
            return tuple(range(1, blocks + 1, 2))
        try:
            numbers = [int(part) for part in word.split(",")]
        except ValueError:
            raise ConfigError(
                f"Cannot read the choice of blocks {spec!r}{nearest(word, NAMED_CHOICES)}: give one of "
                f"{', '.join(NAMED_CHOICES)}, or numbers such as 2,4,6. {_RULE}"
            ) from None
    else:
        numbers = [int(number) for number in spec]
    if not numbers:
        raise ConfigError(
            f"The choice of blocks is empty: choose at least one of the blocks 1..{blocks}. {_RULE}"
        )
    for number in numbers:
        if not 1 <= number <= blocks:
            raise ConfigError(
                f"Block {number} in {spec!r} does not exist: the encoder has the blocks 1..{blocks}. {_RULE}"
            )
    if len(set(numbers)) < len(numbers):
        raise ConfigError(
            f"A block is given twice in {spec!r}: name each of the blocks 1..{blocks} at most once."
        )
    return tuple(numbers)
