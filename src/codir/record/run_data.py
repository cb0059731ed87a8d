"""What a model's folder says of the texts it reads, and of the data it was made with.

A run folder says it in `codir.yaml`, for its checkpoints and comparison students as well, an exported folder in its
manifest. Whatever runs a model on data asks here for what it was not told. A model made elsewhere says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers.utils.hub import cached_file

from codir.config.config import DataConfig
from codir.config.loading import Settings, build
from codir.data import BUILT_IN
from codir.data.glue import glue_task
from codir.data.reading import FORMATS, read_rows
from codir.engines.folder import Manifest, is_deployed
from codir.errors import CodirError, ConfigError, ModelError
from codir.models.loading import resolve
from codir.record.data import DEFAULT_LABEL, DEFAULT_TEXT, DEFAULT_TEXT_PAIR

CONFIG = "codir.yaml"
INPUTS = "inputs.json"
"""Of a comparison student: the section `data`, for when its folder is taken out of the run."""
_COLUMNS = {"text": DEFAULT_TEXT, "text_pair": DEFAULT_TEXT_PAIR, "label": DEFAULT_LABEL}
_DAMAGE = (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class RunInputs:
    """What is known of a model's inputs; None is for what is not known, or was not set."""

    model: str  # as it was named
    source: Path  # the file that says it
    max_length: int | None = None  # tokens that texts are cut to
    task: str | None = None  # the task by name that it was trained on
    text: str | None = None  # columns of the files that it was trained on
    text_pair: str | None = None
    label: str | None = None
    encoding: str | None = None  # of these files
    pairs: bool | None = None  # whether its examples are pairs of texts
    command: str | None = None  # that made the run
    damage: str | None = None  # why the file cannot be read

    def values(self) -> dict[str, Any]:
        """Returns what is known, as it goes into the manifest of an export."""
        hidden = ("model", "source", "command", "damage")
        return {name: value for name, value in asdict(self).items() if value is not None and name not in hidden}

    def require_pairs(self, pairs: bool, what: str, way: str) -> None:
        """Raises `ConfigError` for single texts and a model of pairs, or pairs and one of single texts.

        Args:
            pairs: whether the examples are pairs.
            what: names the examples: `The task sst2 has`.
            way: what to do about it.
        """
        if self.pairs is not None and self.pairs != pairs:
            trained, given = ("pairs of texts", "single texts")[:: 1 if self.pairs else -1]
            raise ConfigError(f"{self.model} was trained on {trained} ({self.source}), and {what} {given}: {way}")

    def for_file(self, path: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what holds for a file of texts beside what was given: its columns and its encoding.

        A column that the file does not have gives way to the usual one (`text`, `text_pair`, `label`).

        Args:
            path: the file, or a data set on the Hub.
            given: what was named; the names of the columns that are wanted must be there, with None for unnamed ones.

        Raises:
            ConfigError: single texts for a model of pairs, or pairs for one of single texts.
            DataError: the file cannot be read.
        """
        ending, found = Path(path).suffix.lower(), {}
        if given.get("text_pair") is not None:
            self.require_pairs(True, f"{path} is to be read as", "leave out --text-pair.")
        if self.encoding and not given.get("encoding") and ending in FORMATS and ending != ".parquet":
            found["encoding"] = self.encoding
        if ending == ".txt":
            self.require_pairs(False, f"{path} holds", f"give a file with columns ({', '.join(FORMATS[:-1])}).")
            return found
        second = (self.text_pair or DEFAULT_TEXT_PAIR) if self.pairs else None
        own = {"text": self.text, "text_pair": second, "label": self.label}
        own = {name: each for name, each in own.items() if each and name in given and given[name] is None}
        if ending not in FORMATS or not own:  # a data set on the Hub says itself what it has
            return found | own
        form = {name: {**given, **found}.get(name) for name in ("encoding", "delimiter")}
        have = read_rows(path, [], optional=[*own.values(), *_COLUMNS.values()], **form).columns
        for name, column in own.items():
            found[name] = _COLUMNS[name] if column not in have and _COLUMNS[name] in have else column
        if "text_pair" in own and found["text_pair"] not in have:
            way = f"name the second column with --text-pair ({found['text_pair']!r} is not there)."
            self.require_pairs(False, f"{path} has", way)
        return found

    def words(self, used: Mapping[str, Any]) -> str | None:
        """Returns one line on what was taken from here; None if nothing was."""
        if self.damage is not None:
            return f"What {self.source} says of the model's inputs is not used: the file is damaged ({self.damage})."
        parts = [f"texts cut at {used['max_length']} tokens"] if "max_length" in used else []
        if columns := [repr(used[name]) for name in ("text", "text_pair") if name in used]:
            parts.append(f"column{'s' * (len(columns) > 1)} {' and '.join(columns)}")
        parts += [f"{name} {used[name]!r}" for name in ("label", "encoding") if name in used]
        return f"As in {self.source}: {', '.join(parts)}." if parts else None


def inputs_of(model: str | Path) -> RunInputs | None:
    """Returns what a model's folder says of its inputs; None if it says nothing.

    Args:
        model: run folder, checkpoint or comparison student in one, exported folder, or Hub id of a published run.
    """
    folder = Path(model).expanduser()
    if is_deployed(folder):
        try:
            manifest = Manifest.read(folder)
        except ModelError:
            return None  # whoever loads it says what is wrong
        if manifest.reads is None and manifest.task is None:
            return None
        path, said = folder / "deployment.json", {"task": manifest.task, **(manifest.reads or {})}
        if manifest.reads is None or said.get("max_length") is not None:
            said["max_length"] = manifest.max_length  # no more than the model has positions for
    else:
        path = described_in(folder) or (folder / INPUTS if (folder / INPUTS).is_file() else None)
        if path is None and not folder.exists():
            path = _on_hub(model)
        if path is None:
            return None
        try:
            content = _content(path)
            said = {**content["data"], "command": content.get("command")}
        except _DAMAGE as error:
            return RunInputs(f"{model}", path, damage=type(error).__name__)
        if said["command"] == "pretrain":
            return None
    known = {name: said.get(name) for name in ("max_length", "task", *_COLUMNS, "encoding", "command", "pairs")}
    if known["pairs"] is None:
        known["pairs"] = _pairs_of(known["task"]) if known["task"] is not None else known["text_pair"] is not None
    return RunInputs(f"{model}", path, **known)


def _content(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _pairs_of(task: str) -> bool | None:
    found = glue_task(task)
    return found.pairs if found is not None else False if task.lower() == BUILT_IN else None


def _on_hub(model: str | Path) -> Path | None:
    errors = ("missing_entries", "gated_repo", "connection_errors")
    try:
        source = resolve(model)
        if isinstance(source, Path):
            return None
        found = cached_file(source, CONFIG, **{f"_raise_exceptions_for_{what}": False for what in errors})
    except (OSError, ValueError, CodirError):
        return None  # whoever loads the model says what is wrong
    return None if found is None else Path(found)


def first_inputs(models: Sequence[str | Path]) -> RunInputs | None:
    """Returns what the first of the models that says something says of its inputs."""
    return next((found for model in models if (found := inputs_of(model)) is not None), None)


def described_in(folder: Path) -> Path | None:
    """Returns the `codir.yaml` of a run, whether the folder is the run or one of its students or checkpoints."""
    for each in (folder, folder.absolute()):  # as it was named, unless that does not show what it lies in
        while not (each / CONFIG).is_file() and each.parent.name in ("comparison", "checkpoints"):
            each = each.parent.parent
        if (each / CONFIG).is_file():
            return each / CONFIG
    return None


# --- the data of a run


@dataclass(frozen=True)
class Chosen:
    """Data, and where the choice came from."""

    config: DataConfig | None = None  # what to load; None for no data
    run: Path | None = None  # the `codir.yaml` they are taken from; None where they were named
    words: str | None = None  # a line for the user on data that were not named, or on why there are none


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
        ConfigError: settings that do not fit together; settings of data without data; single texts for a model of
            pairs, or pairs for one of single texts.
        DataError: a file of named data cannot be read.
    """
    settings = {} if isinstance(data, DataConfig) else dict(data or {})
    if not isinstance(data, DataConfig):
        data = _build(settings) if _names_data(settings) else None
    if data is None:
        return _of_runs(models if use_run else (), settings)
    inputs, used = first_inputs(models), {}
    if inputs is None:
        return Chosen(data)
    if "max_length" not in data.model_fields_set and inputs.max_length is not None:
        used["max_length"] = inputs.max_length
    if data.task is None:
        path = data.validation or data.train
        assert path is not None, "the configuration makes sure"
        used |= inputs.for_file(path, {name: getattr(data, name) for name in (*_COLUMNS, "encoding", "delimiter")})
    elif (pairs := _pairs_of(data.task)) is not None:
        inputs.require_pairs(pairs, f"the task {data.task} has", "name a task of the same kind.")
    return Chosen(data.model_copy(update=used), words=inputs.words(used))


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


def find_near(folder: Path, path: str | Path) -> Path | None:
    """Finds a path that a run names: as it stands, or, if relative, in the run folder or a folder above it.

    A run is started from some folder and looked at from another one, or on another machine.
    """
    given = Path(path).expanduser()
    if given.exists() or given.is_absolute():
        return given if given.exists() else None
    above = folder.resolve()
    return next((place / given for place in (above, *above.parents) if (place / given).exists()), None)


def _names_data(settings: Mapping[str, Any]) -> bool:
    return any(settings.get(name) for name in ("task", "train", "validation"))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _build(named: Mapping[str, Any], run: Mapping[str, Any] | None = None, path: Path | None = None) -> DataConfig:
    settings = Settings()
    for name, value in (run or {}).items():
        settings.set((name,), value, str(path))
    for name, value in named.items():
        settings.set((name,), value, _flag(name))
    return build(DataConfig, settings)


def _of_runs(models: Sequence[str | Path], changes: Mapping[str, Any]) -> Chosen:
    """Returns the data of the first run folder, or export of one, that says them."""
    words = None
    for model in models:
        path = folder = Path(model).expanduser()
        try:
            path = described_in(Path(Manifest.read(folder).source).expanduser() if is_deployed(folder) else folder)
            if path is None:
                continue
            content = _content(path)
            section = content["data"]
            if content.get("command") == "pretrain" or not _names_data(section):
                continue
            # what is measured later is measured on validation data: unlabelled texts are not looked for, and beside
            # a task the format is theirs
            skipped = ["unlabeled", "limit_unlabeled"] + ["encoding", "delimiter"] * (section.get("task") is not None)
            run = {name: value for name, value in section.items() if value is not None and name not in skipped}
            for name in ("data_dir", "train", "validation"):
                if name in run and (place := find_near(path.parent, run[name])) is not None:
                    run[name] = str(place)
            config = _build(changes, run, path)
            return Chosen(config, path, f"Data: as in {path}: {describe(config)}.")
        except ModelError:
            continue  # whoever loads it says what is wrong
        except _DAMAGE as error:
            damage = f"the file is damaged ({type(error).__name__})"
            words = f"The data of {path} are not used: {damage}. Name the data, for example by --task."
    if alone := [_flag(name) for name in changes if name != "max_length"]:
        raise ConfigError(
            f"{', '.join(alone)}: of which data? Add --task sst2, or --validation dev.csv --text review --label stars."
        )
    return Chosen(words=words)
