"""What objectives over tokens and attention refuse, and the way out that they name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from token_world import token_context

from codir.errors import ConfigError
from codir.losses.registry import objective_names
from codir.losses.token_checks import check_teacher, check_tokens, equal_heads, heads_of


def test_what_fits_is_given_back() -> None:
    context = token_context((2, 8, 2), (4, 12, 3))
    assert check_teacher("x", context) == check_tokens("x", context) == context.teacher
    assert heads_of("x", context) == (2, 3)
    assert equal_heads("x", token_context((2, 8, 2), (4, 12, 2))) == 2


def test_no_teacher() -> None:
    alone = replace(token_context(), teacher=None)
    for check in (check_teacher, check_tokens, heads_of, equal_heads):
        with pytest.raises(ConfigError, match=r"'mine' needs a teacher .* drop 'mine'"):
            check("mine", alone)


def test_other_tokens() -> None:
    context = token_context(aligned=False)
    with pytest.raises(ConfigError, match=r"'mine' compares single tokens.*tokenise differently.*'pkd'"):
        check_tokens("mine", context)
    check_teacher("mine", context)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_no_attention(side: str) -> None:
    shapes = {"student": (2, 8, 2), "teacher": (4, 8, 2)} | {side: (2, 8, None)}
    with pytest.raises(ConfigError, match=f"the {side} has none: choose an objective over hidden states"):
        heads_of("mine", token_context(shapes["student"], shapes["teacher"]))


def test_other_heads() -> None:
    with pytest.raises(ConfigError, match=r"student has 2 heads, the teacher 4.*relation_heads"):
        equal_heads("mine", token_context((2, 8, 2), (4, 8, 4)))


def test_the_helpers_are_no_objectives() -> None:
    assert not {"token_checks", "matched_states", "state_projections"} & set(objective_names())
    assert {"hidden_mse", "embedding_mse", "attention_mse", "pkd", "hidden_cosine"} <= set(objective_names())
