"""What a model's folder says of its inputs: how long, which columns, pairs or not, in which encoding.

A run folder says it in `codir.yaml`, for its checkpoints and comparison students as well, an exported folder in its
manifest. Whatever runs a model on data asks here for what it was not told. A model made elsewhere says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from transformers.utils.hub import cached_file

from codir.config.config import DataConfig
from codir.data import BUILT_IN
from codir.data.glue import glue_task
from codir.data.reading import DELIMITERS, FORMATS, read_rows
from codir.engines.folder import Manifest, is_deployed
from codir.errors import CodirError, ConfigError, ModelError
from codir.models.loading import resolve
from codir.record.data import DEFAULT_LABEL, DEFAULT_TEXT, DEFAULT_TEXT_PAIR

CONFIG = "codir.yaml"
INPUTS = (
    "inputs.json"  # of a comparison student: the section `data`, for when its folder is taken out of the run
)
_COLUMNS = {"text": DEFAULT_TEXT, "text_pair": DEFAULT_TEXT_PAIR, "label": DEFAULT_LABEL}
_KNOWN = ("max_length", "task", *_COLUMNS, "encoding", "delimiter")


@dataclass(frozen=True)
class RunInputs:
    """What is known of a model's inputs; None is for what is not known, or was not set.

    Attributes:
        source: the file that says it.
        max_length: tokens that texts are cut to.
        task: the task by name that the model was trained on.
        text, text_pair, label: columns of the files that it was trained on.
        encoding, delimiter: of these files.
        pairs: whether its examples are pairs of texts.
        command: that made the run.
        damage: why the file cannot be read.
    """

    source: Path
    max_length: int | None = None
    task: str | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    pairs: bool | None = None
    command: str | None = None
    damage: str | None = None

    def values(self) -> dict[str, Any]:
        """Returns what is known, as it goes into the manifest of an export."""
        found = {name: getattr(self, name) for name in (*_KNOWN, "pairs")}
        return {name: value for name, value in found.items() if value is not None}

    def require_pairs(self, pairs: bool, model: str | Path, what: str, way: str) -> None:
        """Refuses single texts for a model of pairs, and pairs for one of single texts.

        Args:
            pairs: whether the examples are pairs.
            model: as it was named.
            what: names the examples: `The task sst2`.
            way: what to do about it.

        Raises:
            ConfigError: they are of the other kind.
        """
        if self.pairs is None or self.pairs == pairs:
            return
        trained, given = (
            ("pairs of texts", "single texts") if self.pairs else ("single texts", "pairs of texts")
        )
        raise ConfigError(f"{model} was trained on {trained} ({self.source}), and {what} {given}: {way}")

    def for_file(self, path: str | Path, given: Mapping[str, Any], model: str | Path) -> dict[str, Any]:
        """Returns what holds for a file of texts beside what was given: columns, encoding, delimiter.

        A column that the file does not have gives way to the usual one (`text`, `text_pair`, `label`), and so do an
        encoding and a delimiter that are not those of the file.

        Args:
            path: the file, or a data set on the Hub.
            given: what was named; the names of the columns that are wanted must be there, with None for unnamed ones.
            model: as it was named.

        Raises:
            ConfigError: single texts for a model of pairs, or pairs for one of single texts.
            DataError: the file cannot be read.
        """
        if given.get("text_pair") is not None:
            self.require_pairs(True, model, f"{path} is to be read as", "leave out --text-pair.")
        ending = Path(path).suffix.lower()
        found: dict[str, Any] = {}
        if ending in FORMATS and ending != ".parquet" and self.encoding and not given.get("encoding"):
            found |= {} if _is_utf8(Path(path)) else {"encoding": self.encoding}
        if ending == ".txt":
            self.require_pairs(
                False, model, f"{path} holds", f"give a file with columns ({', '.join(FORMATS[:-1])})."
            )
            return found
        if ending in DELIMITERS and self.delimiter and not given.get("delimiter"):
            encoding = given.get("encoding") or found.get("encoding") or "utf-8"
            found |= _delimiter(Path(path), self.delimiter, DELIMITERS[ending], encoding)
        wanted = [name for name in _COLUMNS if name in given and given[name] is None]
        if not self.pairs:
            wanted = [name for name in wanted if name != "text_pair"]
        own = {name: getattr(self, name) or _COLUMNS[name] for name in wanted}
        if not own or (own.items() <= _COLUMNS.items() and "text_pair" not in own):
            return found
        have = _columns(path, {**given, **found}, [*own.values(), *(_COLUMNS[name] for name in own)])
        for name, column in own.items():
            usual = _COLUMNS[name]
            found[name] = usual if have is not None and column not in have and usual in have else column
        second = found.get("text_pair")
        if have is not None and second is not None and second not in have:
            raise ConfigError(
                f"{model} was trained on pairs of texts ({self.source}), and {path} has no column {second!r} for the "
                "second one: name it with --text-pair."
            )
        return found

    def words(self, used: Mapping[str, Any]) -> str | None:
        """Returns one line on what was taken from here; None if nothing was."""
        if self.damage is not None:
            return f"What {self.source} says of the model's inputs is not used: the file is damaged ({self.damage})."
        parts = []
        if "max_length" in used:
            parts.append(f"texts cut at {used['max_length']} tokens")
        if columns := [repr(used[name]) for name in ("text", "text_pair") if name in used]:
            parts.append(f"column{'s' * (len(columns) > 1)} {' and '.join(columns)}")
        parts += [f"{name} {used[name]!r}" for name in ("label", "encoding", "delimiter") if name in used]
        return f"As in {self.source}: {', '.join(parts)}." if parts else None


def inputs_of(model: str | Path) -> RunInputs | None:
    """Returns what a model's folder says of its inputs; None if it says nothing.

    Args:
        model: run folder, checkpoint or comparison student in one, exported folder, or Hub id of a published run.
    """
    folder = Path(model).expanduser()
    if is_deployed(folder):
        return _of_export(folder)
    path = described_in(folder) or next((each for each in [folder / INPUTS] if each.is_file()), None)
    if path is None and not folder.exists():
        path = _on_hub(model)
    return None if path is None else _read(path)


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


def fill(model: str | Path, data: DataConfig) -> tuple[DataConfig, str | None]:
    """Returns data with what was not set in them as the model's folder says, and a line on what that is.

    Raises:
        ConfigError: single texts for a model of pairs, or pairs for one of single texts.
        DataError: a file cannot be read.
    """
    inputs = inputs_of(model)
    if inputs is None:
        return data, None
    used: dict[str, Any] = {}
    if "max_length" not in data.model_fields_set and inputs.max_length is not None:
        used["max_length"] = inputs.max_length
    if data.task is not None:
        pairs = _pairs_of(data.task)
        if pairs is not None:
            inputs.require_pairs(pairs, model, f"the task {data.task} has", "name a task of the same kind.")
    else:
        path = data.validation or data.train
        assert path is not None, "the configuration makes sure"
        given = {name: getattr(data, name) for name in (*_COLUMNS, "encoding", "delimiter")}
        used |= inputs.for_file(path, given, model)
    return data.model_copy(update=used), inputs.words(used)


def _read(path: Path) -> RunInputs | None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if content.get("command") == "pretrain":
            return None
        section = content["data"]
        known = {name: section[name] for name in _KNOWN if section.get(name) is not None}
        return replace(_made(path, known), command=content.get("command"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        return RunInputs(path, damage=type(error).__name__)


def _made(path: Path, known: Mapping[str, Any]) -> RunInputs:
    task = known.get("task")
    pairs = known.get("pairs", _pairs_of(str(task)) if task is not None else "text_pair" in known)
    length = known.get("max_length")
    texts = {name: str(known[name]) for name in _KNOWN if name in known and name != "max_length"}
    return RunInputs(path, length if isinstance(length, int) else None, pairs=pairs, **texts)


def _of_export(folder: Path) -> RunInputs | None:
    try:
        manifest = Manifest.read(folder)
    except ModelError:
        return None  # whoever loads it says what is wrong
    path = folder / "deployment.json"
    if isinstance(manifest.reads, dict):
        known = {"task": manifest.task, **manifest.reads}
        if known.get("max_length") is not None:
            known["max_length"] = manifest.max_length  # no more than the model has positions for
        return _made(
            path, {"pairs": None, **{name: each for name, each in known.items() if each is not None}}
        )
    # of an older version: the run it was made from, if that is still there
    above = described_in(Path(manifest.source).expanduser())
    found = _read(above) if above is not None else None
    if manifest.task is None:  # then its length may be just what the model has positions for
        return found
    found = found or RunInputs(path, pairs=_pairs_of(manifest.task))
    return replace(found, max_length=manifest.max_length, task=manifest.task)


def _on_hub(model: str | Path) -> Path | None:
    try:
        source = resolve(model)
        quietly = {
            f"_raise_exceptions_for_{what}": False
            for what in ("missing_entries", "gated_repo", "connection_errors")
        }
        found = None if isinstance(source, Path) else cached_file(source, CONFIG, **quietly)
    except (OSError, ValueError, CodirError):
        return None  # whoever loads the model says what is wrong
    return None if found is None else Path(found)


def _pairs_of(task: str) -> bool | None:
    if task.lower() == BUILT_IN:
        return False
    found = glue_task(task)
    return None if found is None else found.pairs


def _is_utf8(path: Path) -> bool:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    except OSError:
        pass  # whoever reads it says what is wrong
    return True


def _delimiter(path: Path, own: str, usual: str, encoding: str) -> dict[str, str]:
    """Returns a run's delimiter, unless the header is one that only the usual one divides."""
    try:
        with path.open(encoding=encoding, errors="replace") as file:
            header = file.readline()
    except (OSError, LookupError):
        header = ""
    return {} if usual in header and own not in header else {"delimiter": own}


def _columns(path: str | Path, given: Mapping[str, Any], names: Sequence[str]) -> frozenset[str] | None:
    """Returns which of the columns a file has; None for a data set on the Hub."""
    if Path(path).suffix.lower() not in FORMATS:
        return None
    format = {name: given[name] for name in ("encoding", "delimiter") if given.get(name) is not None}
    return frozenset(read_rows(path, [], optional=[*dict.fromkeys(names)], **format).columns)
