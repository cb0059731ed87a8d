"""Which student: out of its teacher, out of another model, or from a config; for a task and for a pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from codir.config.pretraining import PretrainConfig
from codir.config.student_config import StudentConfig, config_name
from codir.data.corpus import Corpus
from codir.data.encoding import same_tokenizer
from codir.data.packing import tokenizer_digest
from codir.errors import ConfigError, ModelError
from codir.losses.registry import needs_of, predicts, taught_by
from codir.models.check import check_model
from codir.models.config_file import position_limit
from codir.models.layers import chosen_layers
from codir.models.loading import encoder_shape, load_tokenizer
from codir.models.masked_lm import load_encoder, load_masked_lm, masked_lm_from_config
from codir.models.narrowing import narrow_config, narrow_student
from codir.models.origins import load_origin, read_config, student_from_config, student_from_model
from codir.models.student import build_student, describe_frozen, freeze, fresh_model, shallower_config


class Student(NamedTuple):
    """A student before training; what is not to be trained has no gradient."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    lines: list[tuple[str, str]]  # where its weights come from, for the table printed before training


def make_student(
    wanted: StudentConfig,
    teacher: PreTrainedModel | PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    pairs: bool = False,
    masked: bool = False,
) -> Student:
    """Builds the student that a configuration asks for, and freezes what is to stay.

    Args:
        wanted: The section `student`.
        teacher: A classifier, or with `masked` a masked language model or just a config; not changed.
        tokenizer: The student's, unless it comes with one of its own; of a pre-training the corpus'.
        seed: Of whatever is new.
        pairs: The examples are pairs of texts.
        masked: The student is a masked language model.

    Raises:
        CodirError: settings that the models do not fit.
    """
    lines = [("starts from", wanted.model or "random weights")]
    if masked and wanted.model is not None:
        model = load_masked_lm(wanted.model, require_head=False, seed=seed)
    elif masked and wanted.config is not None:
        model = masked_lm_from_config(read_config(wanted.config, tokenizer), seed)
    elif isinstance(teacher, PretrainedConfig):
        layers = chosen_layers(int(teacher.num_hidden_layers), wanted.layers, "random")
        model = masked_lm_from_config(_cut_config(wanted, teacher, layers), seed)
    elif wanted.model is not None:
        model, tokenizer = student_from_model(wanted.model, teacher, seed=seed), load_tokenizer(wanted.model)
    elif wanted.config is not None:
        teachers, tokenizer = tokenizer, _tokenizer_beside(wanted.config) or tokenizer
        if wanted.embeddings == "teacher":
            if not same_tokenizer(tokenizer, teachers):
                raise ConfigError(
                    f"student.embeddings is `teacher`, and beside {config_name(wanted.config)} lies another tokenizer "
                    "than the teacher's, whose tokens these embeddings stand for: leave out one of the two."
                )
            lines = [("starts from", "random weights, but for the teacher's word embeddings")]
        model = student_from_config(
            wanted.config, teacher, seed=seed, tokenizer=tokenizer, embeddings=wanted.embeddings, pairs=pairs
        )
    else:
        model, tokenizer, lines = _cut_out(wanted, teacher, tokenizer, seed, masked)
    if wanted.config is not None and model.config.vocab_size < len(tokenizer):
        raise ConfigError(
            f"{config_name(wanted.config)} has a vocabulary of {model.config.vocab_size}, and the tokenizer "
            f"{len(tokenizer)} tokens. Put the student's own tokenizer beside the config, or set vocab_size to the "
            "tokenizer's."
        )
    check_model(model, tokenizer, wanted.model or "the student")
    if wanted.freeze:
        freeze(model, wanted.freeze)
        lines.append(("frozen", describe_frozen(model, wanted.freeze)))
    shape = encoder_shape(model)
    return Student(model, tokenizer, [("student", f"{shape.layers} layers, {shape.width} wide"), *lines])


def _cut_config(wanted: StudentConfig, config: PretrainedConfig, layers: list[int]) -> PretrainedConfig:
    cut = shallower_config(config, layers)
    narrower = wanted.width is not None or wanted.intermediate is not None
    return narrow_config(cut, wanted.width, wanted.intermediate) if narrower else cut


