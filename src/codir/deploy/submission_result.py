"""What is in a submission, and where it comes from: on screen, and as the manifest beside the archive."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from codir import __version__, markdown
from codir.deploy.submission import SubmissionFile
from codir.markdown import inline
from codir.printing import Table, table
from codir.storage import file_digest


@dataclass
class FileResult:
    """One file of the archive and where its predictions come from.

    Attributes:
        file: what it is.
        model: the model that predicted it; None: it was filled in.
        predictions: what is written in it.
        notes: what the user should know about it.
    """

    file: SubmissionFile
    model: str | None
    predictions: list[str] = field(repr=False)
    notes: list[str] = field(default_factory=list)

    @property
    def source(self) -> str:
        """The model, or how it was filled in."""
        return self.model or f"filled in: {self.file.fill_words()}"

    @property
    def content(self) -> str:
        """The predictions in short: `0: 578, 1: 1,147`, or the mean and range of the scores."""
        if self.file.words is None:
            scores = [float(word) for word in self.predictions]
            return f"mean {statistics.fmean(scores):.2f}, {min(scores):.2f} to {max(scores):.2f}"
        counts = Counter(self.predictions)
        return ", ".join(f"{word}: {counts[word]:,}" for word in self.file.words if counts[word])


@dataclass
class SubmissionResult:
    """What was written.

    Attributes:
        output: the archive.
        manifest: the Markdown file beside it that says what is in it (the server wants no other files inside).
        files: the files of the archive, in its order.
    """

    output: Path
    manifest: Path
    files: list[FileResult]

    @property
    def filled(self) -> list[str]:
        """The files that no model predicted."""
        return [each.file.name for each in self.files if each.model is None]

    @property
    def notes(self) -> list[str]:
        """What the user should know, each sentence once."""
        notes = list(dict.fromkeys(note for each in self.files for note in each.notes))
        if self.filled:
            notes.append(
                f"{len(self.filled)} of {len(self.files)} files have no model's predictions in them "
                f"({', '.join(self.filled)}): the server wants all files, but its scores for these, and its average, "
                "are no result of yours."
            )
        return notes

    def to_rich(self) -> Table:
        """Returns one row for each file."""
        shown = table(str(self.output))
        shown.add_column("file")
        shown.add_column("rows", justify="right")
        shown.add_column("from", overflow="fold")
        shown.add_column("predictions", overflow="fold")
        for each in self.files:
            style = "yellow" if each.model is None else ""
            shown.add_row(each.file.name, f"{each.file.rows:,}", each.source, each.content, style=style)
        return shown

    def to_markdown(self) -> str:
        """Returns the manifest."""
        rows = [(e.file.name, f"{e.file.rows:,}", e.source, e.content) for e in self.files]
        notes = [f"- {inline(note)}" for note in self.notes]
        return "\n".join(
            [
                f"# {inline(self.output.name)}",
                "",
                f"A submission for gluebenchmark.com, made by codir {__version__}; xxh3 of the archive: "
                f"`{file_digest(self.output)}`. This file belongs beside the archive, not into it.",
                "",
                markdown.table(["file", "rows", "from", "predictions"], rows, left=(True, False, True, True)),
                *notes,
                "",
            ]
        )
