"""The settings of what is done with a finished model, declared once: a function's keywords, its command's flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator

from codir.settings import Section

SectionT = TypeVar("SectionT", bound=Section)


class ExportSettings(Section):
    """How a model is exported, and what its export may differ by."""

    quantize: str | None = Field(None, description="int8 or none (default: none)")
    precision: str | None = Field(
        None, description="fp32 or bf16, of what is not quantised (default: bf16 for openvino, fp32 for onnx)"
    )
    # 1,200 gave the same differences on real students, 64 slightly larger ones
    calibration: int = Field(300, ge=1, description="training examples that openvino's int8 takes its ranges from")
    max_difference: float | None = Field(
        None,
        ge=0,
        description="largest difference of a logit (default: 1e-3 for fp32, none for bf16 and int8)",
    )
    min_agreement: float = Field(
        0.97, ge=0, le=1, description="least share of equal answers, of scores their correlation"
    )
    max_drop: float = Field(0.5, description="most points of the metric (of 100) that may be lost on any split")
    batch_size: int = Field(32, ge=1, description="texts run at a time")


class LatencySettings(Section):
    """What is measured of models side by side."""

    engines: list[str] | None = Field(
        None,
        description="for model folders, commas between: torch, torch-bf16, torch-fp16 (GPU), torch-compiled, "
        "onnxruntime, onnxruntime-int8, openvino, openvino-fp32, openvino-int8 (default: torch); exported folders run "
        "in their own",
    )
    batch: int = Field(32, ge=1, description="sequences in a batch")
    max_length: int | None = Field(
        None,
        ge=4,
        description="tokens to pad to, and to cut at (default: as in the first model's run, else 128)",
    )
    rounds: int = Field(3, ge=1, description="passes over the texts")
    sequences: int = Field(256, ge=1, description="texts to use, at most")
    threads: int | None = Field(None, ge=1, description="of every engine (default: the processor's cores)")
    device: Literal["cpu", "cuda"] = Field("cpu", description="cpu or cuda")
    memory: bool = Field(True, description="also measure the peak memory of each")

    @field_validator("engines", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        names = value.split(",") if isinstance(value, str) else value
        return names and list(dict.fromkeys(each.strip() for each in names))


class PublishSettings(Section):
    """Where and how a model is published on the Hub."""

    subfolder: str | None = Field(None, description="where in the repository (onnx, openvino-int8), not at its top")
    dry_run: bool = Field(False, description="show what would be sent; needs neither network nor token")
    private: bool = Field(False, description="make the repository private")
    license: str | None = Field(None, description="licence of the model, such as apache-2.0")
    language: str | None = Field(None, description="its language or languages, such as en or en,de")
    report: bool = Field(False, description="send report.html too")
    update: bool = Field(False, description="replace the model in a repository that holds files already")
    revision: str = Field("main", description="branch to send to; made if it is missing")
    message: str | None = Field(None, description="message of the commit")


def settings_of(model: type[SectionT], given: Mapping[str, Any]) -> SectionT:
    """Builds settings out of keywords, which messages name as flags; raises `ConfigError` for a wrong one."""
    from codir.config.loading import Settings, build

    settings = Settings()
    settings.set_given((), {name: (f"--{name.replace('_', '-')}", value) for name, value in given.items()})
    return build(model, settings)
