"""The weights in a model's folder: whether they are all there, whole and safe to read, and how many they are."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from safetensors import SafetensorError, safe_open

from codir.errors import ModelError
from codir.manifest import EXPORT_MANIFEST, EXPORT_MARK


def count_weights(folder: Path, exported: bool = False) -> int:
    """Returns how many weights a folder's safetensors files hold, as their headers say.

    Args:
        folder: of the model.
        exported: it is an exported model, whose manifest may not be written yet.

    Raises:
        ModelError: they are not all there and whole, or they are pickled, or of an export.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        files = ["model.safetensors"]
    elif index.is_file():
        try:
            files = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            if any(Path(name).name != name for name in files):
                raise ValueError("it names files that are not in the folder")
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ModelError(
                f"{index} is damaged: {str(error) or error!r}. Download or save the model again."
            ) from error
    else:
        pickled = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.ckpt")])
        if pickled:
            raise ModelError(
                f"{folder} holds its weights as a pickle ({pickled[0].name}), which can run code when it is read, so "
                "codir does not. If you trust where it comes from, convert it once:\n"
                '  python -c "from transformers import AutoModelForSequenceClassification as M; '
                f"M.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\"\n"
                "copy the tokenizer's files over and use that folder."
            )
        if (folder / "deployment.json").is_file():
            raise ModelError(
                f"{folder} is an exported model, which cannot be trained, distilled or exported again. Use the model "
                f"it was made from{_origin(folder / 'deployment.json')}."
            )
        raise ModelError(
            f"{folder} is no model folder: model.safetensors is missing; it holds {listing(folder)}."
        )
    total = 0
    for name in files:
        path = folder / name
        if not path.is_file():
            raise ModelError(
                f"{path} is missing, though {index.name} lists it. Download or save the model again."
            )
        try:
            with safe_open(path, framework="pt") as file:  # checks the header against the length of the file
                names = list(file.keys())
                mark = (file.metadata() or {}).get(EXPORT_MARK)
                if not names:
                    raise ModelError(f"{path} holds no weights. Download or save the model again.")
                total += sum(math.prod(file.get_slice(each).get_shape()) for each in names)
        except (SafetensorError, OSError) as error:
            if not os.access(path, os.R_OK):  # safetensors calls that missing
                raise ModelError(
                    f"{path} may not be read: permission denied. Ask its owner for it."
                ) from error
            raise ModelError(
                f"{path} ({path.stat().st_size} bytes) is truncated or damaged: {error}. "
                "Download or save the model again."
            ) from error
        if mark is not None and not exported and not (folder / EXPORT_MANIFEST).is_file():
            raise ModelError(
                f"{folder} holds an exported model ({mark}) without its {EXPORT_MANIFEST}, so nothing says that it is "
                "whole. Copy the whole folder again, or export the model again: `codir export`."
            )
    return total


def listing(folder: Path, most: int = 12) -> str:
    """Returns the names in a folder, for messages."""
    try:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir())
    except OSError as error:
        return f"what cannot be listed ({error.strerror})"
    shown = ", ".join(names[:most])
    return (shown + (f" and {len(names) - most} more" if len(names) > most else "")) or "nothing"


def _origin(manifest: Path) -> str:
    try:
        return f": {json.loads(manifest.read_text(encoding='utf-8'))['source']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
