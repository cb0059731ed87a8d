"""What a run was begun with: its settings, data and models, so that a resume with others is refused.

The settings stand in `codir.yaml`; `fingerprint.json` holds the digests of everything that a run reads from outside of
its folder. A path is no part of it, nor is the version of a library: what was moved is still the same.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import xxhash
import yaml
from huggingface_hub import try_to_load_from_cache

from codir.config.loading import resolved_yaml
from codir.data.task import TaskData
from codir.errors import CodirError, RunError
from codir.files import file_digest, read_json, write_json, write_text
from codir.models.inference import TokenColumns
from codir.models.loading import resolve
from codir.printing import Console
from codir.record.environment import environment
from codir.record.runfolder import RunFolder
from codir.teacher.store import NOT_CONTENT, data_digest
from codir.training.arguments import resolve_precision
from codir.training.processes import broadcast_text, is_main

if TYPE_CHECKING:
    from datasets import Dataset

    from codir.config.config import RunConfig
    from codir.config.pretraining import PretrainConfig

Part = dict[str, Any]
"""What is known of one part: `from`, its path for people, and digests and counts by name."""

TRAINING = "training data"
# What it says of a part that differs; the first that differs says it all, since the others follow from it.
_WORDS = {
    "rows": "{before:,} examples then, {now:,} now",
    "texts": "other texts, or in another order",
    "labels": "other labels",
    "classes": "the classes {before} then, {now} now",
    "content": "other blocks of text",
    "weights": "other weights",
    "config": "another config.json",
    "tokens": "the tokenizer makes other tokens of the same texts",
}
# Settings that say where to write, not what is computed: a run and its resumption may differ in them.
_MAY_DIFFER = ("output", "resume", "cache_dir", "training.report_to")
# Settings that say where something lies whose content the fingerprint knows: it may have been moved.
_PLACES = ("model", "teacher", "corpus", "student.model", "student.origin", "student.config")
_PLACES += ("data.data_dir", "data.train", "data.validation", "data.unlabeled")


@contextlib.contextmanager
def opened(
    config: RunConfig | PretrainConfig, parts: Callable[[], Mapping[str, Part]], console: Console
) -> Iterator[RunFolder]:
    """Holds the run folder of a configuration for the block, and makes sure that a run in it has the same settings.

    A run that is `finished` is compared as a whole, and its results are what is asked for. Of several processes the
    first one holds the folder, checks and writes, and the others follow.

    Args:
        config: The configuration of this call.
        parts: Reads data and models. They are asked for where the run is finished, and if they are gone, or the Hub is
            out of reach, and they are named as they were, they are not compared.
        console: Where to say in which state the run is.

    Raises:
        RunError: in every process, as `RunFolder.open`; or the run has other settings, or is finished and has other
            data or models.
    """
    if not is_main():
        if reason := broadcast_text(""):
            raise RunError(reason)
        yield RunFolder(config.output)
        return
    with contextlib.ExitStack() as stack:
        try:
            run = stack.enter_context(RunFolder.open(config.output, config.resume))
            differing, moved = differing_settings(run, config)
            if differing:
                raise RunError(
                    f"{run.path} holds a run of another configuration:\n"
                    + "\n".join(differing)
                    + "\nGive the settings it was started with, or choose another --output."
                )
            if run.finished:
                try:
                    now = parts()
                except CodirError:
                    if moved:
                        raise
                else:
                    require_same(run, now)
                console.print(f"{run.path} is finished; nothing to resume.", highlight=False)
            elif run.reopened:
                console.print(run.reopened, highlight=False)
        except CodirError as error:
            broadcast_text(str(error))
            raise
        broadcast_text("")
        yield run


def begin(run: RunFolder, config: RunConfig | PretrainConfig, parts: Mapping[str, Part], **settings: Any) -> None:
    """Makes the folder a run: writes `fingerprint.json`, then `codir.yaml` and `environment.json`.

    Before that a refusal leaves a folder that the corrected command can have. A run that goes on is compared, and paths
    of data and models that were moved since are written anew.

    Raises:
        RunError: there is a run of other data or models.
    """
    if run.config.is_file():
        require_same(run, parts)
    else:
        write_json(run.fingerprint, {"parts": parts})
    if not run.config.is_file() or differing_settings(run, config)[1]:
        write_text(run.config, resolved_yaml(config))
    training = config.training
    write_json(run.environment, environment(training.seed, resolve_precision(training.precision), **settings))


def differing_settings(run: RunFolder, config: RunConfig | PretrainConfig) -> tuple[list[str], bool]:
    """Compares `codir.yaml`, where there is one, with the configuration given now.

    Returns:
        A line for each setting that differs, with both values; whether data or models were moved, which is no
        difference where the run's fingerprint knows them.

    Raises:
        RunError: `codir.yaml` is damaged.
    """
    if not run.config.is_file():
        return [], False  # stopped before it was written: nothing was computed under another configuration
    try:
        before = _flat(yaml.safe_load(run.config.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{run.config} is damaged, so the run cannot be resumed: {error}") from error
    now = _flat(yaml.safe_load(resolved_yaml(config)))
    # null, and not there, are the same
    keys = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    moved = [key for key in keys if key in _PLACES and None not in (before.get(key), now.get(key))]
    allowed = _MAY_DIFFER + (tuple(moved) if run.fingerprint.is_file() else ())
    lines = [
        f"  {key}: {before.get(key, '(not set)')!r} there, {now.get(key, '(not set)')!r} now"
        for key in keys
        if not any(key == each or key.startswith(f"{each}.") for each in allowed)
    ]
    return lines, run.fingerprint.is_file() and bool(moved)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns `{"training.learning_rate": 1e-05, ...}` for nested mappings; lists are values."""
    if not isinstance(value, dict) or (prefix and not value):
        return {prefix: value} if prefix else {}
    parts = (_flat(inner, f"{prefix}.{key}" if prefix else str(key)) for key, inner in value.items())
    return {key: inner for part in parts for key, inner in part.items()}


