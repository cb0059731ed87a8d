"""Eq. 5 against plain loops; start, duplicates, and where it lies."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from codir.contrast.bank import Bank


def naive_update(rows: list[list[float]], ids: list[int], embeddings: list[list[float]], beta: float) -> None:
    last = dict(zip(ids, embeddings, strict=True))  # the last embedding of an id counts
    for key, h in last.items():
        mixed = [beta * old + (1 - beta) * new for old, new in zip(rows[key], h, strict=True)]
        length = math.sqrt(sum(value * value for value in mixed))
        rows[key] = [value / length for value in mixed]


@pytest.mark.parametrize("ids", [[3], [0, 9, 4], [2, 2, 5, 2]])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_update_against_plain_loops(ids: list[int], beta: float) -> None:
    bank = Bank(10, 4, beta, seed=1, dtype=torch.float64)
    expected = bank.data.tolist()
    for _ in range(3):
        h = normalize(torch.randn(len(ids), 4, dtype=torch.float64), dim=1)
        naive_update(expected, ids, h.tolist(), beta)
        bank.update(torch.tensor(ids), h)
    torch.testing.assert_close(bank.data, torch.tensor(expected, dtype=torch.float64))


def test_start_is_unit_random_and_seeded() -> None:
    bank = Bank(2000, 16, seed=4)
    torch.testing.assert_close(bank.data.norm(dim=1), torch.ones(2000))
    assert bank.data.mean(dim=0).abs().max() < 0.05  # no direction is preferred
    assert torch.equal(bank.data, Bank(2000, 16, seed=4).data)
    assert not torch.equal(bank.data, Bank(2000, 16, seed=5).data)
    official = Bank(2000, 16, seed=4, start="uniform").data
    assert official.abs().max() <= 1 / math.sqrt(16 / 3)
    assert official.abs().max() > 0.99 / math.sqrt(16 / 3)


def test_opposite_embedding_replaces_the_row() -> None:
    bank = Bank(2, 3, momentum=0.5)
    opposite = -bank.data[:1].clone()
    bank.update(torch.tensor([0]), opposite)
    torch.testing.assert_close(bank.data[:1], opposite)


def test_rows_are_copies_of_any_shape_in_fp32() -> None:
    bank = Bank(6, 3, dtype=torch.bfloat16)
    rows = bank.rows(torch.tensor([[1, 2], [5, 1]]))
    assert rows.shape == (2, 2, 3)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows[1, 0], bank.data[5].float())
    kept = rows.clone()
    bank.update(torch.tensor([1]), torch.eye(3)[:1])
    assert torch.equal(rows, kept)
    assert bank.nbytes == 6 * 3 * 2


def test_it_is_a_buffer_that_pytorch_saves_and_loads_in_place() -> None:
    bank, other = Bank(5, 3, seed=1), Bank(5, 3, seed=2)
    address = other.data.data_ptr()
    assert list(bank.state_dict()) == ["data"]
    assert not list(bank.parameters())
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.data, bank.data)
    assert other.data.data_ptr() == address
    with pytest.raises(RuntimeError, match="size mismatch"):
        Bank(6, 3).load_state_dict(bank.state_dict())


def test_it_moves_with_the_module_unless_it_is_to_stay() -> None:
    for stays in (False, True):
        module = torch.nn.Sequential(Bank(5, 3, stays=stays))
        moved = module.to("meta")[0]
        assert isinstance(moved, Bank)
        assert moved.data.device.type == ("cpu" if stays else "meta")
        assert list(module.state_dict()) == ["0.data"]
