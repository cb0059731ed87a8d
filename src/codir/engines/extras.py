"""Packages that only exporting needs: imported when used, named plainly when missing, kept off the network."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from typing import Any

from codir.errors import ConfigError


def load(name: str) -> Any:
    """Returns the module of a package of the extra; raises `ConfigError` where it cannot be imported."""
    no_telemetry()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        why = "is not installed" if missing else f"cannot be imported ({error})"
        raise ConfigError(f'The package {name} {why}. It comes with the extra: pip install "codir[export]"') from error


def exporters() -> Any:
    """Returns `transformers.exporters`; raises `ConfigError` where transformers has none yet."""
    no_telemetry()
    try:
        module = importlib.import_module("transformers.exporters")
        getattr(module, "ExportedModel")  # noqa: B009 - which came last; transformers imports it when it is asked for
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            'This transformers has no exporters: it must be 5.23 or newer: pip install "codir[export]"'
        ) from error
    return module


@functools.cache
def openvino_core() -> Any:
    """Returns the process's OpenVINO core with its CPU plugin loaded; never unloaded.

    Each core loads a CPU plugin of its own, which installs a stack for signal handlers and, when it is unloaded, puts
    back the one it found. When two are unloaded in the order in which they came, the second puts back the first one's
    stack, which is gone: the next Ctrl-C ends the process with a segmentation fault. One core that stays, and is there
    before any core of NNCF's, leaves nothing to put back.
    """
    core = load("openvino").Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")
    return core


def no_telemetry() -> None:
    """Hides the package openvino_telemetry: OpenVINO and NNCF then send nothing, as where it is not installed.

    With it, the mere import of openvino sends an event over the network unless the user once opted out. Call this
    before anything that imports openvino, `transformers.exporters` among it.
    """
    # None is Python's way to say that a module cannot be imported
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    logging.getLogger("nncf").setLevel(logging.ERROR)
