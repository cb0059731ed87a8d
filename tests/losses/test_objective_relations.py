"""Relations as an objective: kinds, heads, blocks; the relation itself in tests/functional/test_relations.py."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from token_world import MASK, token_context, token_step

from codir.errors import ConfigError
from codir.losses.base import Step
from codir.losses.registry import check_objectives, settings_for
from codir.losses.relations import Relations, RelationsSettings
from codir.models.representations import TokenKind, TokenView

MINILM = [["query", "key"], ["value", "value"]]


def settings(**values) -> RelationsSettings:
    return RelationsSettings.model_validate(values)


def naive(step: Step, kinds: tuple[TokenKind, TokenKind], blocks: tuple[int, int], heads: int) -> float:
    """MiniLM and MiniLMv2: 1 / (A |x|) sum_a sum_t KL(R_teacher || R_student); mean over the examples."""
    mask = step.student.mask
    assert mask is not None
    assert step.teacher is not None
    sides = []
    for tokens, block in ((step.teacher.tokens, blocks[1]), (step.student.tokens, blocks[0])):
        sides.append([tokens[TokenView(kind, block)].double().tolist() for kind in kinds])
    total = 0.0
    for b in range(len(mask)):
        real = [t for t in range(mask.shape[1]) if mask[b, t]]
        for a in range(heads):
            for t in real:
                rows = []
                for left, right in sides:
                    size = len(left[b][t]) // heads
                    span = range(a * size, (a + 1) * size)
                    powers = [
                        math.exp(sum(left[b][t][n] * right[b][u][n] for n in span) / math.sqrt(size))
                        for u in real
                    ]
                    rows.append([power / sum(powers) for power in powers])
                total += sum(p * math.log(p / q) for p, q in zip(*rows, strict=True)) / (
                    heads * len(real) * len(mask)
                )
    return total


def test_minilm_reads_attention_and_values_of_the_last_blocks() -> None:
    context = token_context()
    step = token_step(context)
    term = Relations(settings(pairs=MINILM), context)(step)
    expected = {
        "query_key": naive(step, ("query", "key"), (2, 4), 2),
        "value_value": naive(step, ("value", "value"), (2, 4), 2),
    }
    assert {name: value.item() for name, value in term.metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert term.loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)
    term.loss.backward()
    assert {str(view) for view, vectors in step.student.tokens.items() if vectors.grad is not None} == {
        "query.2", "key.2", "value.2",
    }  # fmt: skip


def test_minilmv2_with_other_widths_heads_and_a_chosen_block() -> None:
    context = token_context((2, 8, 2), (4, 12, 3))
    step = token_step(context)
    term = Relations(settings(relation_heads=4, matching=[[2, 3]]), context)(step)
    expected = {f"{kind}_{kind}": naive(step, (kind, kind), (2, 3), 4) for kind in ("query", "key", "value")}
    assert {name: value.item() for name, value in term.metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert term.loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)


def test_several_blocks_are_summed() -> None:
    context = token_context()
    step = token_step(context)
    term = Relations(settings(pairs=[["value", "value"]], matching="spread"), context)(step)
    expected = naive(step, ("value", "value"), (1, 2), 2) + naive(step, ("value", "value"), (2, 4), 2)
    assert term.loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mask", [MASK[:1], MASK[:, :1] | True, torch.ones(1, 1, dtype=torch.bool)])
def test_small_batches_and_one_block(mask: torch.Tensor) -> None:
    context = token_context((1, 4, 2), (1, 8, 2))
    step = token_step(context, mask)
    assert Relations(settings(pairs=MINILM), context)(step).loss.item() == pytest.approx(
        naive(step, ("query", "key"), (1, 1), 2) + naive(step, ("value", "value"), (1, 1), 2),
        rel=1e-5,
        abs=1e-7,
    )


def test_half_precision_inside_autocast() -> None:
    context = token_context()
    step = token_step(context, student_dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = Relations(settings(pairs=[["value", "value"]]), context)(step)
    assert term.loss.dtype == torch.float32
    assert term.loss.item() == pytest.approx(naive(step, ("value", "value"), (2, 4), 2), rel=1e-5)


def test_it_declares_what_it_reads() -> None:
    context = token_context()
    assert context.teacher is not None
    views = Relations.views(settings(pairs=[["value", "value"]]), context.student, context.teacher)
    assert ({str(view) for view in views.student}, {str(view) for view in views.teacher}) == (
        {"value.2"},
        {"value.4"},
    )
    assert "query-key, value-value in 2 heads" in Relations(settings(pairs=MINILM), context).describe()[0]


def test_refusals() -> None:
    for context, values, message in (
        (
            token_context(teacher=(4, 12, 3)),
            {},
            r"relations\.relation_heads to a number that divides both widths",
        ),
        (token_context(), {"relation_heads": 3}, "does not divide the student's width of 8"),
        (
            token_context(teacher=(4, 10, 2)),
            {"relation_heads": 4},
            "does not divide the teacher's width of 10",
        ),
        (token_context(student=(2, 8, None)), {"relation_heads": 2}, "the student has none"),
        (token_context(aligned=False), {}, "tokenise differently"),
        (replace(token_context(), teacher=None), {}, "needs a teacher"),
        (token_context(), {"matching": [[2, 5]]}, r"block 5 of the teacher"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_objectives({"relations": values}, context)
    for values, message in (
        ({"pairs": []}, "empty"),
        ({"pairs": [["value", "value"], ["value", "value"]]}, "named twice"),
        ({"pairs": [["value", "hidden"]]}, "value"),
        ({"relation_heads": 0}, "relation_heads"),
    ):
        with pytest.raises(ConfigError, match=message):
            settings_for("relations", values)
