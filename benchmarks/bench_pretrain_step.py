"""Time and memory of a pre-training step: heads at masked positions only, and what the contrastive term adds.

    python benchmarks/bench_pretrain_step.py                         # 384 wide, fp32 and bf16 (quarter of an hour)
    python benchmarks/bench_pretrain_step.py --width 768 --steps 8   # BERT-base and its half
    python benchmarks/bench_pretrain_step.py --quick                 # short blocks, a few steps: does it run?

BERT with a vocabulary of 30,522 and blocks of 512 tokens, 15 % of them masked; the student has half the teacher's
layers, the teacher runs live. A step is forward and backward, clipping and AdamW. The weights are random: time does not
depend on them.

Goals: (a) a step with MLM and KD at least 1.5 times as fast as with the stock models, whose heads give logits at
all positions, and at most a third of the memory that the logits take there; (b) adding the contrastive term costs at
most 5 %. There are two references: `stock` hands the labels to transformers' model; in `stock, picked` its logits at
the masked positions are picked out before either loss, which saves passes over the others. The goals are judged
against the latter.

The variants take turns in an order that is shuffled every round; compared are medians of the ratio in a round, in
processor time (one thread), on a GPU on the clock. "Once more" is the same variant twice: how far from 1 it is says
how exact the rest is. Memory is measured in a process of its own for each variant, on the second step, as the highest
resident size (Linux' VmHWM) above that before the step; what the logits take is the difference to a step that computes
everything up to the heads' last product, whose loss is a sum of the hidden states.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig

from codir.losses.base import ObjectiveContext
from codir.losses.registry import build_objectives, needs_of
from codir.models.loading import encoder_shape
from codir.models.masked_lm import masked_lm_from_config
from codir.models.representations import represent
from codir.teacher.frozen import FrozenTeacher
from codir.training.model import DistillationModel

VOCABULARY, EXAMPLES, MINI_BATCH = 30_522, 50_000, 256
SHAPES = {384: (6, 12, 1536), 768: (12, 12, 3072)}  # width: layers of the teacher, heads, inner width
KD_WEIGHT, TEMPERATURE = 0.1, 2.0
TOKENS = {"mlm": {}, "kd": {"weight": KD_WEIGHT, "temperature": TEMPERATURE}}
OURS, AGAIN, STOCK, PICKED, ENCODERS = "ours", "ours, once more", "stock", "stock, picked", "encoders"
NEGATIVES = ("in-batch-bank", "in-batch")


@dataclass(frozen=True)
class Setting:
    """What all variants of a comparison share."""

    width: int
    batch: int
    length: int
    bf16: bool
    device: torch.device

    def config(self, share: int) -> BertConfig:
        """Returns the configuration with 1/`share` of the teacher's layers."""
        layers, heads, inner = SHAPES[self.width]
        return BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.width,
            num_hidden_layers=layers // share,
            num_attention_heads=heads,
            intermediate_size=inner,
        )

    def autocast(self) -> contextlib.AbstractContextManager:
        """Returns the precision of the student's step."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


@dataclass
class Batch:
    """Blocks of random tokens; of each, 15 % of the positions are predicted."""

    inputs: dict[str, Tensor]
    labels: Tensor
    ids: Tensor
    mini_batch: Tensor

    @classmethod
    def draw(cls, setting: Setting, length: int | None = None) -> Batch:
        """Draws one."""
        length = length or setting.length
        tokens = torch.randint(1000, VOCABULARY, (setting.batch, length))
        place = torch.rand(setting.batch, length).argsort(dim=1)[:, : max(round(0.15 * length), 1)]
        labels = torch.full_like(tokens, -100).scatter_(1, place, tokens.gather(1, place))
        tokens = tokens.scatter_(1, place, 103)
        mini_batch = torch.randperm(EXAMPLES)[:MINI_BATCH]
        moved = [tensor.to(setting.device) for tensor in (tokens, labels, mini_batch)]
        inputs = {"input_ids": moved[0], "attention_mask": torch.ones_like(moved[0])}
        return cls(inputs, moved[1], moved[2][: setting.batch], moved[2])


class Variant:
    """A student, its objectives and its optimiser; every variant starts from the same weights."""

    def __init__(self, setting: Setting, name: str, teacher: FrozenTeacher, crd: dict[str, Any] | None = None):
        self.setting, self.name, self.teacher = setting, name, teacher
        settings: dict[str, dict[str, Any]] = {**TOKENS, **({"crd": crd} if crd else {})}
        student = masked_lm_from_config(setting.config(2), seed=1)
        context = ObjectiveContext(
            encoder_shape(student),
            teacher.shape,
            EXAMPLES,
            None,
            "masked-lm",
            VOCABULARY,
            device=setting.device,
            batch=MINI_BATCH,
            micro_batch=setting.batch,
        )
        self.model = DistillationModel(student, build_objectives(settings, context), needs_of(settings).pooled)
        self.model.to(setting.device).train()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def loss(self, batch: Batch) -> Tensor:
        """Runs both models forward."""
        student, teacher = self.model.student, self.teacher.model
        chosen = batch.labels != -100
        with self.setting.autocast():
            if self.name in (STOCK, PICKED):
                with torch.no_grad():
                    expected = teacher(**batch.inputs).logits
                labels = batch.labels if self.name == STOCK else None
                found = student(**batch.inputs, labels=labels)
                logits = found.logits[chosen].float()
                mlm = found.loss if labels is not None else functional.cross_entropy(logits, batch.labels[chosen])
                own = torch.log_softmax(logits / TEMPERATURE, dim=1)
                others = torch.log_softmax(expected[chosen].float() / TEMPERATURE, dim=1)
                return mlm + KD_WEIGHT * functional.kl_div(own, others, reduction="batchmean", log_target=True)
            outputs = self.teacher.represent(batch.inputs, self.model.poolings, chosen)
            if self.name == ENCODERS:
                masked = represent(student, batch.inputs, (), chosen).masked
                assert masked is not None
                return masked.hidden.float().sum()
            return self.model(batch.inputs, batch.labels, batch.ids, outputs, batch.mini_batch)["loss"]

    def step(self, batch: Batch) -> None:
        """Forward, backward, clipping, optimiser, bank."""
        self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.model.after_step(True)


def make_teacher(setting: Setting) -> FrozenTeacher:
    """Makes the teacher; it runs in the student's precision, as in every variant."""
    model = masked_lm_from_config(setting.config(1), seed=0)
    return FrozenTeacher(model, autocast=torch.bfloat16 if setting.bf16 else None).to(setting.device)


