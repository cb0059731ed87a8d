"""Makes the student that a configuration asks for, and says where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.config.student_config import StudentConfig, config_name
from codir.data.encoding import same_tokenizer
from codir.errors import ConfigError, ModelError
from codir.models.check import check_model
from codir.models.labels import class_names
from codir.models.layers import chosen_layers
from codir.models.loading import encoder_shape, load_tokenizer
from codir.models.narrowing import narrow_config, narrow_student
from codir.models.origins import load_origin, student_from_config, student_from_model
from codir.models.student import build_student, describe_frozen, freeze, fresh_model, shallower_config


@dataclass
class MadeStudent:
    """A student before training.

    Attributes:
        model: initialised; what is not to be trained has no gradient.
        tokenizer: its own.
        lines: where its weights come from, for the table printed before training.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    lines: list[tuple[str, str]] = field(default_factory=list)


def make_student(
    wanted: StudentConfig,
    teacher: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase,
    seed: int,
    pairs: bool = False,
) -> MadeStudent:
    """Builds the student out of its teacher, out of another model, or from a config, and freezes what is to stay.

    Args:
        wanted: the section `student`.
        teacher: fine-tuned; not changed.
        teacher_tokenizer: the student's, unless it comes with one of its own.
        seed: of whatever is new.
        pairs: the examples are pairs of texts.

    Raises:
        CodirError: settings that the models do not fit.
    """
    if wanted.model is not None:
        made = MadeStudent(
            student_from_model(wanted.model, teacher, seed=seed),
            load_tokenizer(wanted.model),
            [("starts from", wanted.model)],
        )
    elif wanted.config is not None:
        made = _from_config(wanted, teacher, teacher_tokenizer, seed, pairs)
    else:
        made = _cut_out(wanted, teacher, teacher_tokenizer, seed)
    check_model(made.model, made.tokenizer, wanted.model or "the student")
    if wanted.freeze:
        freeze(made.model, wanted.freeze)
        made.lines.append(("frozen", describe_frozen(made.model, wanted.freeze)))
    return made


def _from_config(
    wanted: StudentConfig,
    teacher: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase,
    seed: int,
    pairs: bool,
) -> MadeStudent:
    assert wanted.config is not None
    tokenizer = _beside(wanted.config) or teacher_tokenizer
    if wanted.embeddings == "teacher" and not same_tokenizer(tokenizer, teacher_tokenizer):
        raise ConfigError(
            f"student.embeddings is `teacher`, and beside {config_name(wanted.config)} lies another tokenizer than "
            "the teacher's, whose tokens these embeddings stand for: leave out one of the two."
        )
    student = student_from_config(
        wanted.config, teacher, seed=seed, tokenizer=tokenizer, embeddings=wanted.embeddings, pairs=pairs
    )
    if student.config.vocab_size < len(tokenizer):
        raise ConfigError(
            f"{config_name(wanted.config)} has a vocabulary of {student.config.vocab_size}, and the tokenizer "
            f"{len(tokenizer)} tokens. Put the student's own tokenizer beside the config, or set vocab_size to the "
            "tokenizer's."
        )
    copied = ", but for the teacher's word embeddings" if wanted.embeddings == "teacher" else ""
    return MadeStudent(student, tokenizer, [("starts from", f"random weights{copied}")])


def _cut_out(
    wanted: StudentConfig, teacher: PreTrainedModel, teacher_tokenizer: PreTrainedTokenizerBase, seed: int
) -> MadeStudent:
    depth = encoder_shape(teacher).layers
    source, tokenizer, whose = teacher, teacher_tokenizer, "the teacher"
    layers = wanted.layers
    if wanted.origin is not None:
        source = load_origin(wanted.origin, teacher, seed=seed)
        tokenizer = _tokenizer_of(wanted.origin, source, teacher_tokenizer)
        whose = wanted.origin
        if layers is None and isinstance(wanted.init, str):  # half of the teacher's, as without an origin
            layers = min(max(1, depth // 2), encoder_shape(source).layers)
    chosen = chosen_layers(encoder_shape(source).layers, layers, wanted.init, whose)
    if len(chosen) > depth:
        raise ModelError(
            f"A student of {len(chosen)} layers is deeper than its teacher, which has {depth}. Choose at most {depth}."
        )
    narrower = wanted.width is not None or wanted.intermediate is not None
    if wanted.init == "random":
        config = shallower_config(source.config, chosen)
        if narrower:
            config = narrow_config(config, wanted.width, wanted.intermediate)
        return MadeStudent(
            fresh_model(type(source), config, seed), tokenizer, [("starts from", "random weights")]
        )
    student = build_student(source, layers, wanted.init, seed=seed)
    head = _head(student, teacher)
    lines = [("layer 0", "the embeddings: copied, never matched (Eq. 3 starts at layer 1)")]
    lines += [
        (f"layer {number}", f"copied from {_of(whose)} layer {layer}")
        for number, layer in enumerate(chosen, start=1)
    ]
    if narrower:
        student, kept = narrow_student(student, wanted.width, wanted.intermediate)
        lines.append(("narrower", kept.describe()))
    if wanted.origin is not None:
        lines.insert(0, ("starts from", f"{wanted.origin} ({head})"))
    return MadeStudent(student, tokenizer, lines)


def _of(whose: str) -> str:
    return "the teacher's" if whose == "the teacher" else "its"


def _head(student: PreTrainedModel, teacher: PreTrainedModel) -> str:
    """Says whose classifier the student has."""
    inside, theirs = f"{student.base_model_prefix}.", teacher.state_dict()
    outside = {
        name: tensor.shape for name, tensor in student.state_dict().items() if not name.startswith(inside)
    }
    if all(name in theirs and theirs[name].shape == shape for name, shape in outside.items()):
        return "the classifier is the teacher's"
    return "the classifier is new: the teacher's has another width"


def _tokenizer_of(
    origin: str, model: PreTrainedModel, teacher_tokenizer: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase:
    """Returns the tokenizer beside the origin; without one the teacher's, if the origin has room for its tokens."""
    try:
        return load_tokenizer(origin)
    except ModelError:
        if int(model.config.vocab_size) == len(teacher_tokenizer):
            return teacher_tokenizer
        raise


def _beside(config: Path | Mapping[str, Any]) -> PreTrainedTokenizerBase | None:
    """Returns the tokenizer that lies in the folder of a config file, if there is one."""
    if isinstance(config, Mapping):
        return None
    folder = config if config.is_dir() else config.parent
    has_own = any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
    return load_tokenizer(folder) if has_own else None


def student_lines(teacher_name: str, made: MadeStudent, teacher: PreTrainedModel) -> list[tuple[str, str]]:
    """Describes teacher and student and where the student's weights come from, for the table printed before training.

    Args:
        teacher_name: as the user named it.
        made: the student.
        teacher: the model.
    """
    shape, of_teacher = encoder_shape(made.model), encoder_shape(teacher)
    names = class_names(made.model.config)
    return [
        ("teacher", f"{teacher_name} ({of_teacher.layers} layers, {of_teacher.width} wide)"),
        ("student", f"{shape.layers} layers, {shape.width} wide"),
        *made.lines,
        ("classes", ", ".join(names.values()) if len(names) > 1 else "none: one score"),
    ]
