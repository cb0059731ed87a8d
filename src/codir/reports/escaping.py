"""Texts of data sets, labels and names, made harmless for the three places they go to: HTML, plotly's labels, JSON.

HTML itself is escaped by jinja2 (autoescape); what is here are the characters that no escaping can show, and the two
places that jinja2 does not know of.
"""

from __future__ import annotations

import json
import re
from typing import Any

# What a browser drops, or takes for a command: shown as its picture or as a replacement character.
_CONTROLS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n\r"} | {0x7F: 0x2421}
_SURROGATES = re.compile("[\ud800-\udfff]")
# Marks that turn the direction of whatever stands next to them; HTML isolates them, a plotly label cannot.
_DIRECTIONS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_HTML_IN_PLOTLY = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_SCRIPT = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def clean(text: object) -> str:
    """Returns `text` with control characters as pictures (␀) and lone surrogates replaced: UTF-8 has none."""
    return _SURROGATES.sub("\ufffd", str(text).translate(_CONTROLS))


def shortened(text: object, length: int) -> str:
    """Returns `text` on one line, cut to `length` characters with an ellipsis."""
    line = " ".join(clean(str(text)[: 20 * length]).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def capital(text: str) -> str:
    """Returns `text` with its first letter large."""
    return text[:1].upper() + text[1:]


def for_plotly(text: object, length: int = 40) -> str:
    """Returns `text` for a plotly label, cut to `length`: plotly reads `<b>`, `<a href>` and entities in its texts."""
    return _DIRECTIONS.sub("", shortened(text, length)).translate(_HTML_IN_PLOTLY)


def for_hover(text: object, length: int = 180, width: int = 60) -> str:
    """Returns `text` for a plotly hover box: escaped, cut to `length`, in lines of about `width` characters."""
    line = _DIRECTIONS.sub("", shortened(text, length))
    lines: list[str] = []
    while len(line) > width:
        cut = line.rfind(" ", width // 2, width)
        cut = width if cut < 0 else cut
        lines.append(line[:cut])
        line = line[cut:].lstrip()
    return "<br>".join(part.translate(_HTML_IN_PLOTLY) for part in [*lines, line])


def for_script(value: Any) -> str:
    """Returns `value` as JSON that can stand in a `<script>` element: it neither ends it nor opens a comment.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return safe_json(text)


def safe_json(text: str) -> str:
    """Returns JSON `text` with the characters escaped that mean something to HTML or to old JavaScript."""
    text = _SURROGATES.sub("\ufffd", text)
    return re.sub("[<>&\u2028\u2029]", lambda found: _SCRIPT[found.group()], text)
