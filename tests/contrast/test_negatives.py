"""Samplers: who may be a negative, and how often each is drawn."""

from __future__ import annotations

import warnings
from collections import Counter
from unittest.mock import patch

import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import normalize

from codir.contrast.negatives import SAMPLERS, Negatives, SamplerContext, build_sampler
from codir.errors import ConfigError, DataError

LABELS = torch.tensor([5, 7, 5, 9, 9, 9, 7, 5, 9, 9, 9, 9])  # class ids need not be 0..C-1
ALL = torch.arange(12)


def sampler(name: str, **settings):
    return build_sampler(name, SamplerContext(examples=len(LABELS), labels=LABELS, **settings))


def of(negatives: Negatives, anchor: int) -> list[int]:
    return negatives.ids[negatives.group[anchor]].tolist()


@pytest.mark.parametrize("sharing", ["shared", "independent"])
@pytest.mark.parametrize(
    "k", [1, 2, 4, 5]
)  # 4 = all other rows of class 9's examples, 5 is too many for them
def test_different_label(sharing, k: int) -> None:
    drawing = sampler("different-label", sharing=sharing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        negatives = drawing.draw(ALL, k)
    assert negatives.ids.shape == (3 if sharing == "shared" else 12, k)
    assert negatives.mask is None
    for b in range(12):
        row = of(negatives, b)
        assert all(LABELS[i] != LABELS[b] for i in row)
        if len([i for i in LABELS if i != LABELS[b]]) >= k:
            assert len(set(row)) == k


@pytest.mark.parametrize("sharing", ["shared", "independent"])
@pytest.mark.parametrize("name", ["different-label", "any"])
@pytest.mark.parametrize("k", [1, 3])
def test_uniform_over_the_admissible_rows(name: str, sharing, k: int) -> None:
    drawing = sampler(name, sharing=sharing)
    ids, counts = torch.tensor([3, 1, 0]), [Counter() for _ in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2000):
            negatives = drawing.draw(ids, k)
            for b in range(3):
                counts[b].update(of(negatives, b))
    for b, anchor in enumerate(ids.tolist()):
        if name == "different-label":
            expected = {i for i in range(12) if LABELS[i] != LABELS[anchor]}
        elif sharing == "shared":
            expected = set(range(12)) - set(ids.tolist())
        else:
            expected = set(range(12)) - {anchor}
        assert set(counts[b]) == expected
        assert chisquare(list(counts[b].values())).pvalue > 1e-3


@pytest.mark.parametrize("sharing", ["shared", "independent"])
@pytest.mark.parametrize("k", [1, 6, 9, 11])
def test_any_never_holds_the_example(sharing, k: int) -> None:
    drawing = build_sampler("any", SamplerContext(examples=12, sharing=sharing))  # no labels
    ids = torch.tensor([11, 0, 4, 4])  # the last batch of an epoch may hold an example twice
    negatives = drawing.draw(ids, k)
    pool = sharing == "shared" and k <= 9
    assert negatives.ids.shape[0] == (1 if pool else 4)
    for b, anchor in enumerate(ids.tolist()):
        row = of(negatives, b)
        assert len(set(row)) == k
        assert anchor not in row
        if pool:
            assert not set(row) & {0, 4, 11}


def test_replacement_warns_once() -> None:
    drawing = sampler("different-label")
    with pytest.warns(UserWarning, match=r"Only 5 rows .* K=8: .* with replacement"):
        drawing.draw(ALL, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawing.draw(ALL, 8)


def test_one_class_no_labels_scores_and_unknown_name() -> None:
    with pytest.raises(DataError, match=r"All 4 examples have the label \[1\].*'any'"):
        build_sampler("different-label", SamplerContext(4, torch.ones(4, dtype=torch.long)))
    with pytest.raises(DataError, match="has none: use the sampler 'any'"):
        build_sampler("different-label", SamplerContext(4))
    with pytest.raises(ConfigError, match="scores: use 'any'"):
        build_sampler("different-label", SamplerContext(4, torch.rand(4), scores=True))
    with pytest.raises(ConfigError, match="did you mean 'different-label'"):
        build_sampler("diferent-label", SamplerContext(4))
    with pytest.raises(DataError, match="1 example"):
        build_sampler("any", SamplerContext(1))
    assert build_sampler("any", SamplerContext(4, torch.ones(4))).draw(
        torch.tensor([2]), 3
    ).ids.sort().values.tolist() == [[0, 1, 3]]


@pytest.mark.parametrize("name", ["different-label", "any"])
def test_admissible_agrees_with_the_definition(name: str) -> None:
    ids = torch.tensor([0, 3, 6])
    allowed = sampler(name).admissible(ids)
    mask = torch.cat([allowed(0, 5), allowed(5, 12)], dim=1)
    for b, anchor in enumerate(ids.tolist()):
        for i in range(12):
            assert mask[b, i] == (LABELS[i] != LABELS[anchor] if name == "different-label" else i != anchor)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_state_round_trip(name: str) -> None:
    space = torch.randn(12, 6).numpy()
    settings = {"teacher_space": lambda: space, "seed": 3}
    drawing, other = sampler(name, **settings), sampler(name, **{**settings, "seed": 8})
    drawing.draw(ALL[:3], 2)
    other.load_state(drawing.state())
    for _ in range(3):
        assert torch.equal(drawing.draw(ALL[:3], 2).ids, other.draw(ALL[:3], 2).ids)


@pytest.mark.parametrize("name", ["different-label", "any"])
@pytest.mark.parametrize("sharing", ["shared", "independent"])
def test_a_step_at_a_million_examples_handles_only_k_numbers(name: str, sharing) -> None:
    labels = torch.arange(1_000_000) % 3
    drawing = build_sampler(name, SamplerContext(1_000_000, labels, sharing=sharing))
    sizes: list[int] = []
    original = torch.randint

    def recorded(high, size, **rest):
        sizes.append(size[0] * size[1])
        return original(high, size, **rest)

    with (
        patch.object(torch, "randperm", side_effect=AssertionError("a permutation of N")),
        patch.object(torch, "randint", recorded),
    ):
        drawing.draw(torch.arange(32), 100)
    assert sum(sizes) < 32 * 2 * 100


def brute_force_hard(space, labels, anchor: int, k: int, limit: float) -> list[int]:
    centred = normalize(space - space.mean(0), dim=1)
    order = sorted(range(len(space)), key=lambda i: -float(centred[anchor] @ centred[i]))
    return [
        i
        for i in order
        if i != anchor
        and (labels is None or labels[i] != labels[anchor])
        and float(centred[anchor] @ centred[i]) <= limit
    ][:k]


@pytest.mark.parametrize("sharing", ["shared", "independent"])
@pytest.mark.parametrize("labelled", [True, False])
def test_hard_takes_the_nearest_of_the_candidates(sharing, labelled: bool) -> None:
    torch.manual_seed(0)
    labels = torch.arange(60) % 2 if labelled else None
    space = torch.randn(60, 5)
    context = SamplerContext(
        60, labels, sharing=sharing, candidates=1000, max_similarity=0.8, teacher_space=lambda: space.numpy()
    )
    ids = torch.tensor([0, 7, 9])
    negatives = build_sampler("hard", context).draw(ids, 4)  # so many candidates: every admissible row
    assert negatives.mask is not None
    assert negatives.mask.all()
    missed = 0
    for b, anchor in enumerate(ids.tolist()):
        expected = brute_force_hard(space, labels, anchor, 4, 0.8)
        # A shared pool without labels leaves out the batch's own examples.
        missed += len(set(expected) - set(of(negatives, b)))
        assert anchor not in of(negatives, b)
    assert missed <= (1 if sharing == "shared" and not labelled else 0)


def test_hard_leaves_out_probable_false_negatives_and_masks_the_rest() -> None:
    space = torch.tensor([[1.0, 0.0], [0.99, 0.01], [-1.0, 0.2], [0.0, -1.0], [-0.99, 0.79]])
    context = SamplerContext(5, None, candidates=4, max_similarity=0.9, teacher_space=lambda: space)
    negatives = build_sampler("hard", context).draw(torch.tensor([0]), 4)
    assert negatives.mask is not None
    kept = negatives.ids[negatives.mask].tolist()
    assert sorted(kept) == [2, 3, 4]  # 1 is a near copy of 0
    assert negatives.mask.tolist() == [[True, True, True, False]]


def test_hard_leaves_out_close_scores() -> None:
    scores = torch.tensor([0.0, 0.1, 5.0, 0.05, 4.0, 2.0])
    context = SamplerContext(
        6, scores, scores=True, candidates=5, max_similarity=1.0, teacher_space=lambda: torch.randn(6, 3)
    )
    negatives = build_sampler("hard", context).draw(torch.tensor([0]), 5)
    assert negatives.mask is not None
    assert sorted(negatives.ids[negatives.mask].tolist()) == [2, 4, 5]


def test_hard_needs_the_teachers_space_and_a_number() -> None:
    with pytest.raises(ConfigError, match="teacher's cache"):
        sampler("hard")
    with pytest.raises(ConfigError, match="K='all'"):
        sampler("hard", teacher_space=lambda: torch.randn(12, 3)).admissible(ALL)
