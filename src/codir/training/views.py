"""Whether the models, the data and the teacher's cache can give the vectors that objectives read."""

from __future__ import annotations

from torch import nn

from codir.errors import ConfigError
from codir.losses.base import Views
from codir.models.attention import require_attention
from codir.models.probe import require_layers, require_trainable
from codir.teacher.cache import TeacherOutputs


def check_views(
    views: Views, student: nn.Module, teacher: nn.Module | None, aligned: bool, pooled: bool = False
) -> None:
    """Checks the models before anything is computed.

    Args:
        views: of all objectives of a training.
        student: the student.
        teacher: the teacher's model; None where it is not at hand (its outputs are).
        aligned: whether teacher and student see the same tokens.
        pooled: whether objectives read the pooled outputs of blocks.

    Raises:
        ConfigError: the objectives read single tokens of a teacher that tokenises differently.
        ModelError: they read the attention of a model that does not show it, or the layers of one whose layers are
            not one encoder's; or the student cannot be trained.
    """
    if views.teacher and not aligned:
        raise ConfigError(
            "The objectives compare single tokens, and teacher and student tokenise differently: token number n is not "
            "the same on both sides. Choose a student of the teacher's tokenizer, or objectives over logits and pooled "
            "blocks (`codir recipes` lists what each needs)."
        )
    require_trainable(student, "The student")
    if pooled or views.student:
        require_layers(student, "The student")
    if teacher is not None and (pooled or views.teacher):
        require_layers(teacher, "The teacher")
    if any(view.kind != "hidden" for view in views.student):
        require_attention(student, "The student")
    if teacher is not None and any(view.kind != "hidden" for view in views.teacher):
        require_attention(teacher, "The teacher")


def require_tokens(outputs: TeacherOutputs, views: Views) -> TeacherOutputs:
    """Returns a cache that reads exactly the views of the teacher that a training needs.

    Raises:
        ConfigError: the cache was opened without some of them.
    """
    held = outputs.tokens.views if outputs.tokens is not None else frozenset()
    if missing := views.teacher - held:
        raise ConfigError(
            f"The objectives read vectors of the teacher's single tokens ({', '.join(map(str, sorted(missing)))}) that "
            "these TeacherOutputs do not hold: open them with codir.teacher.token_cache.open_token_cache and give "
            "outputs.with_tokens(tokens), or give the FrozenTeacher itself."
        )
    if outputs.tokens is None or held == views.teacher:
        return outputs
    return outputs.with_tokens(outputs.tokens.only(views.teacher) if views.teacher else None)
