"""The exported folder: a manifest beside the model says what it is, and proves that every file is whole."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from codir.errors import ModelError, RunError
from codir.files import held, read_json, real_path, require_name, temporary_folder, write_json
from codir.manifest import EXPORT_MANIFEST, checked, entries, fault

MANIFEST = EXPORT_MANIFEST
SCHEMA = 1
# People edit it, and the Hub adds to it; nothing is computed from it.
_FREE = frozenset({"README.md", MANIFEST})
# Anything of these holds or describes weights; the rest (tokenizer, config) does not count as the model's size.
_WEIGHTS = (".onnx", ".onnx.data", ".xml", ".bin", ".safetensors")


@dataclass(frozen=True)
class Manifest:
    """What `deployment.json` says.

    Attributes:
        format: one of `formats.FORMATS`.
        quantize: `none` or `int8`.
        precision: `fp32`, `bf16` or `int8`: what the engine computes in.
        engine: the engine that runs it (`formats.ENGINES`).
        source: the model it was made from, as it was named.
        source_digest: fingerprint of that model's weights.
        inputs: names of the inputs the exported graph takes.
        settings: what the engine is told when it loads the model (OpenVINO's precision hint).
        task: the task it was checked on, None without one.
        max_length: tokens the checks cut texts at (the training's limit, or the model's positions); None for no limit.
        reads: what is known of the texts it is for: columns, pairs or not, ... (`codir.record.run_data`).
        parameters, embedding_parameters: sizes of the model it was made from.
        versions: the packages it was made with.
        created: time in UTC.
        command: the command that made it.
        checks: the figures of the comparison with the source (`codir.deploy.check`).
        metrics_before, metrics_after: the task's metrics, by split, of the source in fp32 and of the export.
        main_metric: the one of them that counts.
        examples: validation examples these are of, by split.
        data: where those are from, in words.
        files: size in bytes and fingerprint of every file.
        schema: version of this layout.
    """

    format: str
    quantize: str
    precision: str
    engine: str
    source: str
    source_digest: str
    inputs: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    task: str | None = None
    max_length: int | None = None
    reads: dict[str, Any] | None = None
    parameters: int | None = None
    embedding_parameters: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    command: str = ""
    checks: dict[str, Any] = field(default_factory=dict)
    metrics_before: dict[str, dict[str, float]] | None = None
    metrics_after: dict[str, dict[str, float]] | None = None
    main_metric: str | None = None
    examples: dict[str, int] = field(default_factory=dict)
    data: str | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def bytes(self) -> int:
        """Size of the graph and its weights, without tokenizer and configuration."""
        return sum(entry["bytes"] for name, entry in self.files.items() if name.endswith(_WEIGHTS))

    def write(self, folder: str | Path) -> Manifest:
        """Fingerprints every file of the folder, writes `deployment.json` and returns what it says."""
        folder = Path(folder)
        files = entries(folder, but=_FREE)
        whole = dataclasses.replace(self, files=files)
        write_json(folder / MANIFEST, dataclasses.asdict(whole))
        return whole

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Reads `deployment.json`; `check_files` says whether the files beside it are whole.

        Raises:
            ModelError: it is missing, damaged, or of a newer codir.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise ModelError(
                f"{folder} is no exported folder: {MANIFEST} is missing. `codir export` makes one."
            )
        try:
            values = read_json(path)
            if not isinstance(values, dict):
                raise ValueError("no JSON object")
            schema = values.get("schema", SCHEMA)
            if isinstance(schema, int) and schema > SCHEMA:
                raise ModelError(
                    f"{path} was written by a newer codir (layout {schema}; this one reads up to {SCHEMA}). "
                    "Update codir, or export the model again with this version."
                )
            known = {each.name for each in dataclasses.fields(cls)}
            manifest = TypeAdapter(cls).validate_python({n: v for n, v in values.items() if n in known})
            return dataclasses.replace(manifest, files=checked(values))
        except ValidationError as error:
            wrong = error.errors()[0]
            where = ".".join(map(str, wrong["loc"]))
            what = "is missing" if wrong["type"] == "missing" else f"is damaged: {wrong['msg']}"
            said, cause = f"{path} is damaged: {where!r} {what}", error
        except RunError as error:  # names the file and what it is
            said, cause = str(error), error
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            said, cause = f"{path} is damaged: {error}", error
        raise ModelError(f"{said}. Export the model again: `codir export`.") from cause

    def check_files(self, folder: str | Path) -> None:
        """Raises `ModelError` unless every file the manifest lists is there, with its size and content."""
        if (found := fault(Path(folder), self.files)) is not None:
            raise ModelError(f"{folder} is damaged: {found}. {_AGAIN}")


def require_new(output: Path) -> None:
    """Raises `RunError` unless a folder can be made there: nothing, or an empty folder, may be in the way."""
    require_name(output, folder=True)
    if output.exists() and not output.is_dir():
        raise RunError(f"{output} is a file, not a folder. Choose another --output.")
    if output.is_dir() and any(output.iterdir()):
        what = "already holds an exported model" if is_deployed(output) else "is not empty"
        raise RunError(
            f"{output} {what}, and codir export never overwrites. Choose another --output, or delete that folder "
            "first."
        )


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yields a folder beside the output that gets its name if the block succeeds; else nothing is left.

    A second process that exports to the same output is refused.
    """
    with held(output):
        require_new(output)  # again: another process may have finished in between
        place = real_path(output)
        with temporary_folder(place.parent) as folder:
            yield folder
            for path in folder.rglob("*"):
                if path.is_file():
                    path.chmod(0o644)  # safetensors writes for its owner alone
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            folder.chmod(0o755)
            require_new(output)  # and again: nothing is ever written over
            if place.is_dir():
                place.rmdir()
            os.rename(folder, place)


_AGAIN = "Copy the folder again, or export the model again: `codir export`."


def is_deployed(folder: str | Path) -> bool:
    """Says whether a path is an exported folder (one with a manifest; a Hub id never is)."""
    return (Path(folder).expanduser() / MANIFEST).is_file()


def weight_files(names: Iterable[str]) -> list[str]:
    """Returns those of the names that hold graph or weights."""
    return [name for name in names if name.endswith(_WEIGHTS)]
