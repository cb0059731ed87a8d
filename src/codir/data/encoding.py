"""Tokenises a split for a model, and for the teacher too where that one tokenises differently."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from codir.errors import ConfigError, DataError
from codir.models.classes import require_ids
from codir.models.config_file import position_limit

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_BATCH = 1000


@contextlib.contextmanager
def cuts_unsaid() -> Iterator[None]:
    """Keeps `encode_split` from warning of cut texts, for callers who encode in parts, or twice, and say it once."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class EncodedSplit(NamedTuple):
    """An encoded split and what was cut off in making it."""

    dataset: Dataset
    max_length: int | None  # the longest input allowed, in tokens; None if there is no limit
    truncated: int  # examples that were longer and lost their end


def length_limit(max_length: int | None, config: PreTrainedConfig | None) -> int | None:
    """Returns min(max_length, the model's positions), None for no limit at all.

    Raises:
        ConfigError: `max_length` leaves no room for the special tokens and a word.
    """
    if max_length is not None and max_length < 4:
        raise ConfigError(f"A maximum length of {max_length} tokens leaves no room for text; give at least 4.")
    positions = position_limit(config) if config is not None else None
    known = [limit for limit in (max_length, positions) if limit is not None]
    return min(known) if known else None


def same_tokenizer(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Says whether two tokenizers give the same inputs for every text.

    Compared are the serialised backends (vocabulary, merges, normaliser, post-processor; not the padding and
    truncation last used) or else class and vocabulary, special tokens, input names and the side of truncation.
    """
    return a is b or _fingerprint(a) == _fingerprint(b)


def _fingerprint(tokenizer: PreTrainedTokenizerBase) -> list[Any]:
    common = [
        sorted((str(name), str(token)) for name, token in tokenizer.special_tokens_map.items()),
        sorted(tokenizer.all_special_ids),
        sorted(tokenizer.model_input_names),
        tokenizer.truncation_side,
    ]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return [*common, type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    state = json.loads(backend.to_str())
    state.pop("padding", None)
    state.pop("truncation", None)
    return [*common, state]


def encode(split: Dataset, tokenizer: PreTrainedTokenizerBase, *args: Any, **settings: Any) -> Dataset:
    """Tokenises a split; arguments as `encode_split`, which also returns how many examples were truncated."""
    return encode_split(split, tokenizer, *args, **settings).dataset


def encode_split(
    split: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    label_ids: Sequence[int] | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_max_length: int | None = None,
    *,
    config: PreTrainedConfig | None = None,
    teacher_config: PreTrainedConfig | None = None,
) -> EncodedSplit:
    """Tokenises a split in memory, without padding, in the order of its rows; nothing is cached on disk.

    Args:
        split: columns `text`, (`text_pair`), (`label`); a label that is None becomes -100, a score that is None NaN.
        tokenizer: the student's (or only) tokenizer.
        max_length: longer inputs lose their end, of pairs the longer text first; None: only the model's limit.
        label_ids: the model's class id for each of the data's class ids; None: they stay the data's, with their names
            where the split knows them.
        teacher_tokenizer: adds the teacher's own columns (prefix `teacher_`), only if they would differ.
        teacher_max_length: like `max_length`, for the teacher; None: only the teacher's limit.
        config: the model's configuration, for its positions (`position_limit`).
        teacher_config: the teacher's.

    Returns:
        Columns `input_ids`, `attention_mask`, (`token_type_ids`), `labels` (if there are labels), `example_id`; with a
        teacher that tokenises differently also `teacher_input_ids` and so on.

    Raises:
        DataError: a class id that `label_ids` does not cover.
        ConfigError: a maximum length too small for any text; the labels are texts.
    """
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Sequence as ListOf

    from codir.models.classes import UNLABELED

    require_ids(split)
    longest = length_limit(max_length, config)
    columns, truncated = _tokenize(split, tokenizer, longest)
    if teacher_tokenizer is not None:
        limit = length_limit(teacher_max_length, teacher_config)
        fits = limit is None or all(len(ids) <= limit for ids in columns["input_ids"])
        same = same_tokenizer(tokenizer, teacher_tokenizer)
        if not (same and (limit == longest or (not truncated and fits))):
            own, _ = _tokenize(split, teacher_tokenizer, limit, " for the teacher")
            columns |= {f"teacher_{name}": values for name, values in own.items()}
    features: dict[str, Any] = {
        name: ListOf(Value("int32" if name.endswith("input_ids") else "int8")) for name in columns
    }
    if "label" in split.column_names:
        regression = split.features["label"].dtype.startswith("float")
        missing = float("nan") if regression else UNLABELED
        labels = list(split["label"])
        if label_ids is not None:
            highest = max((int(label) for label in labels if label is not None), default=0)
            if highest >= len(label_ids):
                raise DataError(
                    f"The data have a class {highest}, but only {len(label_ids)} classes are matched to the model's."
                )
            labels = [None if label is None else label_ids[int(label)] for label in labels]
        columns["labels"] = [missing if label is None else label for label in labels]
        features["labels"] = Value("float32" if regression else "int64")
        if label_ids is None and isinstance(split.features["label"], ClassLabel):
            features["labels"] = split.features["label"]  # with names; the model's own ids need none
    columns["example_id"], features["example_id"] = list(range(len(split))), Value("int64")
    return EncodedSplit(Dataset.from_dict(columns, features=Features(features)), longest, truncated)


def _tokenize(
    split: Dataset, tokenizer: PreTrainedTokenizerBase, limit: int | None, whose: str = ""
) -> tuple[dict[str, list[Any]], int]:
    """Returns the tokenizer's columns and the number of examples that lost something."""
    columns: dict[str, list[Any]] = {}
    truncated = 0
    texts: list[str] = list(split["text"])
    seconds: list[str] | None = list(split["text_pair"]) if "text_pair" in split.column_names else None

    def run(rows: Sequence[int], cut: bool) -> dict[str, list[Any]]:
        return dict(
            tokenizer(
                [texts[row] for row in rows],
                None if seconds is None else [seconds[row] for row in rows],
                truncation="longest_first" if cut else False,
                max_length=limit if cut else None,
                padding=False,
                return_attention_mask=True,
                verbose=False,
            )
        )

    for start in range(0, len(texts), _BATCH):
        rows = range(start, min(start + _BATCH, len(texts)))
        encoded = run(rows, cut=limit is not None)
        if limit is not None:
            # Only an input exactly at the limit can have lost something: those are tokenised again, whole, and counted.
            full = [row for row, ids in zip(rows, encoded["input_ids"], strict=True) if len(ids) >= limit]
            truncated += sum(len(ids) > limit for ids in run(full, cut=False)["input_ids"]) if full else 0
        for name, values in encoded.items():
            columns.setdefault(name, []).extend(values)
    if truncated:
        verb, past = ("is", "was") if truncated == 1 else ("are", "were")
        words = "%d of %d texts %s longer than %s tokens and %s cut%s."
        logger.warning(words, truncated, len(texts), verb, limit, past, whose)
    return columns, truncated
