"""What half the depth and another engine gain on RoBERTa-base's shapes, and how far that is from the machine's best.

A teacher of 12 layers and a student of 6 (`build_student`), random weights, batches of 32 sequences of 128 tokens, all
of them real; every engine that `codir export` serves. Models and engines take turns; ratios are taken batch by batch.

Goals: the student at least 1.95 times as fast as the teacher in the same engine and precision; the student's best CPU
export against the teacher in torch fp32 at least 12 times in bf16 and 16 times with int8 (set on a CPU with AMX).

    python benchmarks/bench_deployment.py --threads 2

On a busy machine, `--threads 1 --processor-time`: with one thread the processor's time is what the clock would show on
an idle one, caches apart.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from codir.deploy.timed import TARGETS
from codir.deploy.writing import export_files, manifest_of
from codir.engines.engines import load_engine
from codir.measure.costs import KNOWN
from codir.measure.timing import Inputs, time_in_turns
from codir.models.student import build_student
from codir.record.environment import machine
from codir.runs.progress import quiet_libraries

HALF, BF16, INT8 = 1.95, 12.0, 16.0
PRECISION = {
    "torch": "fp32",
    "torch-compiled": "fp32",
    "onnxruntime": "fp32",
    "openvino-fp32": "fp32",
    "torch-bf16": "bf16",
    "openvino": "bf16",
    "onnxruntime-int8": "int8",
    "openvino-int8": "int8",
}
SMALL = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}


def base(quick: bool) -> PreTrainedModel:
    """RoBERTa-base with random weights; with `quick` a narrow one of four layers."""
    family, settings = KNOWN["roberta-base"]
    config = AutoConfig.for_model(family, **{**settings, **(SMALL if quick else {})}, num_labels=3)
    return AutoModelForSequenceClassification.from_config(config).eval()


def tokens(model: PreTrainedModel, batch: int, length: int, seed: int) -> Inputs:
    """A batch of random words, no padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, model.config.vocab_size, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def in_engine(model: PreTrainedModel, engine: str, folder: Path, length: int) -> Any:
    """Puts a model into a folder of its own and loads it from there, as a user does."""
    folder.mkdir()
    if engine not in TARGETS:
        model.save_pretrained(folder)
        return load_engine(folder, engine)
    target = TARGETS[engine]
    calibration = [tokens(model, 4, length, seed) for seed in range(4)]
    export_files(copy.deepcopy(model), target, folder, tokens(model, 3, 17, 9), calibration)
    manifest_of(model, target, "benchmark").write(folder)
    return load_engine(folder)


def median_ratio(first: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Median, smallest and largest of the ratios, batch by batch."""
    ratios = (first / other).ravel().tolist()
    return statistics.median(ratios), min(ratios), max(ratios)


def verdict(value: float, goal: float) -> str:
    return "met" if value >= goal else "missed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model and few rounds, to see that it runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=0, help="batches through each model (default: 3)")
    parser.add_argument("--engines", default=",".join(PRECISION), help="commas between")
    parser.add_argument("--processor-time", action="store_true", help="instead of the clock's (one thread only)")
    options = parser.parse_args()
    if options.processor_time and options.threads != 1:
        parser.error("--processor-time counts all threads together: add --threads 1")
    clock = time.process_time if options.processor_time else time.perf_counter
    rounds = options.rounds or (2 if options.quick else 3)
    batch, length = (8, 64) if options.quick else (options.batch, options.length)
    engines = options.engines.split(",")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    quiet_libraries()
    place = machine()
    print(
        f"{place['cpu']}, {options.threads} threads of "
        f"{place['cores']} cores, load average {os.getloadavg()[0]:.1f} at the start"
    )
    teacher = base(options.quick)
    student = build_student(teacher).eval()
    sources = {"teacher": teacher, "student": student}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place_for_models:
        folders = {
            (name, engine): Path(place_for_models) / f"{name}-{engine}" for name in sources for engine in engines
        }
        models = {}
        for (name, engine), folder in folders.items():
            try:
                models[f"{name} {engine}"] = in_engine(sources[name], engine, folder, length)
            except Exception as error:  # an engine that is not installed or cannot run here is left out, and named
                print(f"left out: {name} in {engine}: {error}")
        print(f"exported and loaded in {time.perf_counter() - started:.0f} s", flush=True)
        inputs = [tokens(teacher, batch, length, seed) for seed in range(rounds)]
        seconds = time_in_turns(models, dict.fromkeys(models, inputs), 1, clock=clock)
        show_speed(seconds, engines, batch, length)
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end; {time.perf_counter() - started:.0f} s in all")


def show_speed(seconds: dict[str, np.ndarray], engines: list[str], batch: int, length: int) -> None:
    """Prints the times, the ratios, and whether the goals were met."""
    print(f"\nms per sequence, batches of {batch} x {length} tokens: median of the batches, half of their range")
    print(f"  {'engine':<18}{'prec.':<7}{'teacher':>16}{'student':>16}{'teacher / student':>28}{'vs torch fp32':>16}")
    reference = seconds.get("teacher torch")
    halves: dict[str, float] = {}
    exports: dict[str, float] = {}
    for engine in engines:
        pair = [seconds.get(f"{name} {engine}") for name in ("teacher", "student")]
        line = f"  {engine:<18}{PRECISION[engine]:<7}"
        for times in pair:
            if times is None:
                line += f"{'-':>16}"
            else:
                each = 1000 * times.ravel() / batch
                line += f"{f'{np.median(each):.2f} ±{np.ptp(each) / 2:.2f}':>16}"
        if pair[0] is not None and pair[1] is not None:
            middle, low, high = median_ratio(pair[0], pair[1])
            halves[engine] = middle
            line += f"{f'{middle:.2f} ({low:.2f}..{high:.2f})':>28}"
        if pair[1] is not None and reference is not None:
            exports[engine] = median_ratio(reference, pair[1])[0]
            line += f"{f'{exports[engine]:.1f}x':>16}"
        print(line)
    print()
    if halves:
        worst = min(halves, key=lambda engine: halves[engine])
        missed = [f"{engine} {value:.2f}" for engine, value in halves.items() if value < HALF]
        print(
            f"half depth at least {HALF} times as fast in the same engine: {verdict(halves[worst], HALF)} "
            f"(lowest {halves[worst]:.2f} in {worst}{'; missed in ' + ', '.join(missed) if missed else ''})"
        )
    for precision, goal in (("bf16", BF16), ("int8", INT8)):
        own = {engine: value for engine, value in exports.items() if PRECISION[engine] == precision}
        if own:
            engine = max(own, key=lambda each: own[each])
            print(
                f"student in {precision} at least {goal:g} times as fast as the teacher in torch fp32: "
                f"{verdict(own[engine], goal)} ({own[engine]:.1f} in {engine})"
            )


if __name__ == "__main__":
    main()
