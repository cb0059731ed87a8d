"""Samplers: who may be a negative, and how often each is drawn; the index of the teacher's space."""

from __future__ import annotations

import warnings
from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import normalize

from codir.contrast.negatives import (
    AnyOther,
    DifferentLabel,
    Hard,
    Negatives,
    NegativeSampler,
    neighbour_index,
)

LABELS = torch.tensor([5, 7, 5, 9, 9, 9, 7, 5, 9, 9, 9, 9])  # class ids need not be 0..C-1
ALL = torch.arange(12)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampler(name: str, sharing="shared", seed: int = 0, labels: torch.Tensor = LABELS) -> NegativeSampler:
    if name == "any":
        return AnyOther(len(labels), sharing, generator(seed))
    plain = DifferentLabel(labels, sharing, generator(seed))
    space = torch.randn(len(labels), 6, generator=generator())
    return plain if name == "different-label" else Hard(plain, neighbour_index(space))


def of(negatives: Negatives, anchor: int) -> list[int]:
    return negatives.ids[negatives.group[anchor]].tolist()


@pytest.mark.parametrize("sharing", ["shared", "independent"])
# 4 = all other rows of class 9's examples, 5 is too many for them
@pytest.mark.parametrize("k", [1, 2, 4, 5])
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
    drawing = sampler("any", sharing)
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


@pytest.mark.parametrize("name", ["different-label", "any"])
def test_admissible_agrees_with_the_definition(name: str) -> None:
    ids = torch.tensor([0, 3, 6])
    mask = sampler(name).admissible(ids)
    assert mask.shape == (3, 12)
    for b, anchor in enumerate(ids.tolist()):
        for i in range(12):
            assert mask[b, i] == (LABELS[i] != LABELS[anchor] if name == "different-label" else i != anchor)


@pytest.mark.parametrize("name", ["different-label", "any", "hard"])
def test_draws_come_from_the_generator_alone(name: str) -> None:
    drawing, other = sampler(name, seed=3), sampler(name, seed=8)
    drawing.draw(ALL[:3], 2)
    other.generator.set_state(drawing.generator.get_state())
    for _ in range(3):
        assert torch.equal(drawing.draw(ALL[:3], 2).ids, other.draw(ALL[:3], 2).ids)


@pytest.mark.parametrize("name", ["different-label", "any"])
@pytest.mark.parametrize("sharing", ["shared", "independent"])
def test_a_step_at_a_million_examples_handles_only_k_numbers(name: str, sharing) -> None:
    labels = torch.arange(1_000_000) % 3
    drawing = sampler(name, sharing, labels=labels)
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
    plain = AnyOther(60, sharing, generator()) if labels is None else DifferentLabel(labels, sharing, generator())
    hard = Hard(plain, neighbour_index(space.numpy()), factor=1000, max_similarity=0.8)
    ids = torch.tensor([0, 7, 9])
    negatives = hard.draw(ids, 4)  # so many candidates: every admissible row
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
    hard = Hard(AnyOther(5, "shared", generator()), neighbour_index(space), max_similarity=0.9)
    negatives = hard.draw(torch.tensor([0]), 4)
    assert negatives.mask is not None
    kept = negatives.ids[negatives.mask].tolist()
    assert sorted(kept) == [2, 3, 4]  # 1 is a near copy of 0
    assert negatives.mask.tolist() == [[True, True, True, False]]


def test_hard_leaves_out_close_scores() -> None:
    scores = torch.tensor([0.0, 0.1, 5.0, 0.05, 4.0, 2.0])
    hard = Hard(AnyOther(6, "shared", generator()), neighbour_index(torch.randn(6, 3)), 5, 1.0, scores)
    negatives = hard.draw(torch.tensor([0]), 5)
    assert negatives.mask is not None
    assert sorted(negatives.ids[negatives.mask].tolist()) == [2, 4, 5]


def exact(space: torch.Tensor) -> torch.Tensor:
    unit = normalize(space - space.mean(0), dim=1)
    return unit @ unit.T


def test_wide_spaces_are_projected_and_keep_their_cosines() -> None:
    base = torch.randn(40, 20) @ torch.randn(20, 3000) + 5
    index = neighbour_index(base, dim=256).float()
    assert index.shape == (40, 256)
    assert (index @ index.T - exact(base)).abs().mean() < 0.08
    assert torch.equal(index, neighbour_index(base, dim=256, chunk=7).float()) or torch.allclose(
        index, neighbour_index(base, dim=256, chunk=7).float(), atol=2e-3
    )
    assert not torch.allclose(index, neighbour_index(base, dim=256, seed=1).float(), atol=1e-2)


def test_reads_a_read_only_half_precision_map_in_chunks(tmp_path) -> None:
    space = torch.randn(100, 6).half()
    np.save(tmp_path / "space.npy", space.numpy())
    mapped = np.load(tmp_path / "space.npy", mmap_mode="r")
    index = neighbour_index(mapped, chunk=9).float()
    torch.testing.assert_close(index @ index.T, exact(space.float()), atol=3e-3, rtol=0)


def test_identical_rows_give_zeros_not_nan() -> None:
    assert not neighbour_index(torch.ones(4, 3)).any()
