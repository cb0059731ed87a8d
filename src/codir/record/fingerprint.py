"""What a run was begun with: its data and models as they were, so that a resume with others is refused.

`fingerprint.json` holds the digests of everything that a run reads from outside of its folder; the settings stand
beside it in `codir.yaml`. A path is no part of it, nor is the version of a library: what was moved is still the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import xxhash
from huggingface_hub import try_to_load_from_cache

from codir.data.task import TaskData
from codir.errors import CodirError, RunError
from codir.files import file_digest, read_json, write_json
from codir.models.batches import TokenColumns
from codir.models.loading import resolve
from codir.teacher.store import NOT_CONTENT, data_digest

if TYPE_CHECKING:
    from datasets import Dataset

    from codir.record.runfolder import RunFolder

Part = dict[str, Any]
"""What is known of one part: `from`, its path for people, and digests and counts by name."""

_FORMAT = 1
TRAINING, CORPUS = "training data", "corpus"
CORPUS_FILE = "corpus.json"  # of a pre-training: which corpus, and how often the student has been over it
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


def model_part(named: str | Path) -> Part:
    """Describes a model by its weights' files and what its config.json says, as far as they are on this machine.

    Args:
        named: folder or Hub id.

    Raises:
        ModelError: it is a path, and there is no model folder.
    """
    source = resolve(named)

    def find(name: str) -> Path | None:
        if isinstance(source, Path):
            return path if (path := source / name).is_file() else None
        found = try_to_load_from_cache(source, name)
        return Path(found) if isinstance(found, str) else None

    part: Part = {"from": str(named)}
    index = find("model.safetensors.index.json")
    names = ["model.safetensors"]
    try:
        if find(names[0]) is None and index is not None:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [path for name in names if (path := find(name)) is not None]
        if len(files) == len(names):
            part["weights"] = "+".join(map(file_digest, files))
        if (path := find("config.json")) is not None:
            part["config"] = _config_digest(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # damaged: whoever loads it says what is wrong
    return part


def config_part(path: Path) -> Part:
    """Describes a student's config: the file, or the one in the folder."""
    path = path.expanduser()
    path = path / "config.json" if path.is_dir() else path
    try:
        return {"from": str(path), "config": _config_digest(path)}
    except (OSError, ValueError, AttributeError):
        return {"from": str(path)}  # whoever reads it says what is wrong


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


def require_same(run: RunFolder, parts: Mapping[str, Part]) -> None:
    """Makes sure that the run here was begun with what is given now; a run that has not begun was begun with nothing.

    What one of both does not know is not compared: a run from before there was a fingerprint goes on as it is.

    Raises:
        RunError: names every part that differs, with the way out.
    """
    before = _begun_with(run)
    differing = []
    for name, now in parts.items():
        then = before.get(name, {})
        for key, words in _WORDS.items():
            if key in now and key in then and now[key] != then[key]:
                source = f" ({now['from']})" if "from" in now else ""
                differing.append(f"  {name}{source}: {words.format(before=then[key], now=now[key])}")
                break
        else:
            # of neither is anything known but the path (a Hub model that is not in the cache): then that decides
            if (
                then
                and not (then.keys() & now.keys() & _WORDS.keys())
                and then.get("from") != now.get("from")
            ):
                differing.append(f"  {name}: {then.get('from')} then, {now.get('from')} now")
    if differing:
        raise RunError(
            f"{run.path} cannot be resumed, since what it was begun with has changed:\n"
            + "\n".join(differing)
            + "\nRestore it as it was, or begin anew with another --output."
        )


def require_same_still(run: RunFolder, resolved_yaml: str, parts: Callable[[], Mapping[str, Part]]) -> None:
    """Makes sure that a finished run is the one that is asked for, before its results are given for those of this call.

    Args:
        run: the finished run.
        resolved_yaml: the configuration of this call, as it would be written to `codir.yaml`.
        parts: reads data and models. Where they are gone, or the Hub is out of reach, and they are named as they were,
            they are not compared.

    Raises:
        RunError: it has other settings, data or models.
        CodirError: they are named otherwise than then, and cannot be read.
    """
    moved = run.check_same(resolved_yaml)
    try:
        now = parts()
    except CodirError:
        if moved:
            raise
        return
    require_same(run, now)


def begin(run: RunFolder, resolved_yaml: str, parts: Mapping[str, Part]) -> None:
    """Makes the folder a run: writes the fingerprint and then `codir.yaml`, or checks both where they are there.

    Raises:
        RunError: there is a run of other settings, data or models.
    """
    if run.config.is_file():
        require_same(run, parts)
    else:
        write_json(run.fingerprint, {"format": _FORMAT, "parts": parts})
    run.save_config(resolved_yaml)


def _begun_with(run: RunFolder) -> dict[str, Part]:
    if not run.config.is_file():
        return {}
    try:
        if not run.fingerprint.is_file():
            # a pre-training from before there were fingerprints names its corpus in a file of its own
            older = run.path / CORPUS_FILE
            return {CORPUS: {"content": read_json(older)["key"]}} if older.is_file() else {}
        parts = read_json(run.fingerprint)["parts"]
        return {str(name): dict(part) for name, part in parts.items()}
    except (RunError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{run.fingerprint} is damaged, so it cannot be said whether data and models are still those that the run "
            "was begun with. If you are sure that they are, delete that file; else choose another --output."
        ) from error


def _config_digest(path: Path) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    # the order of the classes decides which output is compared with which
    kept = {key: each for key, each in content.items() if key == "id2label" or key not in NOT_CONTENT}
    return xxhash.xxh3_128(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _split(split: Dataset) -> Part:
    # of a subset; reading it through the data set takes 45 s for a million rows, this 1 s
    chosen = split._indices

    def column(name: str) -> pa.ChunkedArray:
        whole = split.data.column(name)
        return whole if chosen is None else whole.take(chosen.column(0))

    texts = [column(name) for name in ("text", "text_pair") if name in split.column_names]
    part: Part = {"rows": len(split), "texts": "+".join(map(_digest, texts))}
    return part | {"labels": _digest(column("label"))} if "label" in split.column_names else part


def _digest(column: pa.ChunkedArray) -> str:
    """Digest of a column of texts or numbers, however it is cut into chunks."""
    values, lengths = xxhash.xxh3_128(), xxhash.xxh3_128()
    for chunk in column.chunks:
        if not (large := pa.types.is_large_string(chunk.type)) and not pa.types.is_string(chunk.type):
            values.update(np.ascontiguousarray(chunk.to_numpy(zero_copy_only=False)).data)
            continue
        _, offsets, texts = chunk.buffers()
        if not len(chunk) or texts is None:
            lengths.update(bytes(8 * len(chunk)))  # nothing but empty texts
            continue
        width = np.int64 if large else np.int32
        ends = np.frombuffer(offsets, width)[chunk.offset : chunk.offset + len(chunk) + 1]
        values.update(memoryview(texts)[ends[0] : ends[-1]])
        lengths.update(np.diff(ends).astype(np.int64).data)
    return values.hexdigest() + lengths.hexdigest()
