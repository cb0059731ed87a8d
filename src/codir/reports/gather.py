"""From a folder to what its report shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from codir.errors import ConfigError
from codir.reports.contents import Report
from codir.reports.gather_run import gather_run
from codir.reports.gather_study import gather_study
from codir.reports.wishes import Wishes
from codir.studies.results import is_study


def gather(
    folder: str | Path,
    *,
    latency: str | Path | None = None,
    exported: Sequence[str | Path] = (),
    data_dir: str | Path | None = None,
    examples: int = 1000,
    models: bool = True,
) -> Report:
    """Gathers what there is to show of a run or a study. Nothing is written, no lock is taken.

    Args:
        folder: a run folder of `codir distill`, `finetune` or `pretrain`, or a study's folder; also unfinished.
        latency: file of `codir latency --output`; by default `latency.json` in the folder, if it is there.
        exported: folders of `codir export` to be shown beside.
        data_dir: folder of the task's data, instead of the one that the run names.
        examples: validation examples that each model is run over once, at most.
        models: False runs no model; what needs one is missing then.

    Raises:
        RunError: the folder is neither a run nor a study, or a file that was named cannot be used.
        ConfigError: `examples` is below 2.
    """
    path = Path(folder).expanduser()
    if examples < 2:
        raise ConfigError(f"--examples {examples}: give at least 2, or --no-models to run no model.")
    wishes = Wishes(
        latency=None if latency is None else Path(latency),
        exported=[Path(each) for each in exported],
        data_dir=None if data_dir is None else Path(data_dir),
        examples=examples,
        models=models,
    )
    return gather_study(path, wishes) if is_study(path) else gather_run(path, wishes)
