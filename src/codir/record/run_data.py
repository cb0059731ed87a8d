"""The data a run was made with, so that what is measured later is measured on the same examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from codir.config.config import DataConfig
from codir.config.loading import Settings, build
from codir.engines.folder import Manifest, is_deployed
from codir.errors import ConfigError, ModelError
from codir.record.run_inputs import described_in, fill, inputs_of

_PLACES = ("data_dir", "train", "validation")
_SOURCES = ("task", "train", "validation")


@dataclass(frozen=True)
class Chosen:
    """Data, and where the choice came from.

    Attributes:
        config: what to load; None for no data.
        run: the `codir.yaml` they are taken from; None where they were named.
        words: a line for the user on data that were not named, or on why there are none.
    """

    config: DataConfig | None = None
    run: Path | None = None
    words: str | None = None


def find_near(folder: Path, path: str | Path) -> Path | None:
    """Finds a path that a run names: as it stands, or, if relative, in the run folder or a folder above it.

    A run is started from some folder and looked at from another one, or on another machine.
    """
    given = Path(path).expanduser()
    if given.exists():
        return given
    if given.is_absolute():
        return None
    above = folder.resolve()
    return next((place / given for place in (above, *above.parents) if (place / given).exists()), None)


def choose_data(
    models: Sequence[str | Path],
    data: DataConfig | Mapping[str, Any] | None,
    use_run: bool = True,
) -> Chosen:
    """Returns the data that were named, else those of the first model that is a run folder (or was exported from one).

    What is not set of named data (length, columns, encoding) is as the first model that says something of it has it.

    Args:
        models: model folders, Hub ids, exported folders.
        data: a whole configuration; or single settings, which win over those of the run.
        use_run: False: no data but those named.

    Raises:
        ConfigError: settings that do not fit together; settings of data without data.
    """
    if isinstance(data, DataConfig):
        return _as_trained(models, data)
    settings = dict(data or {})
    if any(settings.get(name) is not None for name in _SOURCES):
        return _as_trained(models, _build(settings))
    alone = [_flag(name) for name in settings if name != "max_length"]
    found = Chosen()
    for model in models if use_run else ():
        found = _of_run(Path(model).expanduser(), settings)
        if found.config is not None:
            return found
    if alone:
        raise ConfigError(
            f"{', '.join(alone)}: of which data? Add --task sst2, or --validation dev.csv --text review --label stars."
        )
    return found


def describe(data: DataConfig) -> str:
    """Returns the data in a few words: task or files, and what limits them."""
    if data.task is not None:
        words = data.task + (f" in {data.data_dir}" if data.data_dir is not None else "")
    else:
        words = ", ".join(str(each) for each in (data.train, data.validation) if each is not None)
    if data.holdout is not None:
        words += f", the {data.holdout:.4g} of the training data that is held out"
    if data.limit_validation is not None:
        words += f", {data.limit_validation:,} validation examples"
    return f"{words}, texts cut at {data.max_length} tokens"


def _as_trained(models: Sequence[str | Path], data: DataConfig) -> Chosen:
    for model in models:
        if inputs_of(model) is not None:
            config, words = fill(model, data)
            return Chosen(config, words=words)
    return Chosen(data)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _build(
    named: Mapping[str, Any], run: Mapping[str, Any] | None = None, path: Path | None = None
) -> DataConfig:
    settings = Settings()
    for name, value in (run or {}).items():
        settings.set((name,), value, str(path))
    for name, value in named.items():
        settings.set((name,), value, _flag(name))
    return build(DataConfig, settings)


def _of_run(folder: Path, changes: Mapping[str, Any]) -> Chosen:
    path = _described_in(folder)
    if path is None:
        return Chosen()
    folder = path.parent
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        section = content["data"]
        if content.get("command") == "pretrain" or not any(section.get(name) for name in _SOURCES):
            return Chosen()
        # what is measured later is measured on validation data: unlabelled texts are not looked for
        skipped = ["unlabeled", "limit_unlabeled"]
        if section.get("task") is not None:  # then they are of the unlabelled texts
            skipped += ["encoding", "delimiter"]
        settings = {
            name: value for name, value in section.items() if value is not None and name not in skipped
        }
        for name in _PLACES:
            if name in settings and (place := find_near(folder, settings[name])) is not None:
                settings[name] = str(place)
        config = _build(changes, settings, path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        return Chosen(
            words=f"The data of {path} are not used: the file is damaged ({type(error).__name__}). Name the data, for "
            "example by --task."
        )
    return Chosen(config, path, f"Data: as in {path}: {describe(config)}.")


def _described_in(folder: Path) -> Path | None:
    """Returns the `codir.yaml` of a run folder, or of the run that an export was made from."""
    if is_deployed(folder):
        try:
            folder = Path(Manifest.read(folder).source).expanduser()
        except ModelError:
            return None  # whoever loads it says what is wrong
    return described_in(folder)
