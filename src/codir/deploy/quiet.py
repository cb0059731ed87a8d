"""Keeps the exporters' own output away: progress bars, notices of versions, advice meant for their developers."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from transformers.utils import logging as hf_logging


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Swallows what Python code prints, logs below errors, or warns of in the block; errors pass."""
    level, disabled = hf_logging.get_verbosity(), logging.root.manager.disable
    handlers, root_level = list(logging.root.handlers), logging.root.level
    hf_logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        hf_logging.set_verbosity(level)
        # ONNX Runtime's quantiser logs to the root, which gives that a handler of its own (on the swallowed output)
        logging.root.handlers[:] = handlers
        # OpenVINO's conversion, when it fails, leaves the root at ERROR: no warning of anybody's would be heard again
        logging.root.setLevel(root_level)
