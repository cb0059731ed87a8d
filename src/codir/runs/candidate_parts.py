"""The candidates of a data set's words, computed in parts that outlive an interruption."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from codir.errors import RunError
from codir.models.candidates import Texts, WordCandidates
from codir.runs.replacement import count_words
from codir.storage import read_json, write_bytes, write_json

PART = 4096
"""Words of a part, about: what an interruption costs at most, and what is tokenised at a time."""

_MANIFEST = "candidates.json"
_NAMES = {
    "texts": "the training texts",
    "model": "the masked language model",
    "tokenizer": "the tokenizer",
    "candidates": "--candidates",
    "together": "--together",
    "max_length": "--max-length",
    "batch_size": "--batch-size",
    "precision": "--precision",
    "part": "the size of a part (another version of codir)",
}


def texts_digest(examples: Sequence[Texts]) -> str:
    """Returns a fingerprint of the texts and their order."""
    digest = xxhash.xxh3_128()
    for texts in examples:
        digest.update(json.dumps(texts).encode() + b"\n")
    return digest.hexdigest()


def parts_folder(output: Path) -> Path:
    """Returns where the parts for an output lie: `OUTPUT.parts`, or a shorter name where that would be too long."""
    name = f"{output.name}.parts"
    if len(os.fsencode(name)) > 255:
        name = f"{xxhash.xxh3_64_hexdigest(os.fsencode(output.name))}.parts"
    return output.with_name(name)


class CandidateParts:
    """A folder with the candidates of about `PART` words in each of its files, which are whole or not there.

    Args:
        folder: made if missing. It must be locked by the caller (`codir.storage.exclusive`).
        settings: everything the candidates depend on.
        resume: goes on with what is there.

    Raises:
        RunError: there are parts of an earlier run, and `resume` is false or the settings differ from theirs.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, resume: bool) -> None:
        self.folder = folder
        manifest = folder / _MANIFEST
        if manifest.exists():
            if not resume:
                raise RunError(
                    f"{folder} holds the candidates of a run that was interrupted: go on with it by --resume, or "
                    "delete the folder."
                )
            before = read_json(manifest)
            changed = [name for name in settings if before.get(name) != settings[name]]
            if changed:
                raise RunError(
                    f"{folder} was made with other settings: {', '.join(_NAMES.get(name, name) for name in changed)} "
                    "changed. Give the same ones again, or delete the folder to start anew."
                )
        else:
            write_json(manifest, settings)

    def compute(
        self,
        proposer: WordCandidates,
        examples: Sequence[Texts],
        progress: Callable[[int, int], Any] = lambda done, in_all: None,
    ) -> None:
        """Computes the parts that are not there yet.

        Args:
            proposer: computes candidates.
            examples: all examples.
            progress: called with (words done, words in all).
        """
        done, in_all = 0, sum(map(count_words, examples))
        for number, (part, count) in enumerate(_parts(examples)):
            if not self._path(number).exists():
                found = proposer.propose(part, lambda words, _, done=done: progress(done + words, in_all))
                content = io.BytesIO()
                np.save(content, found, allow_pickle=False)
                write_bytes(self._path(number), content.getvalue())
            done += count
            progress(done, in_all)

    def read(self, examples: Sequence[Texts]) -> Iterator[tuple[Texts, np.ndarray]]:
        """Yields every example with the candidates [words, K] of its words; one part at a time is in memory."""
        for number, (part, _) in enumerate(_parts(examples)):
            found = np.load(self._path(number), allow_pickle=False)
            start = 0
            for texts in part:
                end = start + count_words(texts)
                yield texts, found[start:end]
                start = end

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.npy"


def _parts(examples: Sequence[Texts]) -> Iterator[tuple[list[Texts], int]]:
    """Yields examples until they have `PART` words together, and the number of their words."""
    part: list[Texts] = []
    words = 0
    for texts in examples:
        part.append(texts)
        words += count_words(texts)
        if words >= PART:
            yield part, words
            part, words = [], 0
    if part:
        yield part, words