def _cut_out(
    wanted: StudentConfig,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    masked: bool,
) -> Student:
    """Takes layers of the teacher, or of the model that is named as the origin, all of it or a narrower one."""
    depth, count = encoder_shape(teacher).layers, wanted.layers
    source, whose = teacher, "the teacher"
    if wanted.origin is not None:
        source, whose = load_origin(wanted.origin, teacher, seed=seed), wanted.origin
        try:
            tokenizer = load_tokenizer(wanted.origin)
        except ModelError:  # none beside it: then the teacher's, if there is room for its tokens
            if int(source.config.vocab_size) != len(tokenizer):
                raise
        if count is None and isinstance(wanted.init, str):  # half of the teacher's, as without an origin
            count = min(max(1, depth // 2), encoder_shape(source).layers)
    layers = chosen_layers(encoder_shape(source).layers, count, wanted.init, whose)
    if len(layers) > depth:
        raise ModelError(
            f"A student of {len(layers)} layers is deeper than its teacher, which has {depth}. Choose at most {depth}."
        )
    if wanted.init == "random":
        config = _cut_config(wanted, source.config, layers)
        fresh = masked_lm_from_config(config, seed) if masked else fresh_model(type(source), config, seed)
        return Student(fresh, tokenizer, [("starts from", "random weights")])
    student = build_student(source, count, wanted.init, seed=seed)
    # embeddings are copied and never matched: Eq. 3 begins with layer 1
    numbers = ", ".join(map(str, layers))
    lines = [("starts from", f"embeddings and layer{'s' * (len(layers) > 1)} {numbers} of {whose}")]
    if wanted.origin is not None:
        inside, theirs = f"{student.base_model_prefix}.", teacher.state_dict()
        heads = {name: each for name, each in student.state_dict().items() if not name.startswith(inside)}
        kept = all(name in theirs and theirs[name].shape == each.shape for name, each in heads.items())
        lines.append(("classifier", "the teacher's" if kept else "new: the teacher's has another width"))
    if wanted.width is not None or wanted.intermediate is not None:
        student, cut = narrow_student(student, wanted.width, wanted.intermediate)
        lines.append(("narrower", cut.describe()))
    return Student(student, tokenizer, lines)


def _tokenizer_beside(config: object) -> PreTrainedTokenizerBase | None:
    """Returns the tokenizer that lies in the folder of a config file, if there is one."""
    if not isinstance(config, Path):
        return None
    folder = config if config.is_dir() else config.parent
    has_own = any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
    return load_tokenizer(folder) if has_own else None


class PretrainingModels(NamedTuple):
    """The two models of a pre-training."""

    teacher: PreTrainedModel | None  # masked language model; None where no objective needs one
    teacher_predicts: bool  # whether it came with a head that predicts tokens
    student: Student


def pretraining_models(config: PretrainConfig, corpus: Corpus) -> PretrainingModels:
    """Loads teacher and student of a pre-training and checks them against each other and the corpus.

    Raises:
        ConfigError: an objective needs a teacher and none is named; teacher and student have different vocabularies.
        DataError: the corpus was prepared with another tokenizer.
        ModelError: a model cannot be used.
    """
    taught, wanted, seed = taught_by(config.objectives), config.student, config.training.seed
    if taught and config.teacher is None:
        raise ConfigError(
            f"The recipe {config.recipe!r} distils a teacher ({', '.join(taught)}) and none is named: add "
            "--teacher MODEL, or use --recipe mlm-pre, which needs none."
        )
    named = {"teacher": config.teacher, "student": wanted.model}
    own = {role: load_tokenizer(model) for role, model in named.items() if model is not None}
    if len(own) == 2 and len({tokenizer_digest(each) for each in own.values()}) == 2:
        raise ConfigError(
            f"The teacher {config.teacher} (vocabulary of {len(own['teacher']):,}) and the student {wanted.model} "
            f"({len(own['student']):,}) have different tokenizers, so KD over tokens is impossible: use --recipe "
            "mlm-pre for the student alone (with a corpus of its own tokenizer), or a student of the teacher's family."
        )
    for role, tokenizer in own.items():
        corpus.check_tokenizer(tokenizer, f"the {role} {named[role]}")
    teacher, absent = None, []
    if config.teacher is not None:
        if needs_of(config.objectives).teacher_logits:
            teacher = load_masked_lm(config.teacher)
        else:
            teacher, absent = load_encoder(config.teacher, seed=seed)
        _require_positions(teacher.config, corpus, f"The teacher {config.teacher}")
        check_model(teacher, corpus.tokenizer, config.teacher)
    start = teacher or _family_of(corpus, wanted)
    student = make_student(wanted, start, corpus.tokenizer, seed, masked=True)
    _require_positions(student.model.config, corpus, "The student")
    if config.trained == "head":
        student.model.requires_grad_(True)
        # and with the encoder an output embedding that is tied to the input
        student.model.base_model.requires_grad_(False)
        student.lines.append(("trained", "the head that predicts tokens; the encoder stays as it is"))
    if not predicts(config.objectives):
        student.lines.append(("not trained", "the head that predicts tokens: no term of the recipe reads it"))
    if teacher is not None and taught:
        shape = encoder_shape(teacher)
        named_shape = f"{config.teacher} ({shape.layers} layers, {shape.width} wide)"
        student.lines.insert(0, ("teacher", named_shape))
    return PretrainingModels(teacher if taught else None, not absent, student)


def _family_of(corpus: Corpus, wanted: StudentConfig) -> PretrainedConfig:
    """Returns the config that a student without a teacher is cut out of: that of the corpus' tokenizer's model."""
    if isinstance(wanted.init, list) or wanted.init in ("ends", "first", "last"):
        raise ConfigError(
            f"student.init={wanted.init!r} takes layers from a teacher and none is named: add --teacher MODEL."
        )
    if corpus.config_path is not None:
        return read_config(corpus.config_path)
    if wanted.model is not None or wanted.config is not None:
        return PretrainedConfig()  # not looked at
    raise ConfigError(
        f"There is nothing that says what the student looks like: the tokenizer of {corpus.path} came without a "
        "model's config. Add --teacher MODEL, --student MODEL, or --student-config config.json."
    )


def _require_positions(config: PretrainedConfig, corpus: Corpus, whose: str) -> None:
    limit = position_limit(config)
    if limit is not None and corpus.block > limit:
        raise ModelError(
            f"{whose} has positions for {limit} tokens, and the blocks of {corpus.path} have up to {corpus.block}: "
            f"prepare the corpus with --block {limit}."
        )
