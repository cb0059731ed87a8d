"""Which layer learns from which."""

from __future__ import annotations

import pytest

from codir.errors import ConfigError
from codir.models.layers import match_layers


@pytest.mark.parametrize(
    ("spec", "student", "teacher", "expected"),
    [
        ("spread", 6, 12, [2, 4, 6, 8, 10, 12]),  # TinyBERT's uniform mapping
        ("spread", 4, 12, [3, 6, 9, 12]),
        ("spread", 5, 12, [2, 4, 7, 9, 12]),
        ("spread", 1, 6, [6]),
        ("skip", 6, 12, [2, 4, 6, 8, 10]),  # PKD-Skip
        ("last", 6, 12, [7, 8, 9, 10, 11]),  # PKD-Last
    ],
)
def test_named_matchings_as_in_their_papers(spec, student, teacher, expected):
    assert match_layers(spec, student, teacher) == tuple(enumerate(expected, start=1))


def test_top_is_the_last_layers_alone():
    assert match_layers("top", 3, 6) == ((3, 6),)


def test_pairs_are_taken_as_given_and_sorted():
    assert match_layers([(3, 6), (1, 5)], 3, 6) == ((1, 5), (3, 6))
    assert match_layers([(1, 4), (2, 4)], 3, 6) == ((1, 4), (2, 4))  # a teacher's layer may teach two


@pytest.mark.parametrize(
    ("spec", "student", "teacher", "message"),
    [
        ("skipp", 3, 6, "skip"),
        ("skip", 1, 6, "leaves nothing"),
        ([], 3, 6, "leaves nothing"),
        ("spread", 7, 6, "7 layers"),
        ([(0, 1)], 3, 6, "layer 0 of the student"),
        ([(1, 7)], 3, 6, "layer 7 of the teacher"),
        ([(1, 2), (1, 3)], 3, 6, "matched twice"),
    ],
)
def test_what_cannot_be_matched_is_refused(spec, student, teacher, message):
    with pytest.raises(ConfigError, match=message):
        match_layers(spec, student, teacher)
