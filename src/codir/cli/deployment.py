"""`codir export` and `codir latency`: a model in the formats people deploy, and what it gains where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from codir.cli import flags as o
from codir.cli.flags import Given, section, with_settings
from codir.cli.reporting import reports_errors
from codir.config.config import DataConfig
from codir.errors import ConfigError


def _option(flag: str, help: str, metavar: str, panel: str = "Export", **more: Any) -> Any:
    return typer.Option(flag, help=help, metavar=metavar, show_default=False, rich_help_panel=panel, **more)


NoData = Annotated[
    bool,
    typer.Option(
        "--no-data",
        help="do not use the data the run was made with",
        rich_help_panel="Data",
        show_default=False,
    ),
]


@reports_errors
@with_settings(
    DataConfig,
    without=("unlabeled", "limit_train", "limit_unlabeled", "holdout"),
    help=o.LENGTH_OF_RUN,
    panel="Data",
)
def export(
    given: Given,
    model: Annotated[str, typer.Argument(help="fine-tuned model or run folder", metavar="MODEL")],
    format: Annotated[str, _option("--format", "onnx, openvino or torch-bf16", "NAME")],
    output: Annotated[Path, _option("--output", "folder to make", "FOLDER")],
    quantize: Annotated[str | None, _option("--quantize", "int8 or none (default: none)", "NAME")] = None,
    precision: Annotated[
        str | None,
        _option("--precision", "fp32 or bf16 (default: bf16 for openvino, fp32 for onnx)", "NAME"),
    ] = None,
    no_data: NoData = False,
    calibration: Annotated[
        int | None,
        _option(
            "--calibration",
            "training examples that openvino's int8 takes its ranges from (default: 300)",
            "N",
            min=1,
        ),
    ] = None,
    max_difference: Annotated[
        float | None,
        _option(
            "--max-difference",
            "largest difference of a logit (default: 1e-3 for fp32, none for bf16 and int8)",
            "X",
            "Limits",
            min=0,
        ),
    ] = None,
    min_agreement: Annotated[
        float | None,
        _option(
            "--min-agreement",
            "least share of equal answers on the validation examples (default: 0.97)",
            "X",
            "Limits",
            min=0,
            max=1,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        _option(
            "--max-drop",
            "most points of the metric (of 100) that may be lost (default: 0.5)",
            "POINTS",
            "Limits",
        ),
    ] = None,
    batch_size: o.EvaluationBatch = 32,
) -> None:
    """Export a model to ONNX, OpenVINO or bf16, and check that nothing was lost.

    The metric is on the data the run was made with, unless others are named.

    Example: codir export runs/student --format onnx --quantize int8 --output deploy/student
    """
    from codir.engines.formats import Target

    Target.of(format, quantize, precision)  # before anything heavy is imported
    data = _data(given, no_data)
    from codir.deploy import export as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.export(
        model,
        output,
        format,
        quantize=quantize,
        precision=precision,
        data=data,
        use_run_data=not no_data,
        max_length=given["max_length"][1] if "max_length" in given else None,
        calibration=workflow.CALIBRATION if calibration is None else calibration,
        max_difference=max_difference,
        min_agreement=min_agreement,
        max_drop=max_drop,
        batch_size=batch_size,
    )


def _data(given: Given, no_data: bool) -> Any:
    """Returns the data section; where no data are named, the single settings, which win over those of the run.

    Raises:
        ConfigError: data beside --no-data, or data that `DataConfig` refuses.
    """
    for key, (flag, _) in given.items():
        if no_data and key != "max_length":
            raise ConfigError(f"{flag} names data and --no-data leaves them out: give one of them.")
    if given.keys() & {"task", "train", "validation"}:
        return section(DataConfig, given)
    return {key: value for key, (_, value) in given.items()} or None


@reports_errors
@with_settings(
    DataConfig,
    only=("task", "data_dir", "validation", "text", "text_pair", "encoding", "delimiter"),
    panel="Data",
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
    engines: Annotated[
        str | None,
        typer.Option(
            "--engines",
            help="for model folders, commas between: torch, torch-bf16, torch-fp16 (GPU), torch-compiled, onnxruntime, "
            "onnxruntime-int8, openvino, openvino-fp32, openvino-int8 (default: torch); exported folders run in their "
            "own",
            metavar="NAMES",
            show_default=False,
        ),
    ] = None,
    no_data: NoData = False,
    batch: Annotated[int, typer.Option("--batch", help="sequences in a batch", metavar="N")] = 32,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            help="tokens to pad to, and to cut at (default: as in the first model's run, else 128)",
            metavar="TOKENS",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", help="passes over the texts", metavar="N")] = 3,
    sequences: Annotated[int, typer.Option("--sequences", help="texts to use, at most", metavar="N")] = 256,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="of every engine (default: the processor's cores)", metavar="N"),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda", metavar="NAME")] = "cpu",
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="also measure the peak memory of each")
    ] = True,
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
    data = _data(given, no_data)
    from codir.deploy import latency as workflow
    from codir.runs.progress import quiet_libraries

    quiet_libraries()
    workflow.latency(
        models,
        data,
        engines.split(",") if engines is not None else None,
        use_run_data=not no_data,
        batch=batch,
        max_length=max_length,
        rounds=rounds,
        sequences=sequences,
        threads=threads,
        device=device,
        memory=memory,
        output=output,
        overwrite=overwrite,
    )
