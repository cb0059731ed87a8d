"""What an export wrote and what its checks found, as a table."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codir.engines.folder import Manifest
from codir.engines.formats import Target
from codir.files import human_bytes
from codir.printing import Console, terminal
from codir.runs.evaluate import EvaluationResult
from codir.table import Column, Table, Tabular


@dataclass
class ExportResult(Tabular):
    """What was written and what the checks found.

    Attributes:
        output: the folder.
        target: format, quantisation, precision.
        manifest: what `deployment.json` says.
        source_bytes: size of the source's weights in fp32.
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

    def table(self) -> Table:
        """Returns two lines, source and export: size, metrics, difference and agreement."""
        figures = self.figures
        before = self.before.flat_metrics() if self.before else {}
        after = self.after.flat_metrics() if self.after else {}
        scores = figures["answers"] == "scores"
        columns = (
            Column("model", left=True),
            Column("size", human_bytes),
            *(Column(name, "{:.4f}".format) for name in before),
            Column("largest difference", "{:.2g}".format),
            Column("mean", "{:.2g}".format),
            Column("correlation" if scores else "same answers", ("{:.4f}" if scores else "{:.2%}").format),
        )
        compared = (figures["largest_difference"], figures["mean_difference"], figures["agreement"])
        rows = (
            ("torch fp32", self.source_bytes, *before.values(), None, None, None),
            (str(self.target), self.manifest.bytes, *(after[name] for name in before), *compared),
        )
        return Table(f"{self.manifest.source} exported to {self.target}", columns, rows)

    def words(self) -> list[str]:
        """Returns what stands under the table, a line each: the inputs, the notes, what to do with the folder."""
        figures = self.figures
        lines = [
            f"On {figures['inputs']:,} inputs of {figures['shortest']} to {figures['longest']} tokens, in batches of "
            f"{figures['smallest_batch']} to {figures['largest_batch']}, against the source with PyTorch in fp32."
        ]
        if figures.get("calibration"):
            lines.append(f"Calibrated on {figures['calibration']}.")
        if changed := figures["changed"]:
            lines.append(
                f"Of {figures['judged']} {changed:,} {'gets' if changed == 1 else 'get'} another answer; about "
                f"{figures['undecided']:,} of these the source was itself undecided."
            )
        done = (
            f"Written to {self.output}. It predicts by itself: codir predict {shlex.quote(str(self.output))} "
        )
        return [*lines, *self.notes, f"{done}--input texts.txt --output predictions.jsonl"]


def print_result(result: ExportResult, console: Console | None = None) -> None:
    """Prints the table and what stands under it."""
    console = terminal(console)
    console.print(result.to_rich())
    for line in result.words():
        console.print(line, highlight=False, soft_wrap=line.startswith("Written"))
