"""The character between two fields: as it is given, and as a header shows it."""

from __future__ import annotations

from collections.abc import Sequence

from codir.errors import ConfigError

_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_LIKELY = (";", "\t", ",", "|")


def require_delimiter(delimiter: str) -> str:
    """Returns the character that separates fields, `tab` and the like by their names.

    Raises:
        ConfigError: it is not one character, or one that has another meaning.
    """
    found = _NAMES.get(delimiter.lower(), delimiter)
    if len(found) != 1 or found in '"\r\n\0':
        raise ConfigError(
            f"The delimiter {delimiter!r:.40} is not one character (or one that has another meaning). Usual are "
            f"{', '.join(map(repr, (*_LIKELY[:1], *_LIKELY[2:])))} and tab."
        )
    return found


def delimiter_hint(header: Sequence[str], delimiter: str) -> str:
    """Returns the delimiter that a header of one column shows, and its flag; or nothing."""
    if len(header) != 1:
        return ""
    other = max(_LIKELY, key=header[0].count)
    if other == delimiter or other not in header[0]:
        return ""
    given = "tab" if other == "\t" else other
    return (
        f" The columns seem to be separated by {other!r}: add --delimiter '{given}' (data.delimiter in YAML)."
    )
