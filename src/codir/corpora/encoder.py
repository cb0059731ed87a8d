"""A tokenizer as a corpus needs it: ids of many pieces of text, the special tokens round a block, a digest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from codir.errors import ConfigError, ModelError
from codir.models.positions import position_limit

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

LEAST_TEXT = 6
"""Tokens of text that a block must have room for."""

_PROBE = "the same words"
# Case, accents, spaces, numbers, punctuation, other scripts, joined marks: what tokenizers treat differently.
_PROBES = (
    "Hello World, it's 3.14159 o'clock!  Two  spaces,\ttab.",
    " leading space, naïve Café ÅNGSTRÖM ﬁne Ⅷ",
    "don't re-enter the_snake CamelCase e-mail@example.org 1,234,567",
    "Größe, œuvre, señor, Москва, 東京は日本, 한국어, العربية, हिन्दी, 😀👍🏽",
    "x" * 120 + " <unk> [MASK] </s>",
)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a digest of what a tokenizer does: its vocabulary, special tokens, and how it encodes probe texts.

    By behaviour and not by its files, so that the same tokenizer saved by another version has the same digest, and so
    that padding and truncation, which a corpus does not use, do not count.
    """
    encoder = Encoder(tokenizer)
    special = {name: tokenizer.convert_tokens_to_ids(str(token)) for name, token in _special(tokenizer)}
    content = {
        "vocabulary": sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])),
        "special": special,
        "probes": encoder.encode(list(_PROBES)),
        "around": [encoder.prefix, encoder.suffix],
    }
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _special(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, Any]]:
    return [
        (name, token)
        for name, token in sorted(tokenizer.special_tokens_map.items())
        if isinstance(token, str)
    ]


class Encoder:
    """Encodes pieces of text without special tokens, and knows those that go round a block.

    A special token spelled out in a text is text: a block has the special tokens the tokenizer builds, and no others.

    Args:
        tokenizer: any; those without a fast backend are slower.

    Raises:
        ModelError: the tokenizer puts its special tokens elsewhere than before and after the text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._slow = tokenizer
        self._fast = _plain_backend(tokenizer)
        self.prefix, self.suffix = self._around()

    def __reduce__(self) -> Any:
        return (Encoder, (self._slow,))

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Returns the ids of each text, without special tokens and never truncated."""
        if not texts:
            return []
        if self._fast is not None:
            return [each.ids for each in self._fast.encode_batch_fast(texts, add_special_tokens=False)]
        settings: dict[str, Any] = {"add_special_tokens": False, "truncation": False, "padding": False}
        return self._slow(texts, return_attention_mask=False, verbose=False, **settings)["input_ids"]

    def _around(self) -> tuple[list[int], list[int]]:
        plain = self.encode([_PROBE])[0]
        full: list[int] = self._slow(_PROBE, truncation=False, padding=False, verbose=False)["input_ids"]
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return full[:start], full[start + len(plain) :]
        raise ModelError(
            f"The tokenizer {self._slow.name_or_path} does not put its special tokens before and after a text, so "
            "blocks cannot be packed for it."
        )


def _plain_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer | None:
    """Returns a copy of the fast tokenizer that neither cuts nor pads (many are saved with both switched on)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return None
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def load(source: str) -> tuple[PreTrainedTokenizerBase, PreTrainedConfig | None]:
    """Loads a tokenizer, and the config of the model it comes with, if any.

    Args:
        source: a model folder, a folder with a tokenizer only, or a Hub id.

    Raises:
        ModelError: there is no tokenizer, or it or the config cannot be read.
    """
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


def save(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None, source: str, folder: Path
) -> None:
    """Saves the tokenizer into `folder`, and the model's `config.json` beside it."""
    tokenizer.save_pretrained(folder)
    original = Path(source).expanduser() / "config.json"
    if original.is_file():
        shutil.copyfile(original, folder / "config.json")
    elif config is not None:
        config.save_pretrained(folder)


def check_block(
    block: int, encoder: Encoder, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None
) -> None:
    """Raises `ConfigError` if blocks of that many tokens are too small for text or too long for the model."""
    special = len(encoder.prefix) + len(encoder.suffix)
    if block < special + LEAST_TEXT:
        raise ConfigError(
            f"A block of {block} tokens, {special} of them special, leaves no room for text; give at least "
            f"{special + LEAST_TEXT} (--block)."
        )
    limit, whose = tokenizer.model_max_length, "tokenizer is made"
    if config is not None:
        known = position_limit(config)
        # a model without a table of positions has no limit, whatever its tokenizer says
        limit, whose = (known if known is not None else block), "model has positions"
    if block > limit:
        raise ConfigError(
            f"A block of {block} tokens is too long: the {whose} for {limit} ({tokenizer.name_or_path}). Give "
            f"--block {limit} or less."
        )
