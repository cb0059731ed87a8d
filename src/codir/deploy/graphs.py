"""What torch's exporter writes into an ONNX graph beside the model: notes on source files, which are taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codir.engines.extras import load
from codir.errors import ModelError
from codir.storage import human_bytes, write_bytes


def without_stack_traces(path: Path) -> bytes | None:
    """Returns an ONNX graph without the exporter's notes on source files, or None if it has none.

    torch notes for every operator the file and line it came from, with the path of the virtual environment: most of
    the graph's size, and it tells of the machine.

    Raises:
        ModelError: it is no ONNX graph.
    """
    if b'File "' not in path.read_bytes():
        return None
    onnx = load("onnx")
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors have no base of their own
        raise ModelError(
            f"{path} ({human_bytes(path.stat().st_size)}) is no readable ONNX graph: {error}"
        ) from error
    for graph in [model.graph, *model.functions]:
        _strip(graph)
    return model.SerializeToString()


def strip_stack_traces(path: Path) -> None:
    """Writes an ONNX graph anew without the notes on source files; its weights stay where they are."""
    clean = without_stack_traces(path)
    if clean is not None:
        write_bytes(path, clean)


def _strip(graph: Any) -> None:
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
