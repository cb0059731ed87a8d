"""Attention KL as an objective: blocks, heads, stages; the attention itself in tests/functional/test_relations.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from token_world import MASK, token_context, token_step
from transformers import BertConfig, BertForSequenceClassification

from codir.errors import ConfigError
from codir.losses.attention_kl import AttentionKL, AttentionKLSettings
from codir.losses.base import Step
from codir.losses.registry import check_objectives
from codir.models.representations import TokenView, represent


def settings(**values) -> AttentionKLSettings:
    return AttentionKLSettings.model_validate(values)


def naive(step: Step, own: int, other: int, heads: int) -> float:
    """MobileBERT: 1 / (T A) sum_t sum_a KL(a_teacher || a_student), for each example; mean over the examples."""

    def attention(tokens, block: int, b: int, t: int, real: list[int], head: int) -> list[float]:
        query, key = tokens[TokenView("query", block)].double(), tokens[TokenView("key", block)].double()
        size = query.shape[2] // heads
        span = range(head * size, (head + 1) * size)
        scores = [
            sum(query[b, t, n].item() * key[b, u, n].item() for n in span) / math.sqrt(size) for u in real
        ]
        powers = [math.exp(score) for score in scores]
        return [power / sum(powers) for power in powers]

    mask = step.student.mask
    assert mask is not None
    assert step.teacher is not None
    total = 0.0
    for b in range(len(mask)):
        real = [t for t in range(mask.shape[1]) if mask[b, t]]
        for head in range(heads):
            for t in real:
                p = attention(step.teacher.tokens, other, b, t, real, head)
                q = attention(step.student.tokens, own, b, t, real, head)
                total += sum(a * math.log(a / c) for a, c in zip(p, q, strict=True)) / (
                    heads * len(real) * len(mask)
                )
    return total


def test_against_plain_loops() -> None:
    context = token_context()
    step = token_step(context)
    term = AttentionKL(settings(), context)(step)
    expected = {"block_1": naive(step, 1, 2, 2), "block_2": naive(step, 2, 4, 2)}
    assert {name: value.item() for name, value in term.metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert term.loss.item() == pytest.approx(sum(expected.values()), rel=1e-5)
    term.loss.backward()
    for view, vectors in step.student.tokens.items():
        assert (vectors.grad is not None) == (view.kind in ("query", "key")), view
    chosen = AttentionKL(settings(matching=[[2, 3]]), context)(step)
    assert chosen.loss.item() == pytest.approx(naive(step, 2, 3, 2), rel=1e-5)


@pytest.mark.parametrize("mask", [MASK[:1], MASK[:, :1] | True, torch.ones(1, 1, dtype=torch.bool)])
def test_small_batches(mask: torch.Tensor) -> None:
    context = token_context()
    step = token_step(context, mask)
    assert AttentionKL(settings(), context)(step).loss.item() == pytest.approx(
        naive(step, 1, 2, 2) + naive(step, 2, 4, 2), rel=1e-5, abs=1e-7
    )


def test_one_block_of_another_width() -> None:
    context = token_context((1, 4, 2), (1, 12, 2))
    step = token_step(context)
    assert AttentionKL(settings(), context)(step).loss.item() == pytest.approx(naive(step, 1, 1, 2), rel=1e-5)


def test_mean_over_the_blocks() -> None:
    context = token_context()
    step = token_step(context)
    expected = (naive(step, 1, 2, 2) + naive(step, 2, 4, 2)) / 2
    assert AttentionKL(settings(averaged=True), context)(step).loss.item() == pytest.approx(
        expected, rel=1e-5
    )


def test_stages() -> None:
    context = token_context()
    transfer = AttentionKL(settings(progressive="transfer", end=0.5), context)
    assert set(transfer(token_step(context)).metrics) == {"block_1"}
    assert set(transfer(token_step(context, progress=0.25)).metrics) == {"block_2"}
    assert [transfer.frozen_blocks(progress) for progress in (0.0, 0.25, 0.5)] == [{0}, {0, 1}, set()]
    unlock = AttentionKL(settings(progressive="unlock", end=0.5), context)
    assert set(unlock(token_step(context, progress=0.25)).metrics) == {"block_1", "block_2"}
    assert unlock.frozen_blocks(0.25) == set()
    assert (
        "blocks 1, 2 learn from the teacher's 2, 4; one block after another, and they stay"
        in unlock.describe()[0]
    )


def test_it_declares_what_it_reads() -> None:
    context = token_context()
    assert context.teacher is not None
    views = AttentionKL.views(settings(), context.student, context.teacher)
    assert {str(view) for view in views.student} == {"query.1", "key.1", "query.2", "key.2"}
    assert {str(view) for view in views.teacher} == {"query.2", "key.2", "query.4", "key.4"}
    assert AttentionKL.needs(settings()).pooled == frozenset()


def test_half_precision_inside_autocast() -> None:
    context = token_context()
    step = token_step(context, student_dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        term = AttentionKL(settings(), context)(step)
    assert term.loss.dtype == torch.float32
    assert term.loss.item() == pytest.approx(naive(step, 1, 2, 2) + naive(step, 2, 4, 2), rel=1e-5)


def test_refusals() -> None:
    for context, message in (
        (token_context(teacher=(4, 8, 4)), "'relations' with relation_heads"),
        (token_context(student=(2, 8, None)), "the student has none"),
        (token_context(aligned=False), "tokenise differently"),
        (token_context(student=(5, 8, 2)), "5 blocks"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_objectives({"attention_kl": {}}, context)
    with pytest.raises(ConfigError, match="needs a teacher"):
        check_objectives({"attention_kl": {}}, replace(token_context(), teacher=None))
    with pytest.raises(ConfigError, match=r"block 3.*student"):
        check_objectives({"attention_kl": {"matching": [[3, 4]]}}, token_context())


def test_it_is_the_attention_that_the_model_computes() -> None:
    """Of models that give out their attention: the divergence of the matrices themselves."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 30,
    }
    models = []
    for depth in (1, 2):
        config = BertConfig(**sizes, num_hidden_layers=depth, initializer_range=0.5)
        config._attn_implementation = "eager"
        models.append(BertForSequenceClassification(config).eval())
    inputs = {"input_ids": torch.randint(1, 30, (3, 5)), "attention_mask": MASK.long()}
    context = token_context((1, 16, 2), (2, 16, 2))
    assert context.teacher is not None
    views = AttentionKL.views(settings(), context.student, context.teacher)
    with torch.no_grad():
        seen = [
            represent(model, inputs, tokens=each)
            for model, each in zip(models, (views.student, views.teacher), strict=True)
        ]
        given = [model(**inputs, output_attentions=True).attentions for model in models]
    term = AttentionKL(settings(), context)(Step(torch.arange(3), None, seen[0], seen[1]))
    q, p = given[0][0], given[1][1]  # [B, H, L, L]
    each = torch.where(p > 0, p * (p.clamp_min(1e-30) / q.clamp_min(1e-30)).log(), 0.0).sum(-1).mean(1)
    expected = torch.stack([each[b][MASK[b]].mean() for b in range(3)]).mean()
    assert expected > 0.01
    assert term.loss.item() == pytest.approx(expected.item(), rel=1e-4)
