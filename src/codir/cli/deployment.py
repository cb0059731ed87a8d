"""`codir export` and `codir latency`: a model in the formats people deploy, and what it gains where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from codir.cli import flags as o
from codir.cli.flags import Given, section, with_settings
from codir.cli.reporting import reports_errors
from codir.config.config import DataConfig
from codir.deploy.settings import ExportSettings, LatencySettings
from codir.errors import ConfigError

NoData = Annotated[
    bool,
    typer.Option("--no-data", help="do not use the data the run was made with", rich_help_panel="Data"),
]


class _Export(ExportSettings):
    data: DataConfig | None = None


class _Latency(LatencySettings):
    data: DataConfig | None = None


def _sorted_out(given: Given, no_data: bool) -> tuple[Any, dict[str, Any]]:
    """Returns the data section and the other settings.

    Where no data are named, the section is the single settings, which win over those of the run.

    Raises:
        ConfigError: data beside --no-data, or data that `DataConfig` refuses.
    """
    data = {key.removeprefix("data."): each for key, each in given.items() if key.startswith("data.")}
    settings = {key: value for key, (_, value) in given.items() if not key.startswith("data.")}
    if no_data and (named := [flag for key, (flag, _) in data.items() if key != "max_length"]):
        raise ConfigError(f"{named[0]} names data and --no-data leaves them out: give one of them.")
    if data.keys() & {"task", "train", "validation"}:
        return section(DataConfig, data), settings
    return {key: value for key, (_, value) in data.items()} or None, settings


@reports_errors
@with_settings(
    _Export,
    without=tuple(f"data.{name}" for name in ("unlabeled", "limit_train", "limit_unlabeled", "holdout")),
    help={f"data.{key}": text for key, text in o.LENGTH_OF_RUN.items()},
    panel="Export",
)
def export(
    given: Given,
    model: Annotated[str, typer.Argument(help="fine-tuned model or run folder", metavar="MODEL")],
    format: Annotated[str, typer.Option("--format", help="onnx, openvino or torch-bf16", metavar="NAME")],
    output: Annotated[Path, typer.Option("--output", help="folder to make", metavar="FOLDER")],
    no_data: NoData = False,
) -> None:
    """Export a model to ONNX, OpenVINO or bf16, and check that nothing was lost.

    The metric is on the data the run was made with, unless others are named.

    Example: codir export runs/student --format onnx --quantize int8 --output deploy/student
    """
    data, settings = _sorted_out(given, no_data)
    from codir.deploy import export as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.export(model, output, format, data=data, use_run_data=not no_data, **settings)


_DATA = ("task", "data_dir", "validation", "text", "text_pair", "encoding", "delimiter")


@reports_errors
@with_settings(
    _Latency,
    only=(*LatencySettings.model_fields, *(f"data.{name}" for name in _DATA)),
    panel="Measurement",
)
def latency(
    given: Given,
    models: Annotated[
        list[str],
        typer.Argument(
            help="model folders, Hub ids or exported folders; speed-ups are against the first",
            metavar="MODEL...",
        ),
    ],
    no_data: NoData = False,
    output: Annotated[
        Path | None, typer.Option("--output", help="write the figures to this file, .json", metavar="FILE")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a file that exists")] = False,
) -> None:
    """Measure models and engines side by side: time, speed-up, throughput, memory, size.

    Texts are the task's or the file's validation texts; without either, those of the first run folder, else made-up
    sentences.

    Example: codir latency runs/teacher runs/student --engines torch,openvino --task sst2 --output latency.json
    """
    data, settings = _sorted_out(given, no_data)
    from codir.deploy import latency as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.latency(models, data, use_run_data=not no_data, output=output, overwrite=overwrite, **settings)
