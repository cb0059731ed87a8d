"""The time of a training step of a masked language model on this machine: real models, random weights and tokens."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig

from codir.gather import processes
from codir.kinds import MASKED_LM, kind_named
from codir.losses.base import ObjectiveContext
from codir.losses.registry import build_objectives, needs_of, views_of
from codir.models.loading import encoder_shape
from codir.models.masked_lm import masked_lm_from_config
from codir.teacher.frozen import FrozenTeacher
from codir.training.model import DistillationModel

_MOST_ROWS = 100_000  # of a bank here: a step costs the same at every N
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepTime:
    """What a few steps took in one process.

    Attributes:
        micro_batch: seconds of the forward and backward pass of one micro-batch, teacher included; the median.
        optimiser: seconds of clipping, optimiser and bank; the median.
        peak_memory: the most bytes allocated on the GPU; None on a CPU.
        device: where it was measured, in words.
    """

    micro_batch: float
    optimiser: float
    peak_memory: int | None
    device: str


def measure_step(
    objectives: Mapping[str, Mapping[str, Any]],
    student_config: PretrainedConfig,
    teacher_config: PretrainedConfig | None,
    *,
    block: int,
    batch: int,
    micro_batch: int,
    masked: float,
    precision: Literal["fp32", "bf16", "fp16"],
    recompute: bool = False,
    head_only: bool = False,
    micro_batches: int = 4,
    clock: Callable[[], float] = time.perf_counter,
) -> StepTime:
    """Runs a few steps of a pre-training on this machine's GPU, or on its CPU where there is none.

    A matrix product takes as long with random numbers as with others. No corpus is read, no network is used.

    Args:
        objectives: the recipe's terms.
        student_config: the student's architecture.
        teacher_config: the teacher's; None without one.
        block: tokens of a block.
        batch: blocks of an optimiser step.
        micro_batch: blocks computed at a time.
        masked: share of the positions that are predicted.
        precision: format of the matrix products.
        recompute: gradient checkpointing.
        head_only: whether the encoder stays as it is.
        micro_batches: how many to time, after two that are not timed.
        clock: seconds; replaced in tests.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = masked_lm_from_config(student_config)
    if recompute:
        student.gradient_checkpointing_enable()
    if head_only:
        student.base_model.requires_grad_(False)
    autocast = _AUTOCAST.get(precision)
    teacher = None
    if teacher_config is not None:
        teacher = FrozenTeacher(masked_lm_from_config(teacher_config), autocast=autocast).to(device)
    context = ObjectiveContext(
        student=encoder_shape(student),
        teacher=teacher.shape if teacher else None,
        examples=max(batch, _MOST_ROWS),
        labels=None,
        kind=kind_named(MASKED_LM),
        num_classes=int(student.config.vocab_size),
        device=device,
        batch=batch,
        micro_batch=micro_batch * processes(),
    )
    needs, views = needs_of(objectives), views_of(objectives, context.student, context.teacher)
    built = build_objectives(objectives, context)
    model = DistillationModel(student, built, needs.pooled, views.student).to(device).train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=True)
    batch_ids = torch.arange(batch, device=device)
    generator = torch.Generator().manual_seed(0)

    def compute(number: int) -> None:
        ids, labels = _random_blocks(micro_batch, block, int(student.config.vocab_size), masked, generator)
        inputs = {"input_ids": ids.to(device), "attention_mask": torch.ones_like(ids, device=device)}
        labels = labels.to(device)
        start = number * micro_batch % batch
        taught = None
        if teacher is not None:
            positions = model.chosen_positions(inputs, labels, 0.0)
            taught = teacher.represent(inputs, needs.pooled, positions, views.teacher)
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            outputs = model(inputs, labels, batch_ids[start : start + micro_batch], taught, batch_ids)
        outputs["loss"].backward()

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        model.after_step(stepped=True)

    def timed(action: Callable[[], None]) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = clock()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - start

    compute(0)
    step()  # makes Adam's moments
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = [timed(lambda number=number: compute(number)) for number in range(1, micro_batches + 2)]
    steps = [timed(step) for _ in range(2)]
    cuda = device.type == "cuda"
    return StepTime(
        micro_batch=statistics.median(times[1:]),
        optimiser=statistics.median(steps),
        peak_memory=torch.cuda.max_memory_allocated(device) if cuda else None,
        device=torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.machine()}, {torch.get_num_threads()} thread(s)",
    )


def _random_blocks(
    count: int, length: int, vocabulary: int, masked: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Returns full blocks [B, L] of random tokens, and labels at the share of positions that is masked."""
    ids = torch.randint(5, vocabulary, (count, length), generator=generator)
    predicted = max(1, round(masked * length))
    chosen = torch.rand(ids.shape, generator=generator).argsort(dim=1)[:, :predicted]
    return ids, torch.full(ids.shape, -100).scatter_(1, chosen, ids.gather(1, chosen))
