"""A few warm-up steps of a pre-training on this machine: how long they take, with random weights and tokens.

Real models, real objectives, real backward pass and optimiser; a matrix product takes as long with random numbers. No
corpus is read and nothing is sent over a network.
"""

from __future__ import annotations

import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from codir.gather import processes
from codir.losses.base import ObjectiveContext
from codir.losses.registry import build_objectives, needs_of, views_of
from codir.models.loading import encoder_shape
from codir.models.masked_lm import masked_lm_from_config
from codir.runs.costs import Setting
from codir.teacher.frozen import FrozenTeacher
from codir.training.model import DistillationModel

_MOST_ROWS = 100_000  # of a bank here: a step costs the same at every N
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Measured:
    """What the warm-up steps took in one process.

    Attributes:
        micro_batch_seconds: forward and backward of one micro-batch, teacher included; median.
        optimiser_seconds: clipping, optimiser, bank; median.
        micro_batches: how many were timed.
        activations: bytes that the student's blocks keep for their backward pass, weights not counted.
        peak_memory: most bytes allocated on the GPU; None on a CPU.
        device: where.
        threads: of PyTorch, on a CPU.
        alone: on a CPU, the same two times as they would be if nobody else used it: processor time / threads.
    """

    micro_batch_seconds: float
    optimiser_seconds: float
    micro_batches: int
    activations: int
    peak_memory: int | None
    device: str
    threads: int
    alone: tuple[float, float] | None = None

    def seconds_per_step(self, setting: Setting) -> float:
        """Accumulated micro-batches and one optimiser step; the network is not in it."""
        return setting.accumulation * self.micro_batch_seconds + self.optimiser_seconds

    def alone_per_step(self, setting: Setting) -> float | None:
        """The same from the times alone; None on a GPU."""
        return None if self.alone is None else setting.accumulation * self.alone[0] + self.alone[1]


def measure_step(
    setting: Setting,
    objectives: Mapping[str, Mapping[str, Any]],
    student_config: PretrainedConfig,
    teacher_config: PretrainedConfig | None,
    micro_batches: int = 4,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """Runs warm-up steps of a stage on this machine's GPU, or its CPU if there is none.

    Args:
        setting: the stage.
        objectives: its terms.
        student_config: of the student.
        teacher_config: of the teacher; None without one.
        micro_batches: how many to time, after two that are not.
        clock: seconds, replaced in tests.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = masked_lm_from_config(student_config)
    if setting.recompute:
        student.gradient_checkpointing_enable()
    if setting.head_only:
        student.base_model.requires_grad_(False)
    autocast = _AUTOCAST.get(setting.precision)
    teacher = None
    if teacher_config is not None:
        teacher = FrozenTeacher(masked_lm_from_config(teacher_config), autocast=autocast).to(device)
    rows = max(setting.batch, min(setting.blocks, _MOST_ROWS))
    context = ObjectiveContext(
        student=encoder_shape(student),
        teacher=teacher.shape if teacher else None,
        examples=rows,
        labels=None,
        kind="masked-lm",
        num_classes=setting.student.vocabulary,
        device=device,
        batch=setting.batch,
        micro_batch=setting.micro_batch * processes(),
    )
    needs, views = needs_of(objectives), views_of(objectives, context.student, context.teacher)
    built = build_objectives(objectives, context)
    model = DistillationModel(student, built, needs.pooled, views.student).to(device).train()
    optimiser = torch.optim.AdamW(
        [each for each in model.parameters() if each.requires_grad], lr=1e-6, fused=True
    )
    threads = torch.get_num_threads()
    batch_ids = torch.arange(setting.batch, device=device)
    generator = torch.Generator().manual_seed(0)

    def micro_batch(number: int) -> None:
        inputs, labels = _random_blocks(setting, generator)
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        labels = labels.to(device)
        start = number * setting.micro_batch % setting.batch
        taught = None
        if teacher is not None:
            taught = teacher.represent(
                inputs, needs.pooled, model.chosen_positions(inputs, labels, 0.0), views.teacher
            )
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            ids = batch_ids[start : start + setting.micro_batch]
            outputs = model(inputs, labels, ids, taught, batch_ids)
        outputs["loss"].backward()

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        for _, objective in model.objective_items():
            objective.after_step()

    def timed(action: Callable[[], None]) -> tuple[float, float]:
        _finish(device)
        start, processor = clock(), time.process_time()
        action()
        _finish(device)
        return clock() - start, (time.process_time() - processor) / threads

    with _counting_kept_bytes(student) as kept:
        micro_batch(0)
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    micro_times, step_times = [], []
    for number in range(1, micro_batches + 2):
        micro_times.append(timed(lambda number=number: micro_batch(number)))
        if number % 2 or number == micro_batches + 1:
            step_times.append(timed(step))
    (micro_seconds, alone), (step_seconds, step_alone) = (
        map(statistics.median, zip(*times, strict=True)) for times in (micro_times[1:], step_times)
    )
    return Measured(
        micro_batch_seconds=micro_seconds,
        optimiser_seconds=step_seconds,
        micro_batches=micro_batches,
        activations=kept.total,
        peak_memory=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        threads=threads,
        alone=(alone, step_alone) if device.type == "cpu" else None,
    )


class _KeptBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes of the tensors that autograd keeps for a backward pass, each storage once, no parameters."""

    def __init__(self, model: torch.nn.Module):
        self.total = 0
        self._seen = {each.untyped_storage().data_ptr() for each in model.parameters()}
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:  # what is kept is not freed, so that no address comes twice
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


@contextlib.contextmanager
def _counting_kept_bytes(student: PreTrainedModel) -> Iterator[_KeptBytes]:
    """Counts what the student's blocks keep, the head left out, in the one forward pass inside."""
    kept = _KeptBytes(student)
    body: torch.nn.Module = student.base_model
    hooks = [
        body.register_forward_pre_hook(lambda *_: kept.__enter__()),
        body.register_forward_hook(lambda *_: kept.__exit__()),
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _random_blocks(setting: Setting, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Full blocks [B, L] of random tokens, and labels at the share of positions that is masked."""
    shape = (setting.micro_batch, setting.block)
    ids = torch.randint(5, setting.student.vocabulary, shape, generator=generator)
    count = max(1, round(setting.masked * setting.block))
    chosen = torch.rand(shape, generator=generator).argsort(dim=1)[:, :count]
    labels = torch.full(shape, -100).scatter_(1, chosen, ids.gather(1, chosen))
    return {"input_ids": ids, "attention_mask": torch.ones(shape, dtype=torch.int64)}, labels


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
