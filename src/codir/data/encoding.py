"""Tokenises a split for a model, and for the teacher too where that one tokenises differently."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codir.errors import ConfigError, DataError
from codir.models.classes import require_ids
from codir.models.config_file import position_limit

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_TEACHER = "teacher_"
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


@dataclass
class EncodedSplit:
    """An encoded split and what was cut off in making it.

    Attributes:
        dataset: columns `input_ids`, `attention_mask`, (`token_type_ids`), `labels` (if there are labels),
            `example_id`; with a teacher that tokenises differently also `teacher_input_ids` and so on.
        max_length: the longest input allowed, in tokens; None if there is no limit.
        truncated: number of examples that were longer and lost their end.
        teacher_max_length: the same for the teacher's own columns, None if it has none.
        teacher_truncated: likewise.
    """

    dataset: Dataset
    max_length: int | None
    truncated: int
    teacher_max_length: int | None = None
    teacher_truncated: int = 0


def length_limit(max_length: int | None, config: PreTrainedConfig | None) -> int | None:
    """Returns min(max_length, the model's positions), None for no limit at all.

    Raises:
        ConfigError: `max_length` leaves no room for the special tokens and a word.
    """
    if max_length is not None and max_length < 4:
        raise ConfigError(
            f"A maximum length of {max_length} tokens leaves no room for text; give at least 4."
        )
    positions = position_limit(config) if config is not None else None
    known = [limit for limit in (max_length, positions) if limit is not None]
    return min(known) if known else None


def same_tokenizer(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Says whether two tokenizers give the same inputs for every text.

    Compared are the serialised backends (vocabulary, merges, normaliser, post-processor; not the padding and
    truncation last used), the special tokens, the names of the model's inputs and the side of truncation. Tokenizers
    without a serialisable backend are compared by class, vocabulary and special tokens.
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


def encode(
    split: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    label_ids: Sequence[int] | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_max_length: int | None = None,
    *,
    config: PreTrainedConfig | None = None,
    teacher_config: PreTrainedConfig | None = None,
) -> Dataset:
    """Tokenises a split; see `encode_split`, which also returns how many examples were truncated."""
    return encode_split(
        split,
        tokenizer,
        max_length,
        label_ids,
        teacher_tokenizer,
        teacher_max_length,
        config=config,
        teacher_config=teacher_config,
    ).dataset


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

    Raises:
        DataError: a class id that `label_ids` does not cover.
        ConfigError: a maximum length too small for any text; the labels are texts.
    """
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Sequence as ListOf

    from codir.models.labels import UNLABELED

    require_ids(split)
    longest = length_limit(max_length, config)
    columns, truncated = _tokenize(split, tokenizer, longest)
    teacher_longest: int | None = None
    teacher_truncated = 0
    if teacher_tokenizer is not None:
        teacher_longest = length_limit(teacher_max_length, teacher_config)
        same = same_tokenizer(tokenizer, teacher_tokenizer)
        if same and (teacher_longest == longest or (not truncated and _fits(columns, teacher_longest))):
            teacher_longest = None
        else:
            own, teacher_truncated = _tokenize(split, teacher_tokenizer, teacher_longest)
            columns |= {_TEACHER + name: values for name, values in own.items()}
    kinds = {name: "int32" if name.endswith("input_ids") else "int8" for name in columns}
    features: dict[str, Any] = {name: ListOf(Value(kind)) for name, kind in kinds.items()}
    if "label" in split.column_names:
        regression = split.features["label"].dtype.startswith("float")
        columns["labels"] = _labels(
            list(split["label"]), label_ids, float("nan") if regression else UNLABELED
        )
        features["labels"] = Value("float32" if regression else "int64")
        if label_ids is None and isinstance(split.features["label"], ClassLabel):
            features["labels"] = split.features["label"]  # with names; the model's own ids need none
    columns["example_id"] = list(range(len(split)))
    features["example_id"] = Value("int64")
    for count, limit, whose in (
        (truncated, longest, ""),
        (teacher_truncated, teacher_longest, " for the teacher"),
    ):
        if count:
            logger.warning(
                "%d of %d texts %s longer than %s tokens and %s cut%s.",
                count,
                len(split),
                "is" if count == 1 else "are",
                limit,
                "was" if count == 1 else "were",
                whose,
            )
    dataset = Dataset.from_dict(columns, features=Features(features))
    return EncodedSplit(dataset, longest, truncated, teacher_longest, teacher_truncated)


def _fits(columns: dict[str, list[Any]], limit: int | None) -> bool:
    return limit is None or all(len(ids) <= limit for ids in columns["input_ids"])


def _labels(labels: list[Any], label_ids: Sequence[int] | None, missing: float) -> list[Any]:
    if label_ids is None:
        return [missing if label is None else label for label in labels]
    highest = max((int(label) for label in labels if label is not None), default=0)
    if highest >= len(label_ids):
        raise DataError(
            f"The data have a class {highest}, but only {len(label_ids)} classes are matched to the model's."
        )
    return [missing if label is None else label_ids[int(label)] for label in labels]


def _tokenize(
    split: Dataset, tokenizer: PreTrainedTokenizerBase, limit: int | None
) -> tuple[dict[str, list[Any]], int]:
    """Returns the tokenizer's columns and the number of examples that lost something."""
    columns: dict[str, list[Any]] = {}
    truncated = 0
    pairs = "text_pair" in split.column_names

    def run(rows: dict[str, list[str]], cut: bool) -> dict[str, list[Any]]:
        return dict(
            tokenizer(
                rows["text"],
                rows["text_pair"] if pairs else None,
                truncation="longest_first" if cut else False,
                max_length=limit if cut else None,
                padding=False,
                return_attention_mask=True,
                verbose=False,
            )
        )

    texts: list[str] = list(split["text"])
    seconds: list[str] = list(split["text_pair"]) if pairs else []
    for start in range(0, len(texts), _BATCH):
        rows = {"text": texts[start : start + _BATCH], "text_pair": seconds[start : start + _BATCH]}
        encoded = run(rows, cut=limit is not None)
        # Only an input exactly at the limit can have lost something: those are tokenised again, whole, and counted.
        full = [i for i, ids in enumerate(encoded["input_ids"]) if limit is not None and len(ids) >= limit]
        if full and limit is not None:
            whole = run(
                {name: [values[i] for i in full] for name, values in rows.items() if values}, cut=False
            )
            truncated += sum(len(ids) > limit for ids in whole["input_ids"])
        for name, values in encoded.items():
            columns.setdefault(name, []).extend(values)
    return columns, truncated