def take_turns(setting: Setting, variants: list[tuple[str, Variant]], steps: int) -> dict[str, list[float]]:
    """Returns the milliseconds of each step of each variant; in a round all see the same batch."""
    shuffled = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name, _ in variants}
    for number in range(steps + 2):
        batch = Batch.draw(setting)
        for name, variant in shuffled.sample(variants, len(variants)):
            begin = now(setting)
            variant.step(batch)
            if number >= 2:  # the first steps allocate gradients and the optimiser's state
                times[name].append(1000 * (now(setting) - begin))
    return times


def now(setting: Setting) -> float:
    """Returns the processor's time, or on a GPU the clock's once everything before is done."""
    if setting.device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def ratios(times: dict[str, list[float]], name: str, base: str) -> tuple[float, str]:
    """Returns the median ratio of two variants over the rounds, and it with its quartiles as text."""
    found = [one / other for one, other in zip(times[name], times[base], strict=True)]
    low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else found * 3
    return middle, f"{middle:6.3f} ({low:.3f} to {high:.3f})"


def compare_heads(setting: Setting, steps: int) -> bool:
    """Prints part (a), time; returns whether the goal was met."""
    teacher = make_teacher(setting)
    variants = [(name, Variant(setting, name, teacher)) for name in (OURS, AGAIN, STOCK, PICKED)]
    times = take_turns(setting, variants, steps)
    for name, values in times.items():
        ratio = ratios(times, name, OURS)[1]
        print(f"  {name:<16} {statistics.median(values):9.1f} ms   times ours: {ratio}")
    return ratios(times, PICKED, OURS)[0] >= 1.5


