"""What the contrastive term does to the student and to the bank in the first steps (see docs/results.md).

python benchmarks/contrast_diagnosis.py --teacher runs/demo/teacher [--set bank_init=student] [--set negatives=any]

Distils the demo's teacher (codir demo) on the built-in task for two epochs and prints at some steps: every term, the
norm of its gradient in the student and in its own heads, and the mean cosine between two rows of the bank with the
same and with another label.
"""

from __future__ import annotations

import argparse
import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml

from codir.data import load_task
from codir.data.encoding import encode
from codir.losses.base import Step
from codir.losses.crd import CRD
from codir.models.loading import load_classifier, load_tokenizer
from codir.models.representations import represent
from codir.models.student import build_student
from codir.training.arguments import DistillationArguments
from codir.training.collators import teacher_of
from codir.training.trainer import DistillationTrainer

STEPS = (1, 20, 60, 100, 140)


class Diagnosis(DistillationTrainer):
    """A trainer that looks at the terms of some steps before it takes them."""

    def compute_loss(self, model, inputs, **settings):
        """Prints, then trains as usual."""
        if model.training and self.state.global_step in STEPS:
            self.look(inputs)
        return super().compute_loss(model, inputs, **settings)

    def look(self, batch) -> None:
        """Prints the terms and gradients of one batch, leaving banks and generators as they were."""
        student = represent(self.student, batch["inputs"], self.distillation.poolings)
        step = Step(batch["example_id"], batch["labels"], student, teacher_of(batch))
        state = {name: value.clone() for name, value in self.distillation.extra_state_tensors().items()}
        parts = []
        for name, objective in self.distillation.objective_items():
            loss = objective(step).loss
            of_student = self.norm(loss, self.student.parameters())
            of_heads = self.norm(loss, objective.parameters())
            parts.append(f"{name} {loss.item():.3f} (gradient {of_student:.2f}, heads {of_heads:.2f})")
            objective.discard_step()
            if isinstance(objective, CRD):
                rows = torch.randperm(objective.bank.size, generator=torch.Generator().manual_seed(0))[:500]
                cosine = objective.bank.rows(rows) @ objective.bank.rows(rows).T
                labels = torch.tensor(self.train_dataset["labels"][:])[rows]
                same = (labels[:, None] == labels[None]).fill_diagonal_(False)
                other = labels[:, None] != labels[None]
                parts.append(f"bank cosine {cosine[same].mean():.2f} same, {cosine[other].mean():.2f} other")
        self.distillation.load_extra_state_tensors(state)
        print(f"step {self.state.global_step}: " + "; ".join(parts), flush=True)

    @staticmethod
    def norm(loss, parameters) -> float:
        """Returns the norm of the loss's gradient."""
        wanted = list(parameters)
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True) if wanted else ()
        return sum(float((g.float() ** 2).sum()) for g in found if g is not None) ** 0.5


def main() -> None:
    """Reads the arguments and trains."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="runs/demo/teacher")
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--set", action="append", default=[], help="settings of the objective crd, key=value")
    options = parser.parse_args()
    crd = {"weight": options.weight, "k": 500}
    crd |= {key: yaml.safe_load(value) for key, value in (pair.split("=") for pair in options.set)}
    teacher, tokenizer = load_classifier(options.teacher), load_tokenizer(options.teacher)
    train = encode(load_task("acceptability", train_size=2400, validation_size=600).train, tokenizer, 128)
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationArguments(
            output_dir=folder,
            use_cpu=not torch.cuda.is_available(),
            learning_rate=5e-5,
            num_train_epochs=2,
            warmup_steps=0.06,
            adam_beta2=0.98,
            weight_decay=0.1,
            per_device_train_batch_size=32,
            save_strategy="no",
            disable_tqdm=True,
            seed=42,
        )
        Diagnosis(
            build_student(teacher, 3),
            {"task": {}, "kd": {"weight": 0.7}, "crd": crd},
            arguments,
            train_dataset=train,
            processing_class=tokenizer,
            teacher=teacher,
        ).train()


if __name__ == "__main__":
    main()
