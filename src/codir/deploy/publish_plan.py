"""What is to be published, prepared without the network: the files, without what is personal, and the card."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from codir.deploy.graphs import without_stack_traces
from codir.deploy.privacy import Redaction, Redactor
from codir.deploy.publish_card import check_languages, check_license, finish_card, read_card
from codir.deploy.publish_files import (
    CARD,
    Source,
    digest_of,
    look_at,
    place_of,
    size_of,
)
from codir.engines.folder import MANIFEST
from codir.errors import ConfigError, RunError

_MODEL_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_JSON = ("environment.json", "metrics.json", "latency.json", "corpus.json", MANIFEST)


@dataclass
class Plan:
    """What would be sent.

    Attributes:
        folder: the run folder or exported folder.
        repo: `owner/name`.
        revision: the branch.
        private: whether a repository that is made gets private.
        files: by name in the repository, the file here or the content itself where that differs.
        origins: by the same names, the file here.
        left: what stays here, by the folder it is in.
        metadata: the card's front matter.
        redactions: what was replaced.
        relisted: by a manifest's name in the repository, what its list of files says otherwise.
        notes: sentences the user should read.
    """

    folder: Path
    repo: str
    revision: str
    private: bool
    files: dict[str, Path | bytes] = field(default_factory=dict)
    origins: dict[str, Path] = field(default_factory=dict)
    left: dict[str, tuple[str, ...]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    redactions: list[Redaction] = field(default_factory=list)
    relisted: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(size_of(content) for content in self.files.values())


def make_plan(
    folder: Path,
    repo: str,
    *,
    exported: Sequence[Path] = (),
    private: bool = False,
    regenerate: bool = False,
    report: bool = False,
    revision: str = "main",
    license: str | None = None,
    language: str | None = None,
) -> Plan:
    """Checks the folders and prepares every file; reads only, and needs no network. Arguments as for `publish`."""
    plan = Plan(folder, repo, revision, private)
    if license is not None:
        check_license(license, plan.notes)
    languages = check_languages(language) if language is not None else []
    source = look_at(folder, report)
    places = _places(source, exported)
    card = read_card(source, regenerate, plan.notes)
    card, plan.metadata = finish_card(
        card, source, repo, places, license=license, language=languages, notes=plan.notes
    )
    redactor = Redactor(folder, others=[each.folder for each in places.values()])
    for place, each in (("", source), *places.items()):
        prefix = f"{place}/" if place else ""
        _take(plan, each, prefix, redactor, card if not place else None)
    plan.redactions = redactor.redactions
    return plan


def _places(source: Source, exported: Sequence[Path]) -> dict[str, Source]:
    """Checks the folders given with --with and says where each goes."""
    if exported and source.manifest is not None:
        raise ConfigError(
            f"{source.folder} is an exported model itself: --with adds exported models to a run folder. "
            "Publish the run, with both as --with."
        )
    places: dict[str, Source] = {}
    for folder in exported:
        each = look_at(folder)
        if each.manifest is None:
            raise ConfigError(
                f"--with {folder}: not an exported folder ({MANIFEST} is missing). `codir export` makes one."
            )
        place = place_of(each.manifest)
        if place in places:
            raise ConfigError(f"--with {folder}: {places[place].folder} is {place}, too. Give one of them.")
        made_from = each.manifest.source_digest
        if made_from and made_from != digest_of(source.folder):
            raise RunError(
                f"--with {folder} was exported from other weights than those in {source.folder} (from "
                f"{each.manifest.source}). Export it again: codir export {shlex.quote(str(source.folder))} --format "
                f"{each.manifest.format} ..."
            )
        places[place] = each
    return places


def _take(plan: Plan, source: Source, prefix: str, redactor: Redactor, card: str | None) -> None:
    """Adds a folder's files to the plan, without what is personal."""
    names = source.files if CARD in source.files or card is None else (CARD, *source.files)
    if source.left:
        plan.left[str(source.folder)] = source.left
    contents: dict[str, Path | bytes] = {}
    # What the card repeats comes first, what says how long the other files are comes last.
    for name in sorted(
        names, key=lambda name: (name == MANIFEST, name == CARD or not name.endswith((".yaml", ".json")))
    ):
        contents[name] = _content(
            source.folder / name, prefix + name, redactor, card if name == CARD else None
        )
    if MANIFEST in contents:
        contents[MANIFEST], words = _as_sent(source.folder / MANIFEST, contents)
        if words:
            plan.relisted[prefix + MANIFEST] = words
    for name in names:
        plan.files[prefix + name] = contents[name]
        plan.origins[prefix + name] = source.folder / name


def _content(path: Path, name: str, redactor: Redactor, card: str | None) -> Path | bytes:
    if path.suffix == ".onnx":
        clean = without_stack_traces(path)
        if clean is not None:
            redactor.redactions.append(
                Redaction(name, None, "the exporter's notes on source files", "left out")
            )
        return path if clean is None else clean
    method = _method(path.name, redactor)
    if method is None:
        return path
    text = card if card is not None else _text(path)
    clean = method(name, text)
    redactor.check(name, clean)
    return path if card is None and clean == text else clean.encode()


def _method(name: str, redactor: Redactor) -> Callable[[str, str], str] | None:
    if name in _MODEL_JSON:
        return redactor.model_json
    if name in _JSON:
        return redactor.json
    if name == "codir.yaml":
        return redactor.yaml
    if name.endswith(".md"):
        return redactor.markdown
    if name.endswith((".html", ".xml")):
        return redactor.literal
    return None  # weights, vocabularies, pictures


def _as_sent(path: Path, contents: dict[str, Path | bytes]) -> tuple[Path | bytes, str]:
    """Returns the manifest for the files as they are sent, and in words what its list of files says otherwise.

    Sizes and fingerprints are those of what is sent; what stays here is not listed.
    """
    content = contents[MANIFEST]
    values = json.loads(content if isinstance(content, bytes) else path.read_bytes())
    files: dict[str, Any] = {}
    for name, entry in values["files"].items():
        each = contents.get(name)
        if isinstance(each, bytes):
            files[name] = {"bytes": len(each), "digest": xxhash.xxh3_128(each).hexdigest()}
        elif each is not None:
            files[name] = entry
    if files == values["files"]:
        return content, ""
    gone = [name for name in values["files"] if name not in files]
    anew = [name for name, entry in files.items() if entry != values["files"][name]]
    parts = []
    if gone:
        parts.append(f"without {', '.join(gone)}, which {'stays' if len(gone) == 1 else 'stay'} here")
    if anew:
        parts.append(f"new size and fingerprint of {', '.join(anew)}")
    text = json.dumps({**values, "files": files}, indent=2, ensure_ascii=False) + "\n"
    return text.encode(), "; ".join(parts)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is damaged: it is not UTF-8 text. Copy the folder again.") from error
