"""From a run folder or an exported model to the Hugging Face Hub: looked at first, then sent as one commit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from huggingface_hub import constants
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from codir.deployment.folder import MANIFEST
from codir.errors import ConfigError, RunError
from codir.storage import human_bytes
from codir.workflows.card_metadata import front_matter_text
from codir.workflows.hub import Hub, Remote, check_repo
from codir.workflows.privacy import Redaction, Redactor
from codir.workflows.progress import default_console
from codir.workflows.publish_card import check_languages, check_license, finish_card, read_card
from codir.workflows.publish_files import (
    CARD,
    OF_A_MODEL,
    Source,
    look_at,
    matches,
    place_of,
    size_of,
    weights_digest,
    without_stack_traces,
)

_MODEL_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_JSON = ("environment.json", "metrics.json", "latency.json", "corpus.json", MANIFEST)
_SHOWN = 12


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
    notes: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(size_of(content) for content in self.files.values())


@dataclass(frozen=True)
class Published:
    """What came of it.

    Attributes:
        plan: what was, or would have been, sent.
        url: of the model on the Hub.
        commit: its hash; None after a dry run.
    """

    plan: Plan
    url: str
    commit: str | None = None


def publish(
    folder: str | Path,
    repo: str,
    *,
    exported: Sequence[str | Path] = (),
    dry_run: bool = False,
    private: bool = False,
    update: bool = False,
    regenerate: bool = False,
    report: bool = False,
    revision: str = "main",
    message: str | None = None,
    license: str | None = None,
    language: str | None = None,
    confirm: Callable[[str], bool] | None = None,
    console: Console | None = None,
    api: Any = None,
) -> Published:
    """Publishes a finished run, or an exported model, on the Hugging Face Hub.

    Only what is needed to use the model and to repeat the run goes (`publish_files`); paths of this machine are
    replaced (`privacy`); everything arrives as one commit or not at all.

    Args:
        folder: the run folder, or one that `codir export` made.
        repo: `owner/name`.
        exported: exported folders of the same model that go into subfolders.
        dry_run: only show what would be sent; needs neither network nor token, and changes nothing.
        private: make the repository private.
        update: replace the model in a repository that holds files already.
        regenerate: write the card anew, from what the run folder holds.
        report: send `report.html` too.
        revision: the branch; made if it is missing.
        message: of the commit.
        license: the Hub's identifier, for the card.
        language: ISO 639 codes separated by commas, for the card.
        confirm: asked before anything is changed; None is yes.
        console: where to print; the terminal by default.
        api: stands in for `huggingface_hub.HfApi`.

    Returns:
        What was sent, and where it is.

    Raises:
        ConfigError: a bad name, licence or language, no token, one that may not write, no consent.
        ModelError: no model, or a damaged one.
        RunError: an unfinished or damaged run, a repository in the way, a failure of the Hub or the network.
    """
    console = console or default_console()
    check_repo(repo)
    _check_branch(revision)
    plan = make_plan(
        Path(folder),
        repo,
        exported=[Path(each) for each in exported],
        private=private,
        regenerate=regenerate,
        report=report,
        revision=revision,
        license=license,
        language=language,
    )
    url = f"{constants.ENDPOINT}/{repo}" + (f"/tree/{revision}" if revision != "main" else "")
    if dry_run:
        show(plan, console)
        console.print("\nA dry run: nothing was sent. Without --dry-run it is.", highlight=False)
        return Published(plan, url)
    hub = Hub(repo, api)
    user = hub.require_login()
    remote = hub.look(revision)
    stale = _check_remote(remote, plan, update)
    show(plan, console, remote, stale)
    if confirm is not None and not confirm(f"Send this to {repo} as {user}?"):
        raise ConfigError("Nothing was sent.")
    made = not remote.exists
    if made:
        hub.create(private)
        remote = hub.look("main")
    if revision != "main" and (made or remote.head is None):
        hub.branch(revision)
    text = message or f"Publish {source_name(folder)} with codir"
    with console.status(f"Sending {human_bytes(plan.bytes)} to {escape(repo)} ..."):
        _, commit = hub.send(plan.files, stale, text, revision, remote.head, made)
    console.print(f"\nPublished: {url}", highlight=False, soft_wrap=True, markup=False)
    return Published(plan, url, commit)


def source_name(folder: str | Path) -> str:
    """Returns the name of a folder, also of `.`."""
    return Path(folder).absolute().resolve().name


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
        if made_from and made_from != weights_digest(source.folder):
            raise RunError(
                f"--with {folder} was exported from other weights than those in {source.folder} (from "
                f"{each.manifest.source}). Export it again: codir export {source.folder} --format "
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
        contents[MANIFEST] = _same_sizes(source.folder / MANIFEST, contents)
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


def _same_sizes(path: Path, contents: dict[str, Path | bytes]) -> Path | bytes:
    """Returns the manifest with the sizes and fingerprints of the files as they are sent."""
    changed = {
        name: content
        for name, content in contents.items()
        if isinstance(content, bytes) and name not in (CARD, MANIFEST)
    }
    content = contents[MANIFEST]
    if not changed:
        return content
    values = json.loads(content if isinstance(content, bytes) else path.read_bytes())
    for name, each in changed.items():
        if name in values["files"]:
            values["files"][name] = {"bytes": len(each), "digest": xxhash.xxh3_128(each).hexdigest()}
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _check_remote(remote: Remote, plan: Plan, update: bool) -> list[str]:
    """Returns the names of the old model's files that the new one does not have; they go.

    Raises:
        ConfigError: it is public and is to be private.
        RunError: it holds files and they are not to be replaced.
    """
    if remote.exists and plan.private and not remote.private:
        raise ConfigError(
            f"{plan.repo} exists and is public: --private only says how a repository is made. Change it in its "
            f"settings ({constants.ENDPOINT}/{plan.repo}/settings), or choose another name."
        )
    if remote.files and not update:
        shown = ", ".join(sorted(remote.files)[:5]) + (", ..." if len(remote.files) > 5 else "")
        raise RunError(
            f"{plan.repo} holds {len(remote.files)} files already ({shown}). Add --update to replace the model in it, "
            "or choose another name."
        )
    places = {name.rpartition("/")[0] for name in plan.files}
    stale, old = [], set()
    for name in sorted(remote.files - plan.files.keys()):
        place, _, base = name.rpartition("/")
        if place in places and matches(base, OF_A_MODEL):
            stale.append(name)
        elif base == MANIFEST:
            old.add(place)
    for place in sorted(old):
        plan.notes.append(
            f"{place}/ in the repository was exported from the model that is there now. Export it again and add "
            "--with, or delete it there."
        )
    return stale


def show(plan: Plan, console: Console, remote: Remote | None = None, stale: Sequence[str] = ()) -> None:
    """Prints what would be sent, what stays, the card's front matter, and what was replaced."""
    state = "private" if plan.private else "public"
    if remote is not None and remote.exists:
        state = f"{'private' if remote.private else 'public'}, exists"
    branch = f", branch {plan.revision}" if plan.revision != "main" else ""
    table = Table(
        title=Text(f"{plan.folder} to {plan.repo} ({state}{branch})"), title_justify="left", show_footer=True
    )
    table.add_column("file", footer=f"{len(plan.files)} files", overflow="fold")
    table.add_column("size", footer=human_bytes(plan.bytes), justify="right")
    table.add_column("", overflow="fold")
    for name, content in plan.files.items():
        origin = plan.origins[name].parent
        remarks = [] if origin == plan.folder else [f"from {origin}"]
        if isinstance(content, bytes):
            remarks.append("changed: see below")
        table.add_row(Text(name), human_bytes(size_of(content)), Text(", ".join(remarks)))
    for name in stale:
        table.add_row(Text(name), "-", "deleted: a left-over of the model there")
    console.print(table)
    for folder, names in plan.left.items():
        console.print(Text(f"Stays in {folder}: {', '.join(names)}"))
    console.print("\nFront matter of the card:")
    console.print(Text(front_matter_text(plan.metadata)))
    if plan.redactions:
        table = Table(title="Replaced, because it tells of this machine", title_justify="left")
        for heading in ("where", "stands here", "becomes"):
            table.add_column(heading, overflow="fold")
        for each in plan.redactions[:_SHOWN]:
            place = each.file if each.line is None else f"{each.file}:{each.line}"
            table.add_row(Text(place), Text(each.found), Text(each.becomes))
        console.print()
        console.print(table)
        if len(plan.redactions) > _SHOWN:
            console.print(f"... and {len(plan.redactions) - _SHOWN} more")
    else:
        console.print("\nNothing had to be replaced: no file names a path of this machine.")
    for note in plan.notes:
        console.print(Text(f"Note: {note}"))


def _check_branch(revision: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w./-]*", revision) or ".." in revision or revision.startswith("refs/"):
        raise ConfigError(f"--revision {revision!r} is no name of a branch. Give one such as main or v1.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is damaged: it is not UTF-8 text. Copy the folder again.") from error
