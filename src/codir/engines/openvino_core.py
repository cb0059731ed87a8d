"""The one OpenVINO core of the process."""

from __future__ import annotations

import functools
from typing import Any

from codir.engines import extras


@functools.cache
def openvino_core() -> Any:
    """Returns the process's OpenVINO core with its CPU plugin loaded; never unloaded.

    Each core loads a CPU plugin of its own, which installs a stack for signal handlers and, when it is unloaded, puts
    back the one it found. When two are unloaded in the order in which they came, the second puts back the first one's
    stack, which is gone: the next Ctrl-C ends the process with a segmentation fault. One core that stays, and is there
    before any core of NNCF's, leaves nothing to put back.

    Raises:
        ConfigError: OpenVINO is not installed; names the extra.
    """
    core = extras.load("openvino").Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")
    return core