def require_same(run: RunFolder, parts: Mapping[str, Part]) -> None:
    """Makes sure that the run here was begun with what is given now; a run that has not begun was begun with nothing.

    What one of both does not know is not compared.

    Raises:
        RunError: names every part that differs, with the way out.
    """
    if not run.config.is_file() or not run.fingerprint.is_file():
        return
    try:
        before = {str(name): dict(part) for name, part in read_json(run.fingerprint)["parts"].items()}
    except (RunError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run.fingerprint} is damaged, so it cannot be said whether data and models are still those that the run "
            "was begun with. If you are sure that they are, delete that file; else choose another --output."
        ) from error
    differing = []
    for name, now in parts.items():
        then = before.get(name, {})
        known = [key for key in _WORDS if key in now and key in then]
        key = next((key for key in known if now[key] != then[key]), None)
        if key is not None:
            source = f" ({now['from']})" if "from" in now else ""
            differing.append(f"  {name}{source}: {_WORDS[key].format(before=then[key], now=now[key])}")
        # of a Hub model that is not in the cache nothing is known but its name: then that decides
        elif then and not known and then.get("from") != now.get("from"):
            differing.append(f"  {name}: {then.get('from')} then, {now.get('from')} now")
    if differing:
        raise RunError(
            f"{run.path} cannot be resumed, since what it was begun with has changed:\n"
            + "\n".join(differing)
            + "\nRestore it as it was, or begin anew with another --output."
        )


# ---- the parts -------------------------------------------------------------------------------------------------------


def model_part(named: str | Path) -> Part:
    """Describes a model by its weights' files and what its config.json says, as far as they are on this machine.

    Args:
        named: folder or Hub id.

    Raises:
        ModelError: it is a path, and there is no model folder.
    """
    folder = resolve(named)
    if isinstance(folder, str):
        cached = try_to_load_from_cache(folder, "config.json")
        if not isinstance(cached, str):
            return {"from": str(named)}
        folder = Path(cached).parent
    part = config_part(folder) | {"from": str(named)}
    with contextlib.suppress(OSError):  # whoever loads it says what is wrong
        if weights := sorted(folder.glob("model*.safetensors")):
            part["weights"] = "+".join(map(file_digest, weights))
    return part


def config_part(path: Path) -> Part:
    """Describes a model's config: the file, or the one in the folder."""
    path = path.expanduser()
    path = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        # the order of the classes decides which output is compared with which
        kept = {key: each for key, each in content.items() if key == "id2label" or key not in NOT_CONTENT}
    except (OSError, ValueError, AttributeError):
        return {"from": str(path)}  # whoever reads it says what is wrong
    return {"from": str(path), "config": _digest([json.dumps(kept, sort_keys=True)])}


def data_parts(data: TaskData) -> dict[str, Part]:
    """Describes every split of a task as it is used: its rows, texts and labels, in their order."""
    source = {"from": data.source or data.task.name}
    classes = {} if data.task.labels is None else {"classes": ", ".join(data.task.labels)}
    splits = {TRAINING: data.train}
    splits |= {f"validation data ({name})": split for name, split in data.validation.items()}
    parts = {name: source | _split(split) | classes for name, split in splits.items() if split is not None}
    if data.unlabeled is not None:
        parts["texts without labels"] = _split(data.unlabeled)
    return parts


def with_tokens(parts: Mapping[str, Part], encoded: Dataset) -> dict[str, Part]:
    """Returns the parts with the tokens of the encoded training split, the teacher's own as well."""
    prefixes = [each for each in ("", "teacher_") if f"{each}input_ids" in encoded.column_names]
    tokens = "+".join(data_digest(TokenColumns.read(encoded, prefix)) for prefix in prefixes)
    return {**parts, TRAINING: {**parts[TRAINING], "tokens": tokens}}


def _split(split: Dataset) -> Part:
    # of a subset; reading it through the data set takes 45 s for a million rows, this 1 s
    chosen = split._indices

    def digest(name: str) -> str:
        column: pa.ChunkedArray = split.data.column(name)
        column = column if chosen is None else column.take(chosen.column(0))
        return _digest(value for chunk in column.chunks for value in chunk.to_pylist())

    texts = [digest(name) for name in ("text", "text_pair") if name in split.column_names]
    part: Part = {"rows": len(split), "texts": "+".join(texts)}
    return part | {"labels": digest("label")} if "label" in split.column_names else part


def _digest(values: Iterator[Any] | list[Any]) -> str:
    digest = xxhash.xxh3_128()
    for value in values:
        digest.update(f"{value!r}\n".encode())
    return digest.hexdigest()
