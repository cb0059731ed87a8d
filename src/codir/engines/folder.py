"""The exported folder: what it can be, the manifest that says what it is, and how it gets its name.

The manifest lies beside the model and proves that every file is whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from codir.errors import ConfigError, ModelError, RunError, nearest
from codir.files import held, read_json, real_path, require_name, temporary_folder, write_json
from codir.manifest import EXPORT_MANIFEST, checked, entries, fault

MANIFEST = EXPORT_MANIFEST
FORMATS = ("onnx", "openvino", "torch-bf16")
# People edit it, and the Hub adds to it; nothing is computed from it.
_FREE = frozenset({"README.md", MANIFEST})
# Anything of these holds or describes weights; the rest (tokenizer, config) does not count as the model's size.
_WEIGHTS = (".onnx", ".onnx.data", ".xml", ".bin", ".safetensors")
_AGAIN = "Copy the folder again, or export the model again: `codir export`."


@dataclass(frozen=True)
class Target:
    """What to export to; `precision` is that of the numbers that are not quantised."""

    format: str
    quantize: str = "none"
    precision: str = "fp32"

    @classmethod
    def of(cls, format: str, quantize: str | None = None, precision: str | None = None) -> Target:
        """Checks the words a user wrote; without a precision it is bf16 for OpenVINO and torch-bf16, fp32 for ONNX.

        Raises:
            ConfigError: an unknown word, or words that do not go together.
        """
        quantize, precision = quantize or "none", precision or ("fp32" if format == "onnx" else "bf16")
        for flag, value, known in (
            ("--format", format, FORMATS),
            ("--quantize", quantize, ("none", "int8")),
            ("--precision", precision, ("fp32", "bf16")),
        ):
            if value not in known:
                raise ConfigError(f"{flag} {value}: unknown{nearest(value, known)}. Known are {', '.join(known)}.")
        if format == "torch-bf16" and (quantize, precision) != ("none", "bf16"):
            raise ConfigError(
                "--format torch-bf16 is bf16, without int8. For int8 use --format openvino --quantize int8 or --format "
                "onnx --quantize int8; fp32 is --format onnx, or the model folder as it is."
            )
        if format == "onnx" and precision == "bf16":
            raise ConfigError(
                "--format onnx has no bf16: ONNX Runtime has no bf16 kernels for the CPU. "
                "Use --format openvino --precision bf16 or --format torch-bf16."
            )
        return cls(format, quantize, precision)

    @property
    def engine(self) -> str:
        """Name of the engine that runs it."""
        return "onnxruntime" if self.format == "onnx" else self.format

    @property
    def kind(self) -> str:
        """The precision as tables name it: `int8` if quantised, else `fp32` or `bf16`."""
        return "int8" if self.quantize == "int8" else self.precision

    @property
    def needs_data(self) -> bool:
        """Whether real inputs have to fix the ranges of the activations beforehand."""
        return self.format == "openvino" and self.quantize == "int8"

    @property
    def packages(self) -> tuple[str, ...]:
        """What has to be installed to export to it, and to run it."""
        needed = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
        return needed.get(self.format, ()) + (("nncf",) if self.needs_data else ())

    def __str__(self) -> str:
        return self.format if self.format == "torch-bf16" else f"{self.format} {self.kind}"


class Manifest(BaseModel, frozen=True):
    """What `deployment.json` says."""

    format: str  # one of `FORMATS`
    quantize: str
    precision: Literal["fp32", "bf16", "int8"]  # what the engine computes in
    engine: Literal["onnxruntime", "openvino", "torch-bf16"]
    source: str  # the model it was made from, as it was named
    inputs: tuple[str, ...] = ()  # of the graph
    settings: dict[str, str] = {}  # what the engine is told when it loads the model
    task: str | None = None  # it was checked on
    max_length: int | None = None  # tokens the checks cut texts at; None for no limit
    reads: dict[str, Any] | None = None  # what is known of the texts it is for (`codir.record.run_data`)
    parameters: int | None = None  # of the model it was made from
    embedding_parameters: int | None = None
    versions: dict[str, str] = {}  # of the packages it was made with
    created: str = ""
    command: str = ""
    checks: dict[str, Any] = {}  # the figures of the comparison with the source (`codir.deploy.check`)
    metrics_before: dict[str, dict[str, float]] | None = None  # by split, of the source in fp32
    metrics_after: dict[str, dict[str, float]] | None = None
    main_metric: str | None = None
    examples: dict[str, int] = {}  # that the metrics are of, by split
    files: dict[str, dict[str, Any]] = {}  # size in bytes and digest of each

    @property
    def bytes(self) -> int:
        """Size of the graph and its weights, without tokenizer and configuration."""
        return sum(entry["bytes"] for name, entry in self.files.items() if name.endswith(_WEIGHTS))

    def write(self, folder: str | Path) -> Manifest:
        """Fingerprints every file of the folder, writes `deployment.json` and returns what it says."""
        whole = self.model_copy(update={"files": entries(Path(folder), but=_FREE)})
        write_json(Path(folder) / MANIFEST, whole.model_dump())
        return whole

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Reads `deployment.json`; `check_files` says whether the files beside it are whole.

        Raises:
            ModelError: it is missing or damaged.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise ModelError(f"{folder} is no exported folder: {MANIFEST} is missing. `codir export` makes one.")
        try:
            values = read_json(path)
            files = checked(values)
            return cls.model_validate({**values, "files": files})
        except ValidationError as error:
            wrong = error.errors()[0]
            said = f"{path} is damaged: {'.'.join(map(str, wrong['loc']))!r}: {wrong['msg']}"
            raise ModelError(f"{said}. {_AGAIN}") from error
        except (RunError, TypeError, ValueError, KeyError, AttributeError) as error:
            said = str(error) if isinstance(error, RunError) else f"{path} is damaged: {error}"
            raise ModelError(f"{said.removesuffix('.')}. {_AGAIN}") from error

    def check_files(self, folder: str | Path) -> None:
        """Raises `ModelError` unless every file the manifest lists is there, with its size and content."""
        if (found := fault(Path(folder), self.files)) is not None:
            raise ModelError(f"{folder} is damaged: {found}. {_AGAIN}")


def is_deployed(folder: str | Path) -> bool:
    """Says whether a path is an exported folder (one with a manifest; a Hub id never is)."""
    return (Path(folder).expanduser() / MANIFEST).is_file()


def require_new(output: Path) -> None:
    """Raises `RunError` unless a folder can be made there: nothing, or an empty folder, may be in the way."""
    require_name(output, folder=True)
    if output.exists() and not output.is_dir():
        raise RunError(f"{output} is a file, not a folder. Choose another --output.")
    if output.is_dir() and any(output.iterdir()):
        what = "already holds an exported model" if is_deployed(output) else "is not empty"
        raise RunError(
            f"{output} {what}, and codir export never overwrites. Choose another --output, or delete that folder."
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
