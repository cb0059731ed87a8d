"""Cache entries on disk: found by content, whole or not there, and checked when they are opened.

An entry is a folder of .npy files, named by the key of what it was computed from. It is built in a temporary folder
under the key's lock: every file is synced, then the manifest with the size and digest of each is written, then the
folder is renamed. So an entry without a manifest that fits is damaged, and what a killed process left is swept.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import xxhash
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir import manifest
from codir.errors import RunError
from codir.files import remove, require_disk, sweep, temporary_folder, try_lock, unlock, write_json
from codir.models.check import behaviour
from codir.models.inference import TokenColumns

FORMAT = 2
"""Version of the files' layout; raise it when that changes. Entries of other versions are not looked at."""

MANIFEST = "manifest.json"

# Neither the folder a model was loaded from, nor the version that saved it, nor the names of its classes change what it
# computes (their number is in the shape of the weights).
NOT_CONTENT = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"),
    *("id2label", "label2id", "problem_type"),
)

Report = Callable[[str], None]
CreateArray = Callable[[str, tuple[int, ...], Any], np.memmap]


# ---- the key: a digest of everything the teacher's outputs depend on -----------------------------------------------


def model_digest(model: PreTrainedModel) -> str:
    """Returns a digest of a model's class, configuration, weights and buffers (about 0.1 s for 0.5 GB)."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_CONTENT}
    digest = xxhash.xxh3_128(f"{type(model).__name__}\n{json.dumps(config, sort_keys=True, default=str)}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel():
            flat = tensor.detach().to("cpu").contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def data_digest(columns: TokenColumns) -> str:
    """Returns a digest of ids, token ids, masks and token types, whatever integer type they are stored in."""
    digest = xxhash.xxh3_128()
    for name, array in {"ids": columns.ids, "offsets": columns.offsets, **columns.values}.items():
        digest.update(f"{name} {len(array)}\n".encode())
        for start in range(0, len(array), 1 << 22):  # in pieces, so that no second copy of everything is made
            digest.update(np.ascontiguousarray(array[start : start + (1 << 22)], dtype=np.int64).data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a digest of vocabulary, rules and padding, but not of the truncation and padding last asked for."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content: dict[str, Any] = {
        "special": {name: str(value) for name, value in tokenizer.special_tokens_map.items()},
        "pad": [tokenizer.pad_token_id, tokenizer.pad_token_type_id, tokenizer.padding_side],
    }
    if backend is not None:
        rules = json.loads(backend.to_str())
        content["rules"] = {name: rules[name] for name in rules if name not in ("truncation", "padding")}
    else:
        content["vocabulary"] = tokenizer.get_vocab()
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def cache_key(
    model: PreTrainedModel,
    columns: TokenColumns,
    tokenizer: PreTrainedTokenizerBase,
    autocast: torch.dtype | None,
) -> tuple[str, dict[str, Any]]:
    """Returns the key of a teacher's outputs, and the parts it was made of (for the manifest).

    The minor version of transformers is one of them: a release can mend the mathematics of a model.
    """
    parts = {
        "format": FORMAT,
        "teacher": model_digest(model),
        "data": data_digest(columns),
        "tokenizer": tokenizer_digest(tokenizer),
        "precision": str(autocast or "weights"),
        "padding": behaviour(model, tokenizer.pad_token_id).padded,
        "transformers": ".".join(transformers.__version__.split(".")[:2]),
    }
    return xxhash.xxh3_128(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20], parts


# ---- entries -------------------------------------------------------------------------------------------------------


def default_cache_folder() -> Path:
    """Returns the folder named by CODIR_CACHE, or ~/.cache/codir."""
    return Path(os.environ.get("CODIR_CACHE") or Path.home() / ".cache" / "codir").expanduser()


@contextlib.contextmanager
def building_lock(folder: Path, key: str, report: Report) -> Iterator[None]:
    """Holds the lock of a key's entries, after waiting (and saying so) for another process that computes them.

    The lock is the operating system's and ends with the process. Where there are none (Windows, some network disks) two
    builders both work, and the first one's rename counts.
    """
    told = False
    while True:
        try:
            handle = try_lock(folder / f".lock-{key}", make=True)
            break
        except BlockingIOError:
            if not told:
                report(f"Another process is computing the same teacher's outputs in {folder}; waiting for it.")
                told = True
            time.sleep(0.1)
    try:
        yield
    finally:
        unlock(handle)


@contextlib.contextmanager
def new_entry(
    folder: Path, name: str, needed: int, facts: dict[str, Any], damaged: Collection[Path] = ()
) -> Iterator[CreateArray]:
    """Gives a function that makes the arrays of one entry; after the block the entry is put in its place, synced.

    The caller holds the lock of its key. Damaged entries of that key, and what killed processes left, go first. If the
    block raises, nothing is left.

    Args:
        folder: where the entry is put.
        name: the entry's.
        needed: its bytes.
        facts: what its manifest says beside its files.
        damaged: entries to remove.

    Raises:
        RunError: the disk is too small, or something damaged cannot be removed.
    """
    for entry in damaged:
        remove(entry)
        if entry.exists():
            raise RunError(
                f"The damaged cache {entry} cannot be removed. Remove it yourself, or choose another cache folder "
                "(CODIR_CACHE)."
            )
    sweep(folder)
    require_disk(folder, needed, "the teacher's cache")
    arrays: dict[Path, np.memmap] = {}
    with temporary_folder(folder) as place:

        def create(name: str, shape: tuple[int, ...], dtype: Any) -> np.memmap:
            path = place / f"{name}.npy"
            try:
                arrays[path] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
                # Without space of its own a file on a full disk would kill the process later, with SIGBUS.
                if hasattr(os, "posix_fallocate"):
                    with open(path, "r+b") as file:
                        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError as error:
                raise RunError(
                    f"Cannot write the cache file {path}: {error.strerror or error}. Free some space, choose another "
                    "cache folder (CODIR_CACHE), or go without (--no-cache)."
                ) from error
            return arrays[path]

        yield create
        for path, array in arrays.items():
            array.flush()
            _sync(path)
        arrays.clear()
        write_json(place / MANIFEST, {**facts, "files": manifest.entries(place)})
        os.chmod(place, 0o755)  # a temporary folder is private; a cache may be shared
        _sync(place)
        target = folder / name
        try:
            os.rename(place, target)
        except OSError as error:  # without locks another process may have been faster
            if manifest.fault_by(target / MANIFEST) is not None:
                raise RunError(f"Cannot put the cache entry {target} in its place: {error}.") from error
        _sync(folder)


def _sync(path: Path) -> None:
    """Makes sure a file's or folder's content is on the disk (folders cannot be synced on Windows)."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
