"""How deep a student may be: which depths are timed, which one is chosen, what is said where none fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from codir.errors import ConfigError
from codir.models.loading import count_parameters, encoder_shape
from codir.models.student import build_student
from codir.runs.timing import RealLengths
from codir.studies.recommend_student import Choice, Wish, choose_student

TEXTS = ["the film was good", "a bad book", "the dog sees the cat and the bird"]


class Clock:
    """Says that a pass takes `start` and `each` for every block, and notes what was timed."""

    def __init__(self, start: float = 0.0, each: float = 1.0):
        self.start, self.each = start, each
        self.timed: list[list[int]] = []

    def __call__(self, models: Mapping[str, tuple[Any, Any]]) -> dict[str, RealLengths]:
        depths = {name: encoder_shape(model).blocks for name, (model, _) in models.items()}
        widths = {name: encoder_shape(model).width for name, (model, _) in models.items()}
        self.timed.append([depth for name, depth in depths.items() if name != "teacher"])
        assert next(iter(models)) == "teacher"
        ms = {name: self.start + self.each * depths[name] * widths[name] / 32 for name in models}
        return {
            name: RealLengths(1, 9, time, 2 * time, time, 1000 / time, ms["teacher"] / time, 5.0)
            for name, time in ms.items()
        }


@pytest.fixture
def choose(
    tiny_classifier: Callable[..., Any], tiny_tokenizer: PreTrainedTokenizerFast
) -> Callable[..., Choice]:
    def make(
        wish: Wish | None = None, layers_of_teacher: int = 4, clock: Clock | None = None, **more: Any
    ) -> Choice:
        teacher = tiny_classifier(layers=layers_of_teacher)
        return choose_student(
            teacher, tiny_tokenizer, TEXTS, wish or Wish(), measure=clock or Clock(), **more
        )

    return make


def test_without_a_wish_half_of_the_blocks(choose: Callable[..., Choice]) -> None:
    clock = Clock()
    found = choose(clock=clock)
    assert found.chosen.layers == 2
    assert found.fits
    assert "half, as no wish was given" in found.why
    assert clock.timed == [[2]]
    assert found.chosen.time is not None
    assert found.chosen.time.speedup == 2.0


@pytest.mark.parametrize(
    ("wish", "layers"),
    [
        (Wish(speedup=2), 2),
        (Wish(speedup=1.3), 3),
        (Wish(speedup=1.36), 3),  # 4 / 3 is within 3 % of it
        (Wish(speedup=1.4), 2),
        (Wish(max_ms=1), 1),
        (Wish(max_ms=3.5), 3),
        (Wish(max_ms=3.5, speedup=4), 1),
    ],
)
def test_the_deepest_that_is_fast_enough(choose: Callable[..., Choice], wish: Wish, layers: int) -> None:
    found = choose(wish)
    assert (found.chosen.layers, found.fits) == (layers, True)
    assert str(wish) in found.why
    assert [each.layers for each in found.options] == [3, 2, 1]


def test_a_time_a_little_off_the_wish_says_so(choose: Callable[..., Choice]) -> None:
    assert "within 3%" in choose(Wish(speedup=1.36)).why
    assert "within 3%" not in choose(Wish(speedup=1.3)).why


def test_sizes_are_those_of_the_real_students(
    choose: Callable[..., Choice], tiny_classifier: Callable[..., Any]
) -> None:
    found = choose(Wish(max_mb=100))
    for option in found.options:
        total, _ = count_parameters(build_student(tiny_classifier(), option.layers))
        assert (option.parameters, option.bytes) == (total, 4 * total)
    assert found.teacher.parameters == count_parameters(tiny_classifier())[0]


def test_size_is_arithmetic(choose: Callable[..., Choice]) -> None:
    clock = Clock()
    sizes = {each.layers: each.bytes / 1e6 for each in choose(Wish(max_mb=100)).options}
    found = choose(Wish(max_mb=(sizes[1] + sizes[2]) / 2), clock=clock)
    assert (found.chosen.layers, found.fits) == (1, True)
    assert clock.timed == [[1]]  # the chosen one, so that its speed can be told


def test_no_depth_fits_a_size(choose: Callable[..., Choice]) -> None:
    small = min(each.bytes for each in choose(Wish(max_mb=100)).options) / 1e6
    found = choose(Wish(max_mb=small / 2))
    assert (found.chosen.layers, found.fits) == (1, False)
    assert "No depth fits" in found.why
    assert any("int8" in line and "a student of 2 of 4 blocks" in line for line in found.otherwise)
    assert any("--student-width 16" in line for line in found.otherwise)
    hopeless = choose(Wish(max_mb=small / 1000))
    assert any("Not even int8" in line for line in hopeless.otherwise)


def test_no_depth_fits_a_time(choose: Callable[..., Choice]) -> None:
    found = choose(Wish(speedup=4.5))
    assert (found.chosen.layers, found.fits) == (1, False)
    # two blocks half as wide: 1/4 of the teacher's products in this clock; not enough, and nothing is promised
    assert not any("--student-width" in line for line in found.otherwise)
    assert any("codir latency" in line for line in found.otherwise)


def test_a_deep_teacher_is_not_timed_at_every_depth(choose: Callable[..., Choice]) -> None:
    clock = Clock(start=2.0)
    # 2 + 24 ms; 2 + S <= 9 ms allows 7 blocks
    found = choose(Wish(max_ms=9), layers_of_teacher=24, clock=clock)
    assert found.chosen.layers == 7
    assert len(clock.timed) == 2
    assert sum(map(len, clock.timed)) <= 7
    assert "one block more does not fit" in found.why


def test_a_depth_can_be_asked_for(choose: Callable[..., Choice]) -> None:
    found = choose(layers=3)
    assert found.chosen.layers == 3
    assert "as no wish was given" not in found.why
    assert found.why.startswith("3 of 4 blocks, as you settled: ")
    missed = choose(Wish(speedup=2), layers=3)
    assert not missed.fits
    assert missed.why.startswith(
        "3 of 4 blocks, as you settled, do not meet the wish (2 times as fast as the teacher)"
    )
    assert "No depth" not in missed.why
    with pytest.raises(ConfigError, match="the teacher has 4 blocks"):
        choose(layers=5)


def test_a_width_can_be_asked_for(choose: Callable[..., Choice]) -> None:
    found = choose(Wish(speedup=2), width=16)
    assert found.chosen.width == 16
    assert found.chosen.layers == 4  # half the width is fast enough with all blocks
    with pytest.raises(ConfigError, match="be a multiple of that"):
        choose(width=20)


def test_a_real_measurement(
    tiny_classifier: Callable[..., Any], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    found = choose_student(tiny_classifier(), tiny_tokenizer, TEXTS, Wish(speedup=1.01), rounds=1)
    assert all(each.time is not None and each.time.p50 > 0 for each in found.options)
    assert found.teacher.time is not None
    assert found.teacher.time.speedup == 1.0
