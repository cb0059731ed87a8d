"""The one manifest: the size and the digest of every file of a folder, written last, and what is wrong with a folder.

Checkpoints, cache entries, corpora, exported models and runs all have one, each beside what else their file says. In a
run it is `codir-manifest.json`: whoever reads the run asks here, so that a flipped bit is told and not computed with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from codir.errors import CodirError, ModelError, RunError
from codir.files import file_digest, is_trace, read_json, write_json

RUN_MANIFEST = "codir-manifest.json"
"""In the folder of a run: `files` of the model and its tokenizer, `results` of what was measured."""

EXPORT_MANIFEST = "deployment.json"

EXPORT_MARK = "codir_export"
"""Key in the header of weights that were exported: such a file is no plain model."""

RESULTS = ("metrics.json", "environment.json", "trained.json", "contrast.safetensors", "corpus.json")
"""What codir reads of a run besides its model; README.md, codir.yaml and notes are people's to change."""

_WEIGHTS = (".safetensors", ".bin", ".onnx", ".onnx.data")
Files = dict[str, dict[str, Any]]


def entry(path: Path) -> dict[str, Any]:
    """Returns what a manifest says of a file."""
    return {"bytes": path.stat().st_size, "digest": file_digest(path)}


def entries(folder: Path, but: Collection[str] = ()) -> Files:
    """Returns what a manifest says of all files below a folder, but for those of some names and for temporary ones."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in paths if not is_trace(path.name)}
    return {name: entry(path) for name, path in named.items() if path.name not in but}


def checked(content: Any, section: str = "files") -> Files:
    """Returns the files that a manifest's content lists in a section; raises `ValueError` if it is no list of files."""
    files = content.get(section, {}) if isinstance(content, dict) else None
    if not isinstance(files, dict) or (not files and section == "files"):
        raise ValueError("it lists no files")
    for name, facts in files.items():
        facts = facts if isinstance(facts, dict) else {}
        if type(facts.get("bytes")) is not int or not isinstance(facts.get("digest"), str):
            raise ValueError(f"the entry of {name!r} has no size or no fingerprint")
        path = PurePosixPath(name)
        if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"it lists a file outside of the folder, {name!r}")
    return files


def fault(
    folder: Path, files: Mapping[str, Mapping[str, Any]], digest: Callable[[str], bool] = lambda name: True
) -> str | None:
    """Returns what is wrong with the files of a folder, in a few words, or None.

    Args:
        folder: where they lie.
        files: what the manifest says (`checked`).
        digest: says of which files the content is compared, too; of the others the size alone.
    """
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != facts["bytes"]:
            what = "is truncated: it has" if size < facts["bytes"] else "has"
            return f"{name} {what} {size:,} bytes where {facts['bytes']:,} were written"
        if digest(name) and file_digest(path) != facts["digest"]:
            return f"the content of {name} has changed"
    return None


def fault_by(path: Path, only: Collection[str] | None = None) -> str | None:
    """Returns what is wrong with a manifest or with one of the files it lists (`only` some of them), or None."""
    try:
        files = checked(read_json(path))
        return fault(path.parent, files if only is None else {name: files[name] for name in only})
    except FileNotFoundError:
        return f"{path.name} is missing"
    except KeyError as error:
        return f"{path.name} does not list {error}"
    except (RunError, ValueError, OSError) as error:
        return f"{path.name} cannot be read ({error})"


def of_model(folder: Path, files: Iterable[str]) -> dict[str, Any]:
    """Returns the content of the manifest of a run that has its model and no results yet."""
    return {"files": {name: entry(folder / name) for name in sorted(files)}}


def add_results(folder: Path) -> None:
    """Notes the results of a run in its manifest, where it has one: without a model it has not."""
    path = folder / RUN_MANIFEST
    if path.is_file():
        results = {name: entry(folder / name) for name in RESULTS if (folder / name).is_file()}
        write_json(path, {"files": checked(read_json(path)), "results": results})


def require_model(folder: Path, weights: bool | None = None) -> None:
    """Raises `ModelError` unless a model is what its run, or its export, wrote; one without a manifest passes.

    Args:
        folder: the model's.
        weights: look at the weights alone, or at all the rest (config, tokenizer); None looks at both.
    """
    _require(folder, "files", lambda name: weights in (None, name.endswith(_WEIGHTS)), ModelError)


@contextlib.contextmanager
def model_checked(folder: Path) -> Iterator[None]:
    """Checks the weights of a model (`require_model`) while the block loads it, so that nobody waits for both."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        whole = pool.submit(require_model, folder, weights=True)
        try:
            yield
        except Exception:
            whole.result()  # what is wrong with the files explains what became of them
            raise
        whole.result()


def require_results(folder: Path, *names: str) -> None:
    """Raises `RunError` unless results of a run (all of them if none is named) are what was written, or not listed."""
    _require(folder, "results", lambda name: not names or name in names, RunError)


def read_whole(path: Path) -> Any:
    """Reads a JSON file of a run's folder; raises `RunError` unless it is what was written, and as `read_json` does."""
    if path.is_file():
        require_results(path.parent, path.name)
    return read_json(path)


def _require(folder: Path, section: str, wanted: Callable[[str], bool], error: type[CodirError]) -> None:
    path = folder / RUN_MANIFEST
    way = (
        "Copy the folder again from where it is whole, or train again"
        f" (if you changed it yourself, delete {path}: without it nothing is compared)."
    )
    if not path.is_file():
        path = folder / EXPORT_MANIFEST
        way = "Copy the folder again, or export the model again: `codir export`."
        if section != "files" or not path.is_file():
            return
    try:
        files = checked(read_json(path), section)
        found = fault(folder, {name: facts for name, facts in files.items() if wanted(name)})
    except (RunError, ValueError) as wrong:
        raise error(f"{path} is damaged: {wrong}. {way}") from wrong
    except OSError as wrong:
        raise error(f"A file in {folder} cannot be read: {wrong}.") from wrong
    if found is not None:
        raise error(f"{folder} is damaged, or was changed after it was written: {found}. {way}")
