"""What a single cell of a label column stands for: the name of a class, or a score.

A label is text, and keeps its characters: `07` and `7` are two classes. It is a number only where the format of the
file says so (JSON, Parquet), or where scores are asked for.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection
from decimal import Decimal
from typing import Any

from codir.models.classes import matching_key, number_value

# 4,5 or 90 % or 1.234,50 or $4.50: a number to the reader, and text to every program. 1.2.3 and 01.02.2024 are none.
DRESSED_NUMBER = re.compile(r"[$€£]?\s*[+-]?(\d{1,3}([.,'\u00a0\u202f]\d{3})+|\d+)([.,]\d+)?\s*[%‰€$£]?")


def label_of(value: Any) -> str:
    """Returns the name of the class that a cell stands for, the one way from a cell to a label.

    Text is its own name, but for blanks around it. A number of the file's own format has no spelling, so 3 and 3.0 are
    both `3`; true is `true`.
    """
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, Decimal)):
        return _plain(Decimal(repr(value)) if isinstance(value, float) else Decimal(value))
    return str(value)


def _plain(number: Decimal) -> str:
    """Spells a number in the one way without an exponent and without zeros that say nothing."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def sorted_names(names: Collection[str]) -> tuple[str, ...]:
    """Returns class names in order: by value if all are numbers in their plain spelling, else as text."""
    numbers = {name: number_value(name) for name in names}
    plain = all(
        number is not None and number.adjusted() < 400 and _plain(number) == name
        for name, number in numbers.items()
    )
    return tuple(sorted(names, key=lambda name: (numbers[name] if plain else 0, name)))


def number_of(value: Any) -> float | None:
    """Returns a cell as a float, or None if it is no number."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (ValueError, TypeError):
        return None


def is_missing(value: Any) -> bool:
    """None, a text in which nothing can be seen, and NaN in every spelling float() knows."""
    if value is None or (isinstance(value, str) and not matching_key(value)):
        return True
    try:
        return not isinstance(value, bool) and math.isnan(float(value))
    except (ValueError, TypeError, OverflowError):
        return False


def undressed(text: str) -> str:
    """Returns a number as it should have been written: the last comma or point is the decimal one."""
    digits = re.sub(r"[^\d.,+-]", "", text)
    head, mark, tail = digits.rpartition("," if digits.rfind(",") > digits.rfind(".") else ".")
    return f"{re.sub('[.,]', '', head)}.{tail}" if mark and tail else re.sub("[.,]", "", digits)


def difference(first: str, second: str) -> tuple[str, Callable[[str], str]]:
    """Says in what two spellings of one class differ, and by which function they are shown."""
    if first.casefold() == second.casefold():
        return "upper and lower case", repr
    if unicodedata.normalize("NFKC", first) == unicodedata.normalize("NFKC", second):
        return "their Unicode form", ascii
    if " ".join(first.split()) == " ".join(second.split()):
        return "blanks", repr
    return "characters that cannot be seen (or case, blanks and Unicode form)", ascii
