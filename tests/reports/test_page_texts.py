"""Texts made harmless, and numbers as the page writes them."""

from __future__ import annotations

import json

import fakes
import pytest

from codir.reports.escaping import clean, for_hover, for_plotly, for_script, shortened
from codir.reports.numbers import count, deviation, milliseconds, points, share, signed_points, size, times


@pytest.mark.parametrize("text", fakes.HOSTILE, ids=range(len(fakes.HOSTILE)))
def test_json_in_a_script_ends_nothing_and_reads_back(text: str) -> None:
    written = for_script({"t": [clean(text)]})
    for forbidden in ("<", ">", "&", "\u2028", "\u2029", "\x00"):
        assert forbidden not in written
    written.encode("utf-8")
    assert json.loads(written) == {"t": [clean(text)]}


def test_json_refuses_what_it_cannot_say() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        for_script([float("nan")])


@pytest.mark.parametrize("text", fakes.HOSTILE, ids=range(len(fakes.HOSTILE)))
def test_plotly_labels_hold_no_markup_and_no_marks_of_direction(text: str) -> None:
    for label in (for_plotly(text), for_hover(text).replace("<br>", "")):
        assert "<" not in label
        assert ">" not in label
        assert "\u202e" not in label
        label.encode("utf-8")
    assert len(shortened(text, 40)) <= 40


def test_an_entity_is_shown_as_it_was_written() -> None:
    assert for_plotly("a &lt; b") == "a &amp;lt; b"


def test_a_cut_text_is_never_cut_within_an_entity() -> None:
    label = for_plotly("<" * 100, 40)
    assert label == "&lt;" * 39 + "…"


def test_control_characters_are_shown() -> None:
    assert clean("a\x00b\x07\x7f\ud800\n") == "a␀b␇␡\ufffd\n"


def test_hover_texts_are_broken_into_lines() -> None:
    lines = for_hover("word " * 60, 180, 60).split("<br>")
    assert len(lines) == 3
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (points(0.81534), "81.5"),
        (points(-0.05), "−5.0"),
        (points(None), "–"),
        (points(float("nan")), "–"),
        (signed_points(0.012), "+1.2"),
        (signed_points(-0.012), "−1.2"),
        (share(0.954), "95.4\u202f%"),
        (count(17_390_594), "17.4\u202fM"),
        (count(6), "6"),
        (count(1234), "1.23\u202fk"),
        (size(69_568_832), "69.6\u202fMB"),
        (milliseconds(36.927), "36.9"),
        (milliseconds(3.1), "3.1"),
        (milliseconds(1234.5), "1234"),
        (times(1.9998), "2.00×"),
        (times(11.94), "11.9×"),
    ],
)
def test_numbers(written: str, expected: str) -> None:
    assert written == expected


def test_the_deviation_is_that_of_a_sample() -> None:
    assert deviation((0.7, 0.8, 0.9)) == pytest.approx(0.1)
    assert deviation((0.7, 0.9, float("nan"))) == pytest.approx(0.1414213562)
    assert deviation((0.7,)) is None
