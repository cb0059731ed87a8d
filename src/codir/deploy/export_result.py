"""What an export wrote and what its checks found, as a table."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codir.engines.folder import Manifest
from codir.engines.formats import Target
from codir.printing import Console, Table, table, terminal
from codir.runs.evaluate import EvaluationResult
from codir.storage import human_bytes


@dataclass
class ExportResult:
    """What was written and what the checks found.

    Attributes:
        output: the folder.
        target: format, quantisation, precision.
        manifest: what `deployment.json` says.
        source_bytes: of the source's weights in fp32.
        before, after: the task's metrics of source and export; None without a task.
        notes: what the user should know.
    """

    output: Path
    target: Target
    manifest: Manifest
    source_bytes: int
    before: EvaluationResult | None = None
    after: EvaluationResult | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, Any]:
        """The figures of the comparison, as in the manifest."""
        return self.manifest.checks

    def to_rich(self) -> Table:
        """Returns two lines, source and export: size, metrics, difference and agreement."""
        shown = table(f"{self.manifest.source} exported to {self.target}")
        shown.add_column("model")
        shown.add_column("size", justify="right")
        columns = []
        if self.before is not None and self.after is not None:
            several = len(self.before.metrics) > 1
            for split, values in self.before.metrics.items():
                columns += [(split, name) for name in values]
            for split, name in columns:
                shown.add_column(f"{split} {name}" if several else name, justify="right")
        shown.add_column("largest difference", justify="right")
        shown.add_column("mean", justify="right")
        regression = self.figures["answers"] == "scores"
        shown.add_column("correlation" if regression else "same answers", justify="right")
        first = [self.before.metrics[split][name] for split, name in columns] if self.before else []
        second = [self.after.metrics[split][name] for split, name in columns] if self.after else []
        agreement = self.figures["agreement"]
        shown.add_row(
            "torch fp32", human_bytes(self.source_bytes), *(f"{value:.4f}" for value in first), "", "", ""
        )
        shown.add_row(
            str(self.target),
            human_bytes(self.manifest.bytes),
            *(f"{value:.4f}" for value in second),
            f"{self.figures['largest_difference']:.2g}",
            f"{self.figures['mean_difference']:.2g}",
            f"{agreement:.4f}" if regression else f"{agreement:.2%}",
        )
        return shown


def print_result(result: ExportResult, console: Console | None = None) -> None:
    """Prints the table, the inputs it is from, the notes, and what to do with the folder."""
    console = terminal(console)
    figures = result.figures
    console.print(result.to_rich())
    line = (
        f"On {figures['inputs']:,} inputs of {figures['shortest']} to {figures['longest']} tokens, in batches of "
        f"{figures['smallest_batch']} to {figures['largest_batch']}, against the source with PyTorch in fp32."
    )
    console.print(line, highlight=False, markup=False)
    if figures.get("calibration"):
        console.print(f"Calibrated on {figures['calibration']}.", highlight=False, markup=False)
    if figures["answers"] != "scores" and figures["changed"]:
        changed, unsure = figures["changed"], figures["undecided"]
        line = (
            f"Of {figures['judged']} {changed:,} {'gets' if changed == 1 else 'get'} another answer; about "
            f"{unsure:,} of these the source was itself undecided."
        )
        console.print(line, highlight=False, markup=False)
    for note in result.notes:
        console.print(note, highlight=False, markup=False)
    console.print(
        f"Written to {result.output}. It predicts by itself: codir predict {shlex.quote(str(result.output))} "
        "--input texts.txt --output predictions.jsonl",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