def compare_contrast(setting: Setting, steps: int) -> bool:
    """Prints part (b); returns whether the goal was met by both sources of negatives."""
    teacher = make_teacher(setting)
    variants = [(name, Variant(setting, name, teacher)) for name in (OURS, AGAIN)]
    for negatives in NEGATIVES:
        variants.append((negatives, Variant(setting, negatives, teacher, {"weight": 0.1, "negatives": negatives})))
    times = take_turns(setting, variants, steps)
    for name, values in times.items():
        title = {OURS: "MLM + KD", AGAIN: "once more"}.get(name, f"+ {name}")
        print(f"  {title:<16} {statistics.median(values):9.1f} ms   times MLM + KD: {ratios(times, name, OURS)[1]}")
    return all(ratios(times, name, OURS)[0] <= 1.05 for name in NEGATIVES)


def compare_memory(setting: Setting) -> bool:
    """Prints part (a), memory; returns whether the goal was met."""
    base = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}  # freed tensors go back to the system at once
    peaks: dict[str, float] = {}
    for name in (ENCODERS, OURS, STOCK, PICKED):
        command = [sys.executable, __file__, "--memory", name, "--width", str(setting.width)]
        command += [
            "--batch",
            str(setting.batch),
            "--length",
            str(setting.length),
            "--device",
            setting.device.type,
        ]
        command += ["--precision", "bf16" if setting.bf16 else "fp32"]
        done = subprocess.run(command, env=base, capture_output=True, text=True, check=True)
        peaks[name] = float(done.stdout.split()[-1])
    for name, peak in peaks.items():
        logits = peak - peaks[ENCODERS]
        line = f"  {name:<16} step {peak:8.0f} MB   of it for logits {logits:8.0f} MB"
        if name in (STOCK, PICKED):
            line += f"   ours is {(peaks[OURS] - peaks[ENCODERS]) / logits:.3f} of that"
        print(line)
    return peaks[OURS] - peaks[ENCODERS] <= (peaks[PICKED] - peaks[ENCODERS]) / 3


def measure_memory(setting: Setting, name: str) -> float:
    """Returns what a step takes at its peak above what was there before it, in MB; no optimiser."""
    variant = Variant(setting, name, make_teacher(setting))
    variant.loss(Batch.draw(setting, length=32)).backward()  # gradients exist, libraries are loaded
    batch = Batch.draw(setting)
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        variant.loss(batch).backward()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest value so far
    before = resident("VmRSS")
    variant.loss(batch).backward()
    return (resident("VmHWM") - before) / 1024


def resident(key: str) -> int:
    """Reads a size from Linux' own account of this process, in KB."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short blocks and a few steps, to see that it runs")
    parser.add_argument("--width", type=int, choices=sorted(SHAPES), default=384)
    parser.add_argument("--batch", type=int, default=4, help="blocks of a step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a block")
    parser.add_argument("--steps", type=int, default=0, help="rounds")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: both")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--parts", default="heads,memory,contrast", help="which of heads, memory, contrast")
    parser.add_argument("--memory", metavar="VARIANT", help="(internal) print the memory of a variant's step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    length = 128 if arguments.quick else arguments.length
    steps = arguments.steps or (2 if arguments.quick else 20)
    met: dict[str, bool] = {}
    for precision in [arguments.precision] if arguments.precision else ["fp32", "bf16"]:
        device = torch.device(arguments.device)
        setting = Setting(arguments.width, arguments.batch, length, precision == "bf16", device)
        if arguments.memory:
            print(measure_memory(setting, arguments.memory))
            return
        layers = SHAPES[setting.width][0]
        shape = f"{layers} and {layers // 2} layers x {setting.width}, {setting.batch} x {length} tokens, {precision}"
        for part, title, compare in _PARTS:
            if part in arguments.parts.split(","):
                print(f"\n{title}: {shape}" + ("" if part == "memory" else f", median of {steps}"), flush=True)
                met[f"{part}, {precision}"] = compare(setting, steps)
    print()
    if arguments.quick:
        print("The goals are for blocks of 512 tokens: run without --quick to judge them.")
        return
    for name, goal in met.items():
        wanted = {
            "heads": "1.5 times as fast",
            "memory": "a third of the memory",
            "contrast": "at most 5 % more",
        }
        print(f"goal {name}: {wanted[name.split(',')[0]]} {'met' if goal else 'missed'}")


_PARTS: list[tuple[str, str, Callable[[Setting, int], bool]]] = [
    ("heads", "MLM + KD, a step", compare_heads),
    ("memory", "MLM + KD, memory of a step", lambda setting, steps: compare_memory(setting)),
    ("contrast", "the contrastive term, a step", compare_contrast),
]


if __name__ == "__main__":
    main()
