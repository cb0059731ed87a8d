"""Students that are not cut out of their teacher: another model as it is, a config, or another model's encoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
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

from codir.errors import ConfigError, ModelError
from codir.models.bilstm import BiLstmConfig
from codir.models.classes import class_names, copy_labels, is_generic, new_head, said_kind
from codir.models.config_file import make_config, read_settings, require_memory
from codir.models.layers import require_depth
from codir.models.loading import encoder_shape, load_classifier, load_config, load_pretrained, resolve
from codir.models.student import fresh_model


def student_from_model(path_or_id: str | Path, teacher: PreTrainedModel, *, seed: int = 0) -> PreTrainedModel:
    """Takes any model folder or Hub id as the student.

    Its classifier is kept if it has the teacher's classes, in whatever order (logits are matched by name); otherwise it
    gets a new one with the teacher's classes, drawn with `seed`.

    Raises:
        ModelError: as `load_classifier`, or the student is deeper than the teacher.
    """
    source = resolve(path_or_id)
    config = load_config(source)
    student = None
    if _same_outputs(config, teacher.config) and "SequenceClassification" in str(config.architectures):
        try:
            student = load_classifier(source, require_head=True)
        except ModelError:  # the architecture promises a classifier and the weights have none
            student = None
    if student is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            student = load_classifier(
                source, require_head=False, labels=lambda config: copy_labels(config, teacher.config)
            )
            # anew also where shapes happen to fit: it was trained for other classes
            torch.manual_seed(seed)
            new_head(student)
    require_depth(encoder_shape(student).layers, encoder_shape(teacher).layers)
    return student


def _same_outputs(one: PretrainedConfig, other: PretrainedConfig) -> bool:
    kinds = said_kind(one), said_kind(other)
    if kinds[0] != kinds[1] if None not in kinds else (one.num_labels == 1) != (other.num_labels == 1):
        return False
    first, second = ([name.casefold() for name in class_names(config).values()] for config in (one, other))
    if len(first) == len(second) == 1 or sorted(first) == sorted(second):
        return True
    return len(first) == len(second) and is_generic(first) and is_generic(second)


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
        seed: seed of the initialisation.
        tokenizer: gives the size of the vocabulary and the padding token where a mapping or a file does not.
        embeddings: `teacher` starts from the teacher's word embeddings; a `codir-bilstm` gets their width then.
        pairs: the examples are pairs; a `codir-bilstm` reads them in its siamese form, unless the config says.

    Raises:
        ModelError: the config cannot be read, has no sequence classifier, is deeper than the teacher, or has no room
            for the teacher's embeddings.
    """
    words = _words(teacher) if embeddings == "teacher" else None
    of_bilstm = {"sentence_pairs": pairs} | ({} if words is None else {"embedding_size": words.shape[1]})
    config = read_config(config, tokenizer, of_bilstm)
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
        own = _words(student)
        if own.shape[1] != words.shape[1] or own.shape[0] > words.shape[0]:
            raise ModelError(
                f"The student's word embeddings are {own.shape[0]} x {own.shape[1]} and the teacher's "
                f"{words.shape[0]} x {words.shape[1]}: to start from those (student.embeddings: teacher), leave "
                "vocab_size and embedding_size out of the student's config, or set them to the teacher's."
            )
        with torch.no_grad():
            own.copy_(words[: own.shape[0]])
    return student.eval()


def _words(model: PreTrainedModel) -> torch.Tensor:
    return cast(nn.Embedding, model.get_input_embeddings()).weight


def read_config(
    config: PretrainedConfig | Mapping[str, Any] | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    of_bilstm: Mapping[str, Any] | None = None,
) -> PretrainedConfig:
    """Makes a config out of what `student_from_config` takes; raises `ModelError` if it cannot be read.

    What a mapping or a file leaves out comes from the tokenizer, and for a `codir-bilstm` from `of_bilstm`.
    """
    if isinstance(config, PretrainedConfig):
        return copy.deepcopy(config)
    where = "The config"
    if not isinstance(config, Mapping):
        path = Path(config).expanduser()
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise ModelError(f"There is no config file {path}.")
        where, config = str(path), read_settings(path)
    known: dict[str, Any] = {}
    if tokenizer is not None:
        known = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if config.get("model_type") == BiLstmConfig.model_type:
        known |= dict(of_bilstm or {}) | ({} if tokenizer is None else {"sep_token_id": tokenizer.sep_token_id})
    return make_config({**known, **config}, where)


def load_origin(path_or_hub_id: str | Path, teacher: PreTrainedModel, *, seed: int = 0) -> PreTrainedModel:
    """Loads a model of the teacher's family as a classifier that a student can be cut out of, as out of the teacher.

    Embeddings, layers and the pooler are the model's. What stands outside of the encoder (the classifier) is the
    teacher's where the two are equally wide, and new otherwise, also where the model had been trained for other
    classes; so is a pooler that the model lacks (masked language models have none).

    Args:
        path_or_hub_id: a model folder or a Hub id; whatever head it has is not used.
        teacher: gives the family, the classes and the classifier; nothing is shared with it.
        seed: seed of what is new; torch's global generator is left as it was.

    Raises:
        ConfigError: the model is of another family than the teacher.
        ModelError: as `load_classifier`.
    """
    source = resolve(path_or_hub_id)
    config = load_config(source)
    family, wanted = config.model_type, teacher.config.model_type
    if family != wanted:
        raise ConfigError(
            f"student.origin: {path_or_hub_id} is a {family} model and the teacher a {wanted} model, so the teacher's "
            f"classifier does not belong to it. Take a {wanted} model, or use {path_or_hub_id} as it is with "
            "student.model (--student)."
        )
    copy_labels(config, teacher.config)
    with torch.random.fork_rng(devices=[]):  # what is missing is drawn, and replaced below
        model, absent = load_pretrained(AutoModelForSequenceClassification, source, config)
    inside = f"{model.base_model_prefix}."
    fresh = fresh_model(type(model), copy.deepcopy(model.config), seed).state_dict()
    of_teacher = teacher.state_dict()
    replaced = [name for name in fresh if name in absent or not name.startswith(inside)]
    # all of it or nothing: a bias that happens to fit belongs to weights that do not
    fits = all(name in of_teacher and of_teacher[name].shape == fresh[name].shape for name in replaced)
    model.load_state_dict({name: (of_teacher if fits else fresh)[name] for name in replaced}, strict=False)
    return model
