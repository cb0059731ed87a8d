"""Two processes (gloo, DDP) against one with the same mini-batches: loss, weights and bank."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from codir.losses.base import ObjectiveContext, Step
from codir.losses.crd import CRD
from codir.losses.registry import build_objectives
from codir.models.representations import EncoderShape, Representations

SETTINGS: dict[str, dict[str, Any]] = {
    "bank": {"negatives": "in-batch-bank"},
    "bank-k": {"negatives": "in-batch-bank", "k": 3},
    "live": {"negatives": "in-batch"},
    "live-gradient": {"negatives": "in-batch", "negatives_gradient": True},
}
# Mini-batches of 8, the halves of which belong to the processes; some examples occur twice.
BATCHES = [[0, 1, 2, 3, 4, 5, 6, 7], [8, 3, 9, 10, 3, 11, 0, 12], [13, 13, 4, 1, 7, 15, 14, 9]]
CONTEXT = ObjectiveContext(
    student=EncoderShape(layers=2, width=3),
    teacher=EncoderShape(layers=4, width=5),
    examples=16,
    labels=None,
    kind="masked-lm",
    num_classes=10,
)


class Model(nn.Module):
    """A student of one linear map with the objective, as the Trainer has them in one module."""

    def __init__(self, settings: dict[str, Any]):
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Linear(7, 6)
        objective = build_objectives({"crd": {"dim": 4, **settings}}, CONTEXT)["crd"]
        assert isinstance(objective, CRD)
        self.crd = objective

    def forward(self, ids: Tensor, text: Tensor, teacher: Tensor, batch_ids: Tensor) -> Tensor:
        student = Representations(text, {"mean": self.student(text).view(-1, 2, 3)})
        step = Step(ids, None, student, Representations(text, {"mean": teacher}))
        return self.crd(replace(step, batch_ids=batch_ids)).loss


def train(rank: int, world: int, settings: dict[str, Any], parts: int = 1) -> dict[str, Any]:
    """Trains for two epochs; each process has its share of the mini-batch, in `parts` accumulated batches."""
    model = Model(settings)
    ddp = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for number, batch in enumerate(BATCHES * 2):
        generator = torch.Generator().manual_seed(number)
        data = (
            torch.tensor(batch),
            torch.randn(8, 7, generator=generator),
            torch.randn(8, 4, 5, generator=generator),
        )
        micro = list(zip(*(each.chunk(world)[rank].chunk(parts) for each in data), strict=True))
        total = 0.0
        for index, (ids, text, teacher) in enumerate(micro):
            last = index == len(micro) - 1
            with contextlib.nullcontext() if ddp is None or last else ddp.no_sync():
                loss = (ddp or model)(ids, text, teacher, data[0]) / parts
                loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        model.crd.after_step(True)
        losses.append(total)
    return {
        "losses": torch.tensor(losses),
        "weights": {key: value.detach() for key, value in model.named_parameters()},
        "state": model.crd.state_dict(),
    }


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {name: train(rank, 2, settings) for name, settings in SETTINGS.items()}
    results["accumulated"] = train(rank, 2, SETTINGS["bank"], parts=2)
    torch.save(results, f"{folder}/{rank}")
    distributed.barrier()
    os._exit(0)  # gloo's threads now and then abort an orderly end of the interpreter


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("two")
    start_processes(worker, (str(folder),), nprocs=2, start_method="fork")
    return [torch.load(folder / str(rank)) for rank in range(2)]


@pytest.mark.parametrize("name", [*SETTINGS, "accumulated"])
def test_as_one_process(of_two: list[dict[str, Any]], name: str) -> None:
    first, second = (results[name] for results in of_two)
    for part in ("weights", "state"):  # bit for bit on both
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())
    one = train(0, 1, SETTINGS.get(name, SETTINGS["bank"]))
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, one["losses"], rtol=1e-5, atol=1e-6)
    for part in ("weights", "state"):
        for key, value in one[part].items():
            torch.testing.assert_close(first[part][key], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(one["weights"]["student.weight"], Model({}).student.weight)


def test_the_gradient_through_negatives_matters(of_two: list[dict[str, Any]]) -> None:
    without, with_gradient = (of_two[0][name]["weights"]["student.weight"] for name in ("live", "live-gradient"))
    assert (without - with_gradient).abs().max() > 1e-2
