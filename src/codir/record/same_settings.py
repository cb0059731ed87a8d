"""Whether a run that is to be resumed has the settings it was begun with: `codir.yaml` then, and the settings now."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

# Settings that say where to write, not what is computed: a run and its resumption may differ in them.
MAY_DIFFER = frozenset({"output", "resume", "cache_dir", "training.report_to"})
# Settings that say where something lies whose content the fingerprint of a run knows: it may have been moved.
_PLACES = (
    *("model", "teacher", "corpus", "student.model", "student.origin", "student.config"),
    *("data.data_dir", "data.train", "data.validation", "data.unlabeled"),
)


def differences(before: Any, now: Any, may_differ: Collection[str]) -> list[str]:
    """Returns a line for each setting that differs, with both values.

    Args:
        before: content of `codir.yaml`.
        now: what would be written there.
        may_differ: dotted keys (or the sections above them) that are not compared.
    """
    there, here = _flatten(before), _flatten(now)
    return [
        f"  {key}: {there.get(key, '(not set)')!r} there, {here.get(key, '(not set)')!r} now"
        for key in sorted(there.keys() | here.keys())
        # null, and not there, are the same
        if there.get(key) != here.get(key)
        and not any(key == free or key.startswith(f"{free}.") for free in may_differ)
    ]


def moved(before: Any, now: Any) -> set[str]:
    """Returns the settings that name data and models by path, in both cases, and differ."""
    there, here = _flatten(before), _flatten(now)
    return {
        key
        for key in _PLACES
        if there.get(key) is not None and here.get(key) is not None and there[key] != here[key]
    }


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns `{"training.learning_rate": 1e-05, ...}` for nested mappings; lists are values."""
    if not isinstance(value, dict) or (prefix and not value):
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
