"""Switches off what the libraries print; codir has bars and messages of its own (`codir.printing`)."""

from __future__ import annotations

import warnings


def quiet_libraries() -> None:
    """Switches off the progress bars and notices of transformers and datasets: codir has its own."""
    import datasets
    import transformers

    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
