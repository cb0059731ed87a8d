"""`codir latency`: what a model gains where it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codir.cli import options as o
from codir.cli.reporting import reports_errors


@reports_errors
def latency(
    ctx: typer.Context,
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
    task: o.Task = None,
    data_dir: o.DataDir = None,
    validation: o.Validation = None,
    text: o.TextColumn = None,
    text_pair: o.TextPairColumn = None,
    batch: Annotated[int, typer.Option("--batch", help="sequences in a batch", metavar="N")] = 32,
    max_length: Annotated[
        int, typer.Option("--max-length", help="tokens to pad to, and to cut at", metavar="TOKENS")
    ] = 128,
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

    Texts are the task's or the file's validation texts; without either, made-up sentences.

    Example: codir latency runs/teacher runs/student --engines torch,openvino --task sst2 --output latency.json
    """
    from codir.recipes.config import DataConfig
    from codir.recipes.loading import Settings, build

    settings = Settings()
    for path, (flag, value) in o.given(ctx.params).items():
        section, _, key = path.partition(".")
        if section == "data" and key != "max_length":
            settings.set((key,), value, flag)
    data = build(DataConfig, settings) if settings.values else None
    from codir.workflows import latency as workflow
    from codir.workflows.progress import quiet_libraries

    quiet_libraries()
    workflow.latency(
        models,
        data,
        engines.split(",") if engines is not None else None,
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
