"""Packing against a naive reference that sees a whole document at once."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from codir.corpora.packing import BlockPacker

PREFIX, SUFFIX = [101], [102]


def naive(document: list[list[int]], capacity: int) -> list[list[int]]:
    """Blocks of text of one document given as sentences."""
    blocks: list[list[int]] = [[]]
    for sentence in document:
        if len(sentence) <= capacity:
            if len(blocks[-1]) + len(sentence) > capacity:
                blocks.append([])
            blocks[-1] = blocks[-1] + sentence
        else:
            for token in sentence:
                if len(blocks[-1]) == capacity:
                    blocks.append([])
                blocks[-1] = [*blocks[-1], token]
    return [block for block in blocks if block]


def packed(documents: list[list[list[int]]], size: int, generator: random.Random | None = None):
    packer = BlockPacker(PREFIX, SUFFIX, size)
    numbers, blocks, owners = [], [], []

    def take() -> None:
        values, offsets, documents = packer.take()
        assert values.dtype == "int32"
        blocks.extend(values[a:b].tolist() for a, b in pairwise(offsets))
        owners.extend(documents.tolist())

    for document in documents:
        for sentence in document:
            cuts = [0, len(sentence)]
            if generator is not None:  # sentences come in pieces, and blocks are taken at any time
                cuts = sorted({0, len(sentence), *generator.choices(range(len(sentence) + 1), k=3)})
            for number, (a, b) in enumerate(pairwise(cuts)):
                packer.add(sentence[a:b], number == 0)
            if generator is not None and generator.random() < 0.2:
                take()
        numbers.append(packer.end_document())
    take()
    return numbers, blocks, owners


@pytest.mark.parametrize("seed", range(30))
def test_against_the_reference(seed: int) -> None:
    generator = random.Random(seed)
    size = generator.randint(4, 40)
    documents = [
        [
            [generator.randrange(1000) for _ in range(generator.randint(1, 2 * size))]
            for _ in range(generator.randint(0, 8))
        ]
        for _ in range(6)
    ]
    expected = [naive(document, size - 2) for document in documents]
    filled = [number for number, document in enumerate(expected) if document]
    for pieces in (None, generator):
        numbers, blocks, owners = packed(documents, size, pieces)
        assert numbers == [len(document) for document in expected]
        assert blocks == [[*PREFIX, *block, *SUFFIX] for document in expected for block in document]
        assert owners == [filled.index(n) for n in filled for _ in expected[n]]


def test_a_sentence_is_whole_wherever_it_fits() -> None:
    _, blocks, _ = packed([[[1] * 4, [2] * 5, [3] * 8]], 10)
    assert blocks == [[101, *[1] * 4, 102], [101, *[2] * 5, 102], [101, *[3] * 8, 102]]


def test_a_long_sentence_fills_blocks_up() -> None:
    _, blocks, _ = packed([[[1] * 4, [2] * 21, [3] * 2]], 10)
    assert [len(block) for block in blocks] == [10, 10, 10, 5]
    assert blocks[-1] == [101, 2, 3, 3, 102]


def test_no_block_has_tokens_of_two_documents() -> None:
    _, blocks, owners = packed([[[1]], [], [[2]]], 10)
    assert blocks == [[101, 1, 102], [101, 2, 102]]
    assert owners == [0, 1]
