"""Steps with vectors of single tokens, drawn at random, as the trainer would hand them over."""

from __future__ import annotations

import torch

from codir.losses.base import ObjectiveContext, Step
from codir.models.representations import EncoderShape, Representations, TokenKind, TokenView

MASK = torch.tensor([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], dtype=torch.bool)


def token_context(
    student: tuple[int, int, int | None] = (2, 8, 2),
    teacher: tuple[int, int, int | None] = (4, 8, 2),
    **changes,
) -> ObjectiveContext:
    """Shapes are (layers, width, heads)."""
    values = {
        "student": EncoderShape(*student),
        "teacher": EncoderShape(*teacher),
        "examples": 12,
        "labels": torch.arange(12) % 3,
        "kind": "classification",
        "num_classes": 3,
        "seed": 1,
    }
    return ObjectiveContext(**(values | changes))


def token_step(
    context: ObjectiveContext,
    mask: torch.Tensor = MASK,
    *,
    progress: float = 0.0,
    seed: int = 0,
    student_dtype: torch.dtype = torch.float32,
) -> Step:
    """Draws every view of both sides, and the pooled layers; the teacher's as the cache gives them."""
    generator = torch.Generator().manual_seed(seed)
    batch, length = mask.shape

    def side(shape: EncoderShape) -> Representations:
        kinds: tuple[TokenKind, ...] = ("hidden", "query", "key", "value")
        found = Representations(
            torch.randn(batch, 3, generator=generator),
            {"cls": torch.randn(batch, shape.layers, shape.width, generator=generator)},
            tokens={
                TokenView(kind, layer): torch.randn(batch, length, shape.width, generator=generator)
                for layer in range(shape.layers + 1)
                for kind in kinds
            },
            mask=mask,
        )
        found.pooled["mean"] = torch.randn(batch, shape.layers, shape.width, generator=generator)
        return found

    assert context.teacher is not None
    student, teacher = side(context.student), side(context.teacher)
    student.tokens = {view: vectors.to(student_dtype).requires_grad_() for view, vectors in student.tokens.items()}
    student.pooled = {how: vectors.requires_grad_() for how, vectors in student.pooled.items()}
    teacher.tokens = {view: vectors.half().float() for view, vectors in teacher.tokens.items()}
    teacher.pooled = {how: vectors.half() for how, vectors in teacher.pooled.items()}
    return Step(torch.arange(batch), torch.zeros(batch, dtype=torch.long), student, teacher, progress=progress)
