"""From documents to blocks of tokens: sentences by fixed rules, packed whole wherever one fits.

A sentence ends at a full stop, question or exclamation mark (with the quotes and brackets that close after it) that is
followed by white space and by something that can begin a sentence; at a Chinese or Japanese full stop; and at a blank
line. It does not end after an abbreviation or an initial. A single line end is white space, so that hard-wrapped text
reads as what it is. Where the rules err, a sentence is too long or too short, and no text is lost.
"""

from __future__ import annotations

import json
import re
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash

from codir.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

LONGEST_PIECE = 8192
"""Characters after which a text without an end of sentence is cut, at white space if there is any."""

_PIECES = 1000  # encoded at a time
_PROBE = "the same words"
# Case, accents, spaces, numbers, punctuation, other scripts, joined marks: what tokenizers treat differently.
_PROBES = (
    "Hello World, it's 3.14159 o'clock!  Two  spaces,\ttab.",
    " leading space, naïve Café ÅNGSTRÖM ﬁne Ⅷ",
    "don't re-enter the_snake CamelCase e-mail@example.org 1,234,567",
    "Größe, œuvre, señor, Москва, 東京は日本, 한국어, العربية, हिन्दी, 😀👍🏽",
    "x" * 120 + " <unk> [MASK] </s>",
)

# Every part that can fail is bounded, so that no run of the same character costs quadratic time.
_CANDIDATE = re.compile(
    r"[.!?…][\"'”’»)\]]{0,4}\s+"
    r"|[。！？][”’」』）]{0,4}"
    r"|\n[^\S\n]*\n\s*"  # blank line
)
_OPENERS = "\"'“‘«([{_*—-"
_TITLES = "mr mrs ms messrs mme dr prof rev hon st mt gen col capt lt sgt sen rep gov pres supt esq jr sr"
_SHORTENED = "vs cf eg ie viz approx ca al inc ltd corp dept univ assn bros fig figs eq eqs vol vols ed eds pp"
_MONTHS = "jan feb mar apr jun jul aug sept sep oct nov dec"
_ABBREVIATIONS = frozenset(f"{_TITLES} {_SHORTENED} {_MONTHS}".split())
# Abbreviations only where a number follows: "No. 5", but "She said no. Then ..."
_BEFORE_NUMBERS = frozenset({"no", "nos", "p", "art", "sec", "ch", "op"})


def sentence_pieces(text: str) -> Iterator[tuple[str, bool]]:
    """Yields (piece, whether it begins a sentence) for one document.

    The pieces joined are the document with every run of white space made one space: a piece starts with the space
    before it, because byte-level tokenizers encode a word together with that. A sentence is one piece unless it is
    longer than `LONGEST_PIECE` characters.
    """
    space = anything = False
    for sentence in _sentences(text):
        begins = True
        for raw in _cut(sentence):
            words = " ".join(raw.split())
            if words:
                yield (" " + words if anything and (space or raw[0].isspace()) else words), begins
                begins, space, anything = False, raw[-1].isspace(), True
            else:
                space = space or bool(raw)


def _sentences(text: str) -> Iterator[str]:
    """Yields the sentences as they stand, with the white space behind them."""
    start = 0
    for match in _CANDIDATE.finditer(text):
        if match.end() < len(text) and _ends_sentence(text, start, match):
            yield text[start : match.end()]
            start = match.end()
    yield text[start:]


def _cut(text: str) -> Iterator[str]:
    """Yields slices of at most `LONGEST_PIECE` characters, cut before white space if there is any."""
    start = 0
    while len(text) - start > LONGEST_PIECE:
        end = start + LONGEST_PIECE
        space = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
        end = space if space > 0 else end
        yield text[start:end]
        start = end
    yield text[start:]


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    """Says whether a candidate ends the sentence that began at `start`."""
    mark = text[match.start()]
    if mark in "\n。！？":
        return True
    following = text[match.end()]
    if following.islower():
        return False
    if mark != "." or text[match.start() - 1 : match.start()].isspace():
        return True
    before = text[max(start, match.start() - 24) : match.start()].split()
    word = before[-1].lstrip(_OPENERS) if before else ""
    if len(word) == 1 and word.isupper():
        return False  # an initial: "J. Austen"
    word = word.lower()
    if word in _ABBREVIATIONS or (word in _BEFORE_NUMBERS and following.isdigit()):
        return False
    return not ("." in word and all(len(part) == 1 for part in word.split(".")))  # "U.S.", "e.g."


def pack(sentences: Iterable[Sequence[int]], capacity: int) -> Iterator[list[int]]:
    """Yields the blocks of one document, each of at most `capacity` tokens, without special tokens.

    A sentence that does not fit into what is left of a block starts the next one. One that is longer than a whole block
    fills up the current block and is cut where blocks are full.
    """
    block: list[int] = []
    for ids in sentences:
        if len(ids) <= capacity < len(block) + len(ids):
            yield block
            block = []
        start = 0
        while len(block) + len(ids) - start > capacity:
            end = start + capacity - len(block)
            yield block + list(ids[start:end])
            block, start = [], end
        block.extend(ids[start:])
    if block:
        yield block


