"""Cache entries on disk: found by content, whole or not there, and checked when they are opened.

An entry is a folder of .npy files, named by the key of what it was computed from. It is built in a temporary folder
(`codir.files`) under the key's lock: every file is synced, then the manifest with the size and digest of each is
written, then the folder is renamed. So an entry without a manifest that fits is damaged, and what a killed process left
is swept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import xxhash
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from codir.errors import RunError
from codir.files import require_disk, sweep, temporary_folder, try_lock, unlock, write_json
from codir.manifest import entry as facts_of
from codir.manifest import fault_by
from codir.models.batches import TokenColumns
from codir.models.probe import behaviour

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


# ---- the key: a digest of everything the teacher's outputs depend on -----------------------------------------------


def model_digest(model: PreTrainedModel) -> str:
    """Returns a digest of a model's class, configuration, weights and buffers (about 0.1 s for 0.5 GB)."""
    digest = xxhash.xxh3_128()
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_CONTENT}
    header = json.dumps(config, sort_keys=True, default=str)
    digest.update(f"{type(model).__name__}\n{header}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


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


def fault_of(entry: Path, only: Collection[str] | None = None) -> str | None:
    """Reads all files of an entry once, or `only` some; returns what is wrong with them, or None if they are whole."""
    return fault_by(entry / MANIFEST, only)


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
                report(
                    f"Another process is computing the same teacher's outputs in {folder}; waiting for it."
                )
                told = True
            time.sleep(0.1)
    try:
        yield
    finally:
        unlock(handle)


@contextlib.contextmanager
def new_entry(folder: Path, name: str, needed: int, damaged: Collection[Path]) -> Iterator[EntryWriter]:
    """Gives the writer of one entry; the caller holds the lock of its key.

    Damaged entries of that key, and what killed processes left, go first. If the block raises, nothing is left.

    Raises:
        RunError: the disk is too small for `needed` bytes, or something damaged cannot be removed.
    """
    for entry in damaged:
        try:
            shutil.rmtree(entry)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise RunError(
                f"The damaged cache {entry} cannot be removed: {error.strerror or error}. Remove it yourself, or "
                "choose another cache folder (CODIR_CACHE)."
            ) from error
    sweep(folder)
    require_disk(folder, needed, "the teacher's cache")
    with temporary_folder(folder) as place:
        yield EntryWriter(place, folder / name)


class EntryWriter:
    """One entry under construction: `create` its arrays, fill them, then `finish`."""

    def __init__(self, place: Path, target: Path):
        self.place, self.target = place, target
        self.arrays: dict[str, np.memmap] = {}

    def create(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.memmap:
        """Makes the file `name`.npy with its space on the disk reserved, and returns it as a writable memory map.

        Raises:
            RunError: the disk is full. (Without the reservation a full disk would kill the process later, with SIGBUS.)
        """
        path = self.place / f"{name}.npy"
        try:
            array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            if hasattr(os, "posix_fallocate"):
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise RunError(
                f"Cannot write the cache file {path}: {error.strerror or error}. Free some space, choose another "
                "cache folder (CODIR_CACHE), or go without (--no-cache)."
            ) from error
        self.arrays[name] = array
        return array

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Syncs all files, writes the manifest with `facts` in it, and puts the entry in its place."""
        files: dict[str, Any] = {}
        for name, array in self.arrays.items():
            array.flush()
            path = self.place / f"{name}.npy"
            _sync(path)
            files[path.name] = {**facts_of(path), "shape": list(array.shape)}
        self.arrays.clear()
        write_json(self.place / MANIFEST, {**facts, "files": files})
        os.chmod(self.place, 0o755)  # a temporary folder is private; a cache may be shared
        _sync(self.place)
        try:
            os.rename(self.place, self.target)
        except OSError as error:
            if fault_of(self.target) is not None:
                raise RunError(f"Cannot put the cache entry {self.target} in its place: {error}.") from error
        _sync(self.target.parent)


def _sync(path: Path) -> None:
    """Makes sure a file's or folder's content is on the disk (folders cannot be synced on Windows)."""
    with contextlib.suppress(PermissionError, IsADirectoryError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
