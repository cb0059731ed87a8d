"""What a result was computed with: versions, machine, command, git; and how its paths are cut for others' eyes."""

from __future__ import annotations

import html
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from codir.table import inline

_PACKAGES = ("codir", "torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "numpy")
_PACKAGES += ("scikit-learn", "scipy")


def environment(seed: int | None = None, precision: str | None = None, **settings: Any) -> dict[str, Any]:
    """Describes this process and machine, for `environment.json`, with further plain values as they are.

    Neither the host's name nor an environment variable nor a remote of the repository is read.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "seed": seed,
        "precision": precision,
        **settings,
        "versions": versions(),
        "machine": machine(),
        "git": git_state(),
    }


def command_line() -> str:
    """Returns the command of this process, without the folder it lies in; that of `python -m codir` is codir."""
    if not sys.argv:
        return ""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    return shlex.join([name, *sys.argv[1:]])


def versions(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str | None]:
    """Returns the installed versions, Python's first; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    # says which build it is (+cpu, +cu130), which the metadata may not
    return found | ({"torch": str(torch.__version__)} if "torch" in packages else {})


def machine() -> dict[str, Any]:
    """Returns platform, processor, cores this process may use, threads of torch, names of the GPUs."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():  # Linux keeps the processor's name there
        named = re.search(r"^model name\s*: (.*)$", info.read_text(encoding="utf-8", errors="replace"), re.M)
        cpu = named[1].strip() if named else cpu
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda if gpus else None,
    }


def git_state(folder: str | Path = ".") -> dict[str, Any] | None:
    """Returns the commit of the repository around `folder` and whether files differ from it; None without one."""

    def git(*arguments: str) -> str | None:
        # optional locks off: looking must not disturb another git command in the same tree
        command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    if not (commit := git("rev-parse", "HEAD")):
        return None
    changes = git("status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def short_paths(value: Any, found: dict[str, str] | None = None) -> Any:
    """Returns plain values in which absolute paths are cut to `.../NAME`, those in a command line too.

    Cards and published files have only these: where a folder lies on one's own machine is nobody's business, and no
    other machine has it there.

    Args:
        value: Settings or results as YAML and JSON give them, or a text.
        found: The paths that were cut before, with what they became. They are replaced inside of sentences, too; new
            ones are added.
    """
    found = {} if found is None else found
    if isinstance(value, Mapping):
        return {
            short_paths(key, found): (short_command if key == "command" else short_paths)(inner, found)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [short_paths(each, found) for each in value]
    if not isinstance(value, str):
        return value
    home = Path.home()
    for part in value.split(", "):
        # what begins with a path that was cut before lies in it, or is a sentence
        if "\n" in part or part.startswith(tuple(found)):
            continue
        for path in (PurePosixPath(part), PureWindowsPath(part)):
            if path.is_absolute() and (len(path.parts) > 2 or part == str(home)):
                found[part] = "..." if path.name == home.name else f".../{path.name}"
    for path in sorted(found, key=len, reverse=True):
        for form in (path, inline(path), html.escape(path)):
            value = value.replace(form, found[path])
    return value


def short_command(command: Any, found: dict[str, str] | None = None) -> Any:
    """Returns a command line in which absolute paths are cut as `short_paths` cuts them."""
    if not isinstance(command, str):
        return command
    found = {} if found is None else found
    try:
        words = shlex.split(command)
    except ValueError:  # an open quotation mark: no command line of ours
        words = command.split()
    # a path may follow a name (`mrpc=/runs/a`) or another path
    short = ["".join(short_paths(part, found) for part in re.split(r"([=,])", word)) for word in words]
    return command if short == words else shlex.join(short)
