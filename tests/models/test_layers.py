"""Which layers are compared, which learns from which, and which a student starts from."""

from __future__ import annotations

import pytest

from codir.errors import ConfigError, ModelError
from codir.models.layers import choose_layers, chosen_layers, match_layers


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
def test_what_cannot_be_chosen_is_refused(spec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_layers(spec, 6)


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


@pytest.mark.parametrize(
    ("init", "teacher", "layers", "expected"),
    [
        ("spread", 12, None, [2, 4, 6, 8, 10, 12]),
        ("spread", 12, 5, [2, 4, 7, 9, 12]),
        ("spread", 3, 2, [1, 3]),
        ("spread", 1, None, [1]),
        ("ends", 12, 6, [1, 3, 5, 8, 10, 12]),
        ("ends", 12, 1, [12]),
        ("first", 4, 2, [1, 2]),
        ("last", 4, 2, [3, 4]),
        ([1, 12], 12, None, [1, 12]),
    ],
)
def test_where_a_student_starts(init, teacher: int, layers: int | None, expected: list[int]) -> None:
    assert chosen_layers(teacher, layers, init) == expected


@pytest.mark.parametrize(
    ("init", "layers", "error", "message"),
    [
        ("spread", 5, ModelError, "deeper than its teacher, which has 4"),
        ([1, 5], None, ModelError, "layer 5"),
        ("spred", 2, ConfigError, "did you mean 'spread'"),
        ([1, 1], None, ConfigError, "increasing"),
        ([0, 1], None, ConfigError, "increasing"),
        ([], None, ConfigError, "increasing"),
        ([1, 2], 3, ConfigError, "names 2"),
        ("first", 0, ConfigError, "at least one layer"),
    ],
)
def test_where_no_student_can_start(init, layers: int | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        chosen_layers(4, layers, init)
