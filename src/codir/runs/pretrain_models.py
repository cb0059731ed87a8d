"""Teacher and student of a pre-training, loaded and checked against each other and the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from codir.config.pretraining import PretrainConfig
from codir.data.corpus import Corpus
from codir.data.packing import tokenizer_digest
from codir.errors import ConfigError, ModelError
from codir.losses.registry import needs_of, predicts, taught_by
from codir.models.check import check_model
from codir.models.config_file import position_limit
from codir.models.layers import chosen_layers
from codir.models.loading import encoder_shape, load_tokenizer
from codir.models.masked_lm import load_encoder, load_masked_lm, masked_lm_from_config
from codir.models.narrowing import narrow_config, narrow_student
from codir.models.origins import read_config
from codir.models.student import build_student, describe_frozen, freeze, shallower_config


@dataclass
class PretrainingModels:
    """The two models of a pre-training.

    Attributes:
        teacher: masked language model; None where no objective needs one.
        teacher_predicts: whether it came with a head that predicts tokens; the losses may read its layers alone.
        student: as initialised, with the parameters that stay as they are frozen.
        tokenizer: that of both and of the corpus.
        origin: lines for the table printed before training: where the student's weights come from.
    """

    teacher: PreTrainedModel | None
    teacher_predicts: bool
    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    origin: list[tuple[str, str]]


def load_models(config: PretrainConfig, corpus: Corpus) -> PretrainingModels:
    """Loads and checks the models of a pre-training.

    Raises:
        ConfigError: an objective needs a teacher and none is named; teacher and student have different vocabularies.
        DataError: the corpus was prepared with another tokenizer.
        ModelError: a model cannot be used.
    """
    needs = needs_of(config.objectives)
    taught = taught_by(config.objectives)
    if taught and config.teacher is None:
        raise ConfigError(
            f"The recipe {config.recipe!r} distils a teacher ({', '.join(taught)}) and none is named: add "
            "--teacher MODEL, or use --recipe mlm-pre, which needs none."
        )
    _same_vocabulary(config, corpus)
    teacher, absent = None, []
    if config.teacher is not None:
        if needs.teacher_logits:
            teacher = load_masked_lm(config.teacher)
        else:
            teacher, absent = load_encoder(config.teacher, seed=config.training.seed)
        _fits(teacher.config, corpus, f"The teacher {config.teacher}")
    student, origin = _student(config, corpus, teacher, "a new head" if absent else "the head")
    _fits(student.config, corpus, "The student")
    if config.student.freeze:
        freeze(student, config.student.freeze)
        origin.append(("frozen", describe_frozen(student, config.student.freeze)))
    if config.trained == "head":
        _freeze_encoder(student)
        origin.append(("trained", "the head that predicts tokens; the encoder stays as it is"))
    tokenizer = corpus.tokenizer
    if int(student.config.vocab_size) < len(tokenizer):
        raise ModelError(
            f"The student has a vocabulary of {student.config.vocab_size}, and the tokenizer of {corpus.path} "
            f"{len(tokenizer)} tokens: set vocab_size to that in the student's config."
        )
    if teacher is not None:
        check_model(teacher, tokenizer, str(config.teacher))
    check_model(student, tokenizer, config.student.model or "the student")
    if not predicts(config.objectives):
        origin.append(
            ("not trained", "the head that predicts tokens: no term of the recipe reads its predictions")
        )
    return PretrainingModels(teacher if taught else None, not absent, student, tokenizer, origin)


def _same_vocabulary(config: PretrainConfig, corpus: Corpus) -> None:
    teacher = load_tokenizer(config.teacher) if config.teacher is not None else None
    student = load_tokenizer(config.student.model) if config.student.model is not None else None
    if teacher is not None and student is not None and tokenizer_digest(teacher) != tokenizer_digest(student):
        raise ConfigError(
            f"The teacher {config.teacher} (vocabulary of {len(teacher):,}) and the student {config.student.model} "
            f"({len(student):,}) have different tokenizers, so KD over tokens is impossible: use --recipe mlm-pre for "
            "the student alone (with a corpus of its own tokenizer), or a student of the teacher's family."
        )
    if teacher is not None:
        corpus.check_tokenizer(teacher, f"the teacher {config.teacher}")
    if student is not None:
        corpus.check_tokenizer(student, f"the student {config.student.model}")


def _student(
    config: PretrainConfig, corpus: Corpus, teacher: PreTrainedModel | None, head: str
) -> tuple[PreTrainedModel, list[tuple[str, str]]]:
    wanted, seed = config.student, config.training.seed
    narrower = wanted.width is not None or wanted.intermediate is not None
    if wanted.model is not None:
        student = load_masked_lm(wanted.model, require_head=False, seed=seed)
        return student, [("starts from", wanted.model)]
    if wanted.config is not None:
        if wanted.embeddings == "teacher":
            raise ConfigError(
                "student.embeddings is `teacher`, which is for distilling on a task: leave it out in a pre-training."
            )
        own = read_config(wanted.config, corpus.tokenizer)
        return masked_lm_from_config(own, seed), [("starts from", "random weights")]
    if teacher is not None and config.student.init != "random":
        student = build_student(teacher, wanted.layers, wanted.init, seed=seed)
        layers = chosen_layers(encoder_shape(teacher).layers, wanted.layers, wanted.init)
        copied = ", ".join(map(str, layers))
        origin = [("starts from", f"the embeddings, {head} and the layers {copied} of the teacher")]
        if narrower:
            student, kept = narrow_student(student, wanted.width, wanted.intermediate)
            origin.append(("narrower", kept.describe()))
        return student, origin
    if isinstance(wanted.init, list) or wanted.init in ("ends", "first", "last"):
        raise ConfigError(
            f"student.init={wanted.init!r} takes layers from a teacher and none is named: add --teacher MODEL."
        )
    base = teacher.config if teacher is not None else _config_of(corpus)
    depth = int(base.num_hidden_layers)
    cut = shallower_config(base, chosen_layers(depth, wanted.layers, "random"))
    if narrower:
        cut = narrow_config(cut, wanted.width, wanted.intermediate)
    return masked_lm_from_config(cut, seed), [("starts from", "random weights")]


def _config_of(corpus: Corpus) -> PretrainedConfig:
    if corpus.config_path is None:
        raise ConfigError(
            f"There is nothing that says what the student looks like: the tokenizer of {corpus.path} came without a "
            "model's config. Add --teacher MODEL, --student MODEL, or --student-config config.json."
        )
    return read_config(corpus.config_path)


def _fits(config: Any, corpus: Corpus, whose: str) -> None:
    limit = position_limit(config)
    if limit is not None and corpus.block > limit:
        raise ModelError(
            f"{whose} has positions for {limit} tokens, and the blocks of {corpus.path} have up to {corpus.block}: "
            f"prepare the corpus with --block {limit}."
        )


def _freeze_encoder(student: PreTrainedModel) -> None:
    student.requires_grad_(True)
    encoder: torch.nn.Module = student.base_model
    encoder.requires_grad_(False)  # and with it an output embedding that is tied to the input
