"""Sentences: rules, nothing lost, the same whatever the segments, linear time."""

from __future__ import annotations

import random
import time

import pytest

from codir.corpora.sentences import LONGEST_PIECE, sentence_pieces, split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It was 3.14. Then 5 came.", ["It was 3.14.", "Then 5 came."]),
        ("Mr. Bennet met Dr. Watson. They spoke.", ["Mr. Bennet met Dr. Watson.", "They spoke."]),
        ("By J. R. R. Tolkien. Yes.", ["By J. R. R. Tolkien.", "Yes."]),
        ("In the U.S. Navy, e.g. here.", ["In the U.S. Navy, e.g. here."]),
        ("See No. 5. She said no. Then left.", ["See No. 5.", "She said no.", "Then left."]),
        ("“Stop!” he said. “No.” She went.", ["“Stop!” he said.", "“No.”", "She went."]),
        ('He said "go." (It was late.) Then', ['He said "go."', "(It was late.)", "Then"]),
        ("reached its peak . In this period", ["reached its peak .", "In this period"]),
        ("Hard-wrapped text goes\non and on. It\nends", ["Hard-wrapped text goes on and on.", "It ends"]),
        ("CHAPTER I\n\nIt was the best\n \t\nof times", ["CHAPTER I", "It was the best", "of times"]),
        ("東京です。大阪です。「はい。」終わり", ["東京です。", "大阪です。", "「はい。」", "終わり"]),
        ("Wait... What? and so on", ["Wait...", "What? and so on"]),
        ("", []),
        (" \n\n \t ", []),
        (".", ["."]),
    ],
)
def test_rules(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def random_text(seed: int, length: int) -> str:
    generator = random.Random(seed)
    return "".join(
        generator.choices(["a", "Bc", ".", "!", "。", "\n", "\n\n", " ", "  ", '"', "Mr.", "é"], k=length)
    )


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_and_segments_do_not_matter(seed: int) -> None:
    text = random_text(seed, 3000)
    whole = list(sentence_pieces([text]))
    assert "".join(piece for piece, _ in whole) == " ".join(text.split())
    generator = random.Random(seed)
    cuts = sorted(generator.sample(range(len(text)), 30))
    segments = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert list(sentence_pieces(segments)) == whole


def test_pieces_carry_the_space_before_them() -> None:
    assert list(sentence_pieces(["One.  Two\n\nThree.東。京"])) == [
        ("One.", True),
        (" Two", True),
        (" Three.東。", True),
        ("京", True),
    ]


def test_a_text_without_an_end_comes_in_pieces_of_one_sentence() -> None:
    text = "word " * 10_000
    pieces = list(sentence_pieces([text]))
    assert [begins for _, begins in pieces] == [True] + [False] * (len(pieces) - 1)
    assert max(len(piece) for piece, _ in pieces) <= LONGEST_PIECE
    assert "".join(piece for piece, _ in pieces) == text.strip()
    assert split_sentences(text) == [text.strip()]


def test_a_text_without_white_space_is_cut_where_it_must() -> None:
    pieces = list(sentence_pieces(["x" * 30_000]))
    assert "".join(piece for piece, _ in pieces) == "x" * 30_000
    assert len(pieces) == -(-30_000 // LONGEST_PIECE)


@pytest.mark.parametrize("unit", ["x", "word ", ".", "!!!! ", " ", "\n", "a.b", "Mr. ", "”"])
def test_time_is_linear(unit: str) -> None:
    def seconds(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        segments = [text[at : at + 65_536] for at in range(0, length, 65_536)]
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            for _piece in sentence_pieces(segments):
                pass
            best = min(best, time.process_time() - start)
        return best

    assert seconds(1 << 20) < 10 * seconds(1 << 18) + 0.05  # 4 times is linear, 16 quadratic
