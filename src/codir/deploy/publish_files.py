"""Which files of a folder are published: an allowlist. What is not on it stays, whatever it is."""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from codir.deploy.export import weights_digest
from codir.engines.folder import Manifest, is_deployed
from codir.errors import ConfigError, ModelError, RunError
from codir.manifest import read_whole
from codir.models.check import load_tokenizer_for
from codir.models.loading import load_classifier, load_config, load_pretrained, load_tokenizer, resolve
from codir.runs.card import TEXT_CLASSIFICATION
from codir.runs.pretrain_card import FILL_MASK
from codir.runs.runfolder import RunFolder

CARD = "README.md"
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_MODEL = ("config.json", "generation_config.json")
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
_PROVENANCE = (
    "codir.yaml",
    "environment.json",
    "metrics.json",
    "table.md",
    "table.png",
    "latency.json",
    "corpus.json",
)
_EXPORTED = (
    "deployment.json",
    "*.onnx",
    "*.onnx.data",
    "*.onnx_data",
    "openvino_model*.xml",
    "openvino_model*.bin",
)
OF_A_RUN = (CARD, *_MODEL, *_WEIGHTS, *_TOKENIZER, *_PROVENANCE)
OF_AN_EXPORT = (CARD, *_MODEL, *_WEIGHTS, *_TOKENIZER, *_EXPORTED)
# A published model that is replaced: these would be left-overs of the old one, or belie the new one.
OF_A_MODEL = (*OF_A_RUN, *_EXPORTED, "report.html")


@dataclass(frozen=True)
class Source:
    """A folder to publish, checked.

    Attributes:
        folder: where it is.
        files: names of the files that go, in the order shown.
        left: names of what stays; folders end in a slash.
        pipeline_tag: the Hub's name of what the model does.
        manifest: of an exported folder; None for a run.
    """

    folder: Path
    files: tuple[str, ...]
    left: tuple[str, ...]
    pipeline_tag: str
    manifest: Manifest | None = None


def look_at(folder: Path, report: bool = False) -> Source:
    """Checks a folder as a whole and chooses its files.

    Args:
        folder: a finished run or an exported folder.
        report: also take `report.html`.

    Raises:
        ConfigError: no such folder, or no report in it.
        ModelError: it is no model, or its weights or tokenizer are damaged.
        RunError: the run is not finished, or its results are missing or damaged.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder} {what}. Give a run folder or an exported folder.")
    if report and not (folder / "report.html").is_file():
        raise ConfigError(
            f"{folder} has no report.html. `codir report {shlex.quote(str(folder))}` writes it; or leave out --report."
        )
    if is_deployed(folder):
        manifest = Manifest.read(folder)
        manifest.check_files(folder)
        load_tokenizer(folder)
        chosen, left = _choose(folder, OF_AN_EXPORT, report)
        return Source(folder, chosen, left, TEXT_CLASSIFICATION, manifest)
    _check_run(folder)
    chosen, left = _choose(folder, OF_A_RUN, report)
    return Source(folder, chosen, left, _check_model(folder))


def _check_run(folder: Path) -> None:
    run = RunFolder(folder)
    if not run.status and not run.is_run:
        model = (folder / "config.json").is_file()
        way = (
            f"It is a model, but no run of codir: `hf upload user/name {folder}` sends it as it is."
            if model
            else "Give the folder of a finished run, or one that `codir export` made."
        )
        raise ModelError(f"{folder} is neither a run folder nor an exported folder. {way}")
    if not run.finished:
        raise RunError(
            f"The run in {folder} is not finished (it is {run.state}), so there is nothing to publish yet. "
            "The command that started it, with --resume, goes on with it."
        )
    resolve(folder)  # refuses a folder without config.json
    for path in (run.config, run.environment, run.metrics):
        if not path.is_file():
            beside = folder.parent.name == "comparison"
            raise RunError(
                f"{path} is missing"
                + (
                    f": this is a comparison student. Publish its run, {folder.parent.parent}."
                    if beside
                    else ", so nobody could repeat the run. Copy the run folder again, whole."
                )
            )
    for path in (run.metrics, run.environment):
        if not isinstance(read_whole(path), dict):
            raise RunError(f"{path} is damaged: it holds no results. Copy the run folder again.")


def _check_model(folder: Path) -> str:
    """Loads the model, which finds weights that are truncated or belong to another model."""
    config = load_config(folder)
    masked = any("MaskedLM" in str(name) for name in config.architectures or ())
    model: PreTrainedModel
    if masked:
        model, missing = load_pretrained(AutoModelForMaskedLM, folder, config)
        if missing:
            raise ModelError(f"{folder} lacks weights of its head ({missing[0]}). Save the model again.")
    else:
        model = load_classifier(folder)
    broken = next((name for name, value in model.named_parameters() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise ModelError(
            f"{folder}: the weight {broken} holds values that are not finite. Do not publish this model."
        )
    load_tokenizer_for(model, folder)
    return FILL_MASK if masked else TEXT_CLASSIFICATION


def _choose(folder: Path, allowed: Sequence[str], report: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    patterns = (*allowed, "report.html") if report else tuple(allowed)
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    chosen = [path.name for path in entries if path.is_file() and matches(path.name, patterns)]
    left = [path.name + "/" * path.is_dir() for path in entries if path.name not in chosen]
    chosen.sort(
        key=lambda name: next(n for n, each in enumerate(patterns) if fnmatch.fnmatchcase(name, each))
    )
    return tuple(chosen), tuple(left)


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name, which must not be hidden, is on a list."""
    return not name.startswith(".") and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def place_of(manifest: Manifest) -> str:
    """Returns the folder an exported model gets beside another one: its format, and `-int8` or the like."""
    plain = {"onnx": "fp32", "openvino": "bf16", "torch-bf16": "bf16"}.get(manifest.format)
    return manifest.format if manifest.precision == plain else f"{manifest.format}-{manifest.precision}"


def digest_of(folder: Path) -> str:
    """Returns the fingerprint of a classifier's weights as `Manifest.source_digest` has it."""
    return weights_digest(load_classifier(folder))


def size_of(content: Path | bytes) -> int:
    """Returns a number of bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size
