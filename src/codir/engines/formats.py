"""What a model can be exported to, and which combinations of format, quantisation and precision make sense."""

from __future__ import annotations

from dataclasses import dataclass

from codir.errors import ConfigError, nearest

FORMATS = ("onnx", "openvino", "torch-bf16")
QUANTIZATIONS = ("none", "int8")
PRECISIONS = ("fp32", "bf16")
ENGINES = ("torch", "torch-bf16", "torch-compiled", "onnxruntime", "openvino")
ENGINE_OF = {"onnx": "onnxruntime", "openvino": "openvino", "torch-bf16": "torch-bf16"}
_DEFAULT_PRECISION = {"onnx": "fp32", "openvino": "bf16", "torch-bf16": "bf16"}


@dataclass(frozen=True)
class Target:
    """What to export to.

    Attributes:
        format: one of `FORMATS`.
        quantize: one of `QUANTIZATIONS`.
        precision: in which numbers that are not quantised are computed, one of `PRECISIONS`.
    """

    format: str
    quantize: str = "none"
    precision: str = "fp32"

    @classmethod
    def of(cls, format: str, quantize: str | None = None, precision: str | None = None) -> Target:
        """Checks the words a user wrote; without a precision it is bf16 for OpenVINO and torch-bf16, fp32 for ONNX.

        Raises:
            ConfigError: an unknown word, or words that do not go together.
        """
        _known("--format", format, FORMATS)
        quantize = _known("--quantize", quantize or "none", QUANTIZATIONS)
        chosen = _known("--precision", precision or _DEFAULT_PRECISION[format], PRECISIONS)
        if format == "torch-bf16" and quantize == "int8":
            raise ConfigError(
                "--format torch-bf16 has no int8: PyTorch on a CPU runs int8 only through other engines. "
                "Use --format openvino --quantize int8 or --format onnx --quantize int8."
            )
        if format == "torch-bf16" and chosen == "fp32":
            raise ConfigError(
                "--format torch-bf16 is bf16: a model folder is the fp32 form already. Leave out --precision, or use "
                "--format openvino --precision fp32 or --format onnx."
            )
        if format == "onnx" and chosen == "bf16":
            raise ConfigError(
                "--format onnx has no bf16: ONNX Runtime has no bf16 kernels for the CPU. "
                "Use --format openvino --precision bf16 or --format torch-bf16."
            )
        return cls(format, quantize, chosen)

    @property
    def engine(self) -> str:
        """Name of the engine that runs it."""
        return ENGINE_OF[self.format]

    @property
    def kind(self) -> str:
        """The precision as tables name it: `int8` if quantised, else `fp32` or `bf16`."""
        return "int8" if self.quantize == "int8" else self.precision

    @property
    def needs_data(self) -> bool:
        """Whether real inputs have to fix the ranges of the activations beforehand."""
        return self.format == "openvino" and self.quantize == "int8"

    def __str__(self) -> str:
        return self.format if self.format == "torch-bf16" else f"{self.format} {self.kind}"


def _known(flag: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(f"{flag} {value}: unknown{nearest(value, known)}. Known are {', '.join(known)}.")
    return value