class Encoder:
    """Encodes pieces of text without special tokens, and knows those that go round a block (`prefix`, `suffix`).

    A special token spelled out in a text is text: a block has the special tokens the tokenizer builds, and no others.

    Raises:
        ModelError: the tokenizer puts its special tokens elsewhere than before and after the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._slow = tokenizer
        self._fast: Tokenizer | None = None
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if hasattr(backend, "to_str"):
            from tokenizers import Tokenizer

            # a copy that neither cuts nor pads: many are saved with both switched on
            self._fast = Tokenizer.from_str(backend.to_str())
            self._fast.no_truncation()
            self._fast.no_padding()
            self._fast.encode_special_tokens = True
        plain = self.encode([_PROBE])[0]
        full: list[int] = tokenizer(_PROBE, truncation=False, padding=False, verbose=False)["input_ids"]
        starts = range(len(full) - len(plain) + 1)
        start = next((start for start in starts if full[start : start + len(plain)] == plain), None)
        if start is None:
            raise ModelError(
                f"The tokenizer {tokenizer.name_or_path} does not put its special tokens before and after a text, so "
                "blocks cannot be packed for it."
            )
        self.prefix, self.suffix = full[:start], full[start + len(plain) :]

    def __reduce__(self) -> Any:
        return Encoder, (self._slow,)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Returns the ids of each text, without special tokens and never truncated."""
        if self._fast is not None:
            return [each.ids for each in self._fast.encode_batch_fast(texts, add_special_tokens=False)]
        settings: dict[str, Any] = {"add_special_tokens": False, "truncation": False, "padding": False}
        return self._slow(texts, return_attention_mask=False, verbose=False, **settings)["input_ids"]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a digest of what a tokenizer does: its vocabulary, special tokens, and how it encodes probe texts.

    By behaviour and not by its files, so that the same tokenizer saved by another version has the same digest, and so
    that padding and truncation, which a corpus does not use, do not count.
    """
    encoder = Encoder(tokenizer)
    tokens = sorted(tokenizer.special_tokens_map.items())
    special = {name: tokenizer.convert_tokens_to_ids(each) for name, each in tokens if isinstance(each, str)}
    content = {
        "vocabulary": sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])),
        "special": special,
        "probes": encoder.encode(list(_PROBES)),
        "around": [encoder.prefix, encoder.suffix],
    }
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def load_tokenizer_and_config(source: str) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig | None]:
    """Loads a tokenizer, and the config of the model it comes with, if any; raises `ModelError`."""
    from codir.models.loading import load_config, load_tokenizer, read_tokenizer

    folder = Path(source).expanduser()
    if folder.is_dir():
        config = load_config(folder) if (folder / "config.json").is_file() else None
        return read_tokenizer(folder), config
    tokenizer = load_tokenizer(source)
    try:
        return tokenizer, load_config(source)
    except ModelError:
        return tokenizer, None  # a repository with a tokenizer only


def save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None, source: str, folder: Path
) -> None:
    """Saves the tokenizer, and the model's `config.json` beside it."""
    tokenizer.save_pretrained(folder)
    original = Path(source).expanduser() / "config.json"
    if original.is_file():
        shutil.copyfile(original, folder / "config.json")
    elif config is not None:
        config.save_pretrained(folder)


class Packing:
    """The function of `datasets.map` that packs documents (column `text`) into blocks of at most `block` tokens.

    Of each document it returns `blocks`, a list of lists of tokens with the special ones; the hash of its text, seeded,
    by which documents are held out; and the number of its sentences.
    """

    def __init__(self, encoder: Encoder, block: int, seed: int):
        self.encoder, self.block, self.seed = encoder, block, seed

    def __call__(self, batch: Any) -> pa.Table:
        """Packs a batch of documents."""
        prefix, suffix = self.encoder.prefix, self.encoder.suffix
        capacity = self.block - len(prefix) - len(suffix)
        tokens, ends, blocks = array("i"), [0], [0]
        hashes, sentences = [], []
        for text in batch["text"]:
            pieces = list(sentence_pieces(text))
            for block in pack(self._encoded(pieces), capacity):
                tokens.extend(prefix + block + suffix)
                ends.append(len(tokens))
            blocks.append(len(ends) - 1)
            plain = "".join(piece for piece, _ in pieces)
            hashes.append(xxhash.xxh3_64_intdigest(plain.encode(), self.seed))
            sentences.append(sum(begins for _, begins in pieces))
        inner = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.array(tokens, np.int32)))
        return pa.table(
            {
                "blocks": pa.ListArray.from_arrays(pa.array(blocks, pa.int32()), inner),
                "hash": pa.array(hashes, pa.uint64()),
                "sentences": pa.array(sentences, pa.int64()),
            }
        )

    def _encoded(self, pieces: Sequence[tuple[str, bool]]) -> Iterator[list[int]]:
        """Yields the tokens of each sentence."""
        sentence: list[int] = []
        for start in range(0, len(pieces), _PIECES):
            chunk = pieces[start : start + _PIECES]
            encoded = self.encoder.encode([piece for piece, _ in chunk])
            for (_, begins), ids in zip(chunk, encoded, strict=True):
                if begins:
                    yield sentence
                    sentence = []
                sentence += ids
        yield sentence
