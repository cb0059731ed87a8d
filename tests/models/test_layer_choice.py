"""The choice of layers: what each word and list means, and what is refused."""

from __future__ import annotations

import pytest

from codir.errors import ConfigError
from codir.models.layers import choose_layers


@pytest.mark.parametrize(
    ("spec", "layers", "expected"),
    [
        ("all", 3, (1, 2, 3)),
        ("every-other", 12, (2, 4, 6, 8, 10, 12)),
        ("every-other", 5, (1, 3, 5)),
        ("every-other", 1, (1,)),
        ("odd", 12, (1, 3, 5, 7, 9, 11)),
        ([1, 12], 12, (1, 12)),
        (" 2, 4,6", 6, (2, 4, 6)),
        ("3", 3, (3,)),
    ],
)
def test_choices(spec, layers: int, expected: tuple[int, ...]) -> None:
    assert choose_layers(spec, layers) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("every-othr", "did you mean 'every-other'"),
        ([0], r"Layer 0 .* 1\.\.6.*counted from 1"),
        ([7], "Layer 7"),
        ("-1", "Layer -1"),
        ([], "empty"),
        ([2, 2], "twice"),
        ("", "Cannot read"),
    ],
)
def test_refusals(spec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_layers(spec, 6)
