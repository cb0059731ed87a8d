from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets

from codir.errors import DataError
from codir.models.check import evaluation_mode
from codir.models.inference import Padding, TokenColumns, forward_dataset


def encoded(count: int = 23, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, 60, size=rng.integers(2, 20)).tolist() for _ in range(count)]
    return Dataset.from_dict(
        {"input_ids": ids, "example_id": [7 * n % count for n in range(count)], "labels": [0] * count}
    )


def test_equals_one_example_at_a_time(tiny_classifier):
    model = tiny_classifier()
    data = encoded()
    seen: dict[int, tuple] = {}
    for ids, outputs in forward_dataset(model, data, Padding(0), poolings=["mean", "cls"], batch_size=5):
        for number, example in enumerate(ids):
            assert int(example) not in seen
            seen[int(example)] = (
                outputs.logits[number],
                outputs.pooled["mean"][number],
                outputs.pooled["cls"][number],
            )
    assert sorted(seen) == list(range(23))
    for row in data:
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True)
        logits, mean, first = seen[row["example_id"]]
        torch.testing.assert_close(logits, alone.logits[0], atol=1e-5, rtol=1e-4)
        for layer in range(4):
            hidden = alone.hidden_states[layer + 1][0]
            torch.testing.assert_close(mean[layer], hidden.mean(0), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(first[layer], hidden[0], atol=1e-5, rtol=1e-4)


def test_longest_first_and_progress(tiny_classifier):
    data = encoded()
    lengths = {row["example_id"]: len(row["input_ids"]) for row in data}
    done: list[tuple[int, int]] = []
    order = [
        lengths[int(example)]
        for ids, _ in forward_dataset(
            tiny_classifier(), data, Padding(0), batch_size=10, progress=lambda *a: done.append(a)
        )
        for example in ids
    ]
    assert order == sorted(order, reverse=True)
    assert done == [(10, 23), (20, 23), (23, 23)]


def test_modes_are_restored_and_gradients_stay_on_outside(tiny_classifier):
    model = tiny_classifier(hidden_dropout_prob=0.5)
    model.train()
    model.bert.embeddings.eval()
    for _, outputs in forward_dataset(model, encoded(), Padding(0), batch_size=8):
        assert not any(module.training for module in model.modules())
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not outputs.logits.requires_grad
        break  # closes the generator early
    assert model.training
    assert model.bert.encoder.training
    assert not model.bert.embeddings.training
    with pytest.raises(RuntimeError, match="stop"), evaluation_mode(model):
        raise RuntimeError("stop")
    assert model.training


def test_autocast_is_the_models_alone(tiny_classifier):
    model = tiny_classifier()
    plain = torch.cat([outputs.logits for _, outputs in forward_dataset(model, encoded(), Padding(0))])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = torch.cat([outputs.logits for _, outputs in forward_dataset(model, encoded(), Padding(0))])
    half = torch.cat([o.logits for _, o in forward_dataset(model, encoded(), Padding(0), autocast=torch.bfloat16)])
    assert torch.equal(plain, inside)
    assert half.dtype == torch.float32
    assert not torch.equal(plain, half)
    torch.testing.assert_close(plain, half, atol=0.5, rtol=0.1)


def test_teacher_columns(tiny_classifier):
    model = tiny_classifier()
    data = encoded()
    both = data.rename_column("input_ids", "teacher_input_ids").add_column("input_ids", [[1]] * len(data))
    plain = [outputs.logits for _, outputs in forward_dataset(model, data, Padding(0))]
    prefixed = [outputs.logits for _, outputs in forward_dataset(model, both, Padding(0), prefix="teacher_")]
    assert torch.equal(torch.cat(plain), torch.cat(prefixed))


def test_columns_of_shuffled_selected_joined_and_formatted_data():
    data = encoded()
    for other in (
        data.shuffle(seed=3),
        data.select([4, 2, 9]),
        data.select(range(5, 11)),
        concatenate_datasets([data.select(range(4)), data.select(range(10, 15))]),
        data.with_format("torch"),
    ):
        columns = TokenColumns.read(other)
        rows = list(other.with_format(None))
        assert [columns.row(n)["input_ids"].tolist() for n in range(len(columns))] == [row["input_ids"] for row in rows]
        assert columns.ids.tolist() == [row["example_id"] for row in rows]


def test_missing_columns():
    with pytest.raises(DataError, match=r"'teacher_input_ids' but input_ids, example_id, labels"):
        TokenColumns.read(encoded(), "teacher_")
    data = Dataset.from_dict({"input_ids": [[1, 2]], "attention_mask": [[1]]})
    with pytest.raises(DataError, match="differ in length"):
        TokenColumns.read(data)
    assert TokenColumns.read(Dataset.from_dict({"input_ids": [[1], [2]]})).ids.tolist() == [0, 1]
