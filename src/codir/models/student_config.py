"""Builds students of random weights from a config: a file, or settings that stand in the recipe."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from codir.errors import ModelError
from codir.models.bilstm import BiLstmConfig
from codir.models.config_file import make_config, read_settings, require_memory
from codir.models.labels import copy_labels
from codir.models.loading import encoder_shape
from codir.models.student import require_depth


def student_from_config(
    config: PretrainedConfig | Mapping[str, Any] | str | Path,
    teacher: PreTrainedModel,
    *,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerBase | None = None,
    embeddings: Literal["random", "teacher"] = "random",
    pairs: bool = False,
) -> PreTrainedModel:
    """Makes a student of random weights from a config, for example a narrower one, or a bidirectional LSTM.

    Args:
        config: a transformers config, a mapping with `model_type`, or the path of a config.json or of its folder.
        teacher: whose classes the student gets.
        seed: of the initialisation.
        tokenizer: gives the size of the vocabulary and the padding token where a mapping or a file does not.
        embeddings: `teacher` starts from the teacher's word embeddings; a `codir-bilstm` gets their width then.
        pairs: the examples are pairs; a `codir-bilstm` reads them in its siamese form, unless the config says.

    Raises:
        ModelError: the config cannot be read, has no sequence classifier, is deeper than the teacher, or has no room
            for the teacher's embeddings.
    """
    words = _word_embeddings(teacher) if embeddings == "teacher" else None
    config = read_config(config, config_defaults(tokenizer, words, pairs))
    copy_labels(config, teacher.config)
    require_memory(config, "The student's config")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            student = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        except Exception as error:
            raise ModelError(f"No classifier can be made from this config: {error}") from error
    require_depth(encoder_shape(student).layers, encoder_shape(teacher).layers)
    if words is not None:
        _copy_words(words, _word_embeddings(student))
    return student.eval()


def config_defaults(
    tokenizer: PreTrainedTokenizerBase | None, words: torch.Tensor | None = None, pairs: bool = False
) -> Callable[[str], dict[str, Any]]:
    """Returns what a config of a family says where its author says nothing."""

    def of_family(kind: str) -> dict[str, Any]:
        known: dict[str, Any] = {}
        if tokenizer is not None:
            known |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        if kind == BiLstmConfig.model_type:
            known["sentence_pairs"] = pairs
            if tokenizer is not None:
                known["sep_token_id"] = tokenizer.sep_token_id
            if words is not None:
                known["embedding_size"] = words.shape[1]
        return known

    return of_family


def _word_embeddings(model: PreTrainedModel) -> torch.Tensor:
    """Returns a model's table of words, [vocabulary, width]."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight


@torch.no_grad()
def _copy_words(source: torch.Tensor, target: torch.Tensor) -> None:
    if target.shape[1] != source.shape[1] or target.shape[0] > source.shape[0]:
        raise ModelError(
            f"The student's word embeddings are {target.shape[0]} x {target.shape[1]} and the teacher's "
            f"{source.shape[0]} x {source.shape[1]}: to start from those (student.embeddings: teacher), leave "
            "vocab_size and embedding_size out of the student's config, or set them to the teacher's."
        )
    target.copy_(source[: target.shape[0]])


def read_config(
    config: PretrainedConfig | Mapping[str, Any] | str | Path,
    defaults: Callable[[str], Mapping[str, Any]] | None = None,
) -> PretrainedConfig:
    """Makes a config out of what `student_from_config` takes; raises `ModelError` if it cannot be read.

    `defaults` gives, for a `model_type`, settings for what a mapping or a file leaves out.
    """
    if isinstance(config, PretrainedConfig):
        return copy.deepcopy(config)
    where = "The config"
    if not isinstance(config, Mapping):
        path = Path(config).expanduser()
        if path.is_dir():
            path = path / "config.json"
        if not path.is_file():
            raise ModelError(f"There is no config file {path}.")
        where, config = str(path), read_settings(path)
    kind = config.get("model_type")
    known = defaults(kind) if defaults is not None and isinstance(kind, str) else {}
    return make_config({**known, **config}, where)
