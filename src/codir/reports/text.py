"""Texts and numbers as the page writes them: harmless in HTML, in plotly's labels and in scripts; in few digits."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any, TypeGuard

from codir.files import human_bytes

DASH, MINUS = "–", "−"
# What a browser drops, or takes for a command: shown as its picture or as a replacement character.
_CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n\r"} | {0x7F: 0x2421}
_SURROGATES = re.compile("[\ud800-\udfff]")
# Marks that turn the direction of whatever stands next to them; HTML isolates them, a plotly label cannot.
_DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_HTML_IN_PLOTLY = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def clean(text: object) -> str:
    """Returns text with control characters as pictures (␀) and lone surrogates replaced: UTF-8 has none."""
    return _SURROGATES.sub("\ufffd", str(text).translate(_CONTROLS))


def shortened(text: object, length: int) -> str:
    """Returns text on one line, cut to `length` characters with an ellipsis."""
    line = " ".join(clean(str(text)[: 20 * length]).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def capital(text: str) -> str:
    """Returns text with its first letter large."""
    return text[:1].upper() + text[1:]


def for_plotly(text: object, length: int = 40) -> str:
    """Returns text for a plotly label, cut to `length`: plotly reads `<b>`, `<a href>` and entities in its texts."""
    return _DIRECTIONS.sub("", shortened(text, length)).translate(_HTML_IN_PLOTLY)


def for_hover(text: object, length: int = 180, width: int = 60) -> str:
    """Returns text for a plotly hover box: escaped, cut to `length`, in lines of at most `width` characters."""
    lines = textwrap.wrap(_DIRECTIONS.sub("", shortened(text, length)), width)
    return "<br>".join(line.translate(_HTML_IN_PLOTLY) for line in lines)


def for_script(value: Any) -> str:
    """Returns JSON that can stand in a script element: it neither ends it nor opens a comment, and is UTF-8.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = _SURROGATES.sub("\ufffd", text)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def together(names: Sequence[str]) -> str:
    """Returns `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def plural(number: int, what: str) -> str:
    """Returns `1 task`, `2 tasks`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def known(value: float | None) -> TypeGuard[float]:
    """Tells whether there is a number to show."""
    return value is not None and math.isfinite(value)


def points(value: float | None, form: str = ".1f") -> str:
    """Returns a score in points, 0.8153 as `81.5`."""
    return format(100 * value, form).replace("-", MINUS) if known(value) else DASH


def share(value: float | None) -> str:
    """Returns a share as a percentage."""
    return f"{points(value)}\u202f%" if known(value) else DASH


def count(value: float | None) -> str:
    """Returns a count in three digits: `17.4 M`."""
    if not known(value):
        return DASH
    unit, size = next(((u, s) for u, s in (("B", 1e9), ("M", 1e6), ("k", 1e3)) if abs(value) >= s), ("", 1))
    return f"{value / size:.3g}\u202f{unit}" if unit else f"{value:g}"


def size(value: float | None) -> str:
    """Returns a number of bytes: `69.6 MB`."""
    return human_bytes(value).replace(" ", "\u202f") if known(value) else DASH


def milliseconds(value: float | None) -> str:
    """Returns a time in three digits."""
    return DASH if not known(value) else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def times(value: float | None) -> str:
    """Returns a factor: `2.00×`."""
    return DASH if not known(value) else f"{value:.2f}×" if value < 10 else f"{value:.1f}×"


def duration(seconds: float) -> str:
    """Returns a time as people say it: `45 s`, `4 min 46 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
