"""The index of the teacher's space: cosines survive, the data is read in chunks."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import normalize

from codir.contrast.neighbours import neighbour_index


def exact(space: torch.Tensor) -> torch.Tensor:
    unit = normalize(space - space.mean(0), dim=1)
    return unit @ unit.T


def test_narrow_spaces_are_only_centred_and_normalised() -> None:
    space = torch.randn(50, 7) + 30
    index = neighbour_index(space, dim=8, chunk=13).float()
    assert index.shape == (50, 7)
    torch.testing.assert_close(index @ index.T, exact(space), atol=3e-3, rtol=0)


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
