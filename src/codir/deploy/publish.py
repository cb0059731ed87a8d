"""From a run folder or an exported model to the Hugging Face Hub: looked at first, then sent as one commit."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import HfApi, ModelCard, constants

from codir.config.yaml_text import dump_yaml, read_yaml_file
from codir.deploy.hub import Remote, check_names, explained, look, send
from codir.engines.folder import MANIFEST, Manifest, is_deployed
from codir.errors import ConfigError, ModelError, RunError
from codir.files import at_home, human_bytes, read_json
from codir.manifest import read_whole
from codir.models.check import load_tokenizer_for
from codir.models.loading import load_classifier, load_config, load_tokenizer, resolve
from codir.models.masked_lm import load_masked_lm
from codir.printing import Console, terminal
from codir.record.card import run_card
from codir.record.environment import short_paths
from codir.record.runfolder import RunFolder
from codir.table import Column, Table, inline

CARD = "README.md"
# What is not on these lists stays, whatever it is.
_MODEL = (
    *(CARD, "LICENSE*", "NOTICE*", "config.json", "generation_config.json", "chat_template.jinja"),
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "tokenizer.model", "spiece.model", "spm.model"),
    "sentencepiece.bpe.model",
)
_RESULTS = ("codir.yaml", "environment.json", "metrics.json", "latency.json", "corpus.json")
OF_A_RUN = (*_MODEL, *_RESULTS, "table.md")
# Where a model is replaced, these would be left-overs of the old one, or belie the new one.
_OF_A_MODEL = (*OF_A_RUN, MANIFEST, "report.html", "*.onnx", "*.onnx.data", "openvino_model*")
_TEXTS = (".md", ".yaml", ".json", ".html", ".xml", ".onnx")


@dataclass
class Published:
    """What was sent, or after a dry run would have been.

    Attributes:
        folder: The run folder or exported folder.
        url: The model's address on the Hub.
        files: By name in the repository, the file here, or its content where that differs.
        left: What stays here; folders end in a slash.
        metadata: The card's front matter.
        shortened: The paths of this machine that were cut, with what they became.
        notes: Sentences the user should read.
        commit: The commit's hash; None after a dry run.
    """

    folder: Path
    url: str
    files: dict[str, Path | bytes] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    shortened: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    commit: str | None = None


def publish(
    folder: str | Path,
    repo: str,
    *,
    subfolder: str = "",
    dry_run: bool = False,
    private: bool = False,
    update: bool = False,
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

    Only what is needed to use the model and to repeat the run goes; paths of this machine are cut to their names;
    everything arrives as one commit or not at all.

    Args:
        folder: The run folder, or one that `codir export` made.
        repo: `owner/name`.
        subfolder: Where in the repository; at its top by default.
        dry_run: Only show what would be sent; needs neither network nor token, and changes nothing.
        private: Make the repository private.
        update: Replace the model in a repository that holds files already.
        report: Send `report.html` too.
        revision: The branch; made if it is missing.
        message: The commit's message.
        license: The Hub's identifier, for the card.
        language: ISO 639 codes separated by commas, for the card.
        confirm: Asked before anything is changed; None is yes.
        console: Where to print; the terminal by default.
        api: Stands in for `huggingface_hub.HfApi`.

    Raises:
        ConfigError: A bad name, licence or language, no token, no consent.
        ModelError: No model, or a damaged one.
        RunError: An unfinished or damaged run, a repository in the way, a failure of the Hub or the network.
    """
    console = terminal(console)
    check_names(repo, revision, subfolder)
    url = f"{constants.ENDPOINT}/{repo}" + (f"/tree/{revision}" if revision != "main" else "")
    plan = _prepare(Path(at_home(folder)), repo, url, subfolder, report, license, language)
    if dry_run:
        _show(plan, console, f"{repo} ({'private' if private else 'public'})")
        console.print("\nA dry run: nothing was sent. Without --dry-run it is.", highlight=False)
        return plan
    api = HfApi() if api is None else api
    with explained("ask the Hub who you are"):
        user = api.whoami()["name"]
    remote = look(api, repo, revision)
    stale = _check_remote(remote, plan, repo, subfolder, private, update)
    state = "private" if (remote.private if remote.exists else private) else "public"
    _show(plan, console, f"{repo} ({state}{', exists' if remote.exists else ''}, branch {revision})", stale)
    if confirm is not None and not confirm(f"Send this to {repo} as {user}?"):
        raise ConfigError("Nothing was sent.")
    message = message or f"Publish {plan.folder.resolve().name} with codir"
    plan.commit = send(
        api, repo, plan.files, stale, remote, private=private, revision=revision, message=message
    )
    console.print(f"\nPublished: {url}", highlight=False, soft_wrap=True, markup=False)
    return plan


def _check_remote(
    remote: Remote, plan: Published, repo: str, subfolder: str, private: bool, update: bool
) -> list[str]:
    """Returns the old model's files that the new one does not have; raises where the repository is in the way."""
    if remote.exists and private and not remote.private:
        raise ConfigError(
            f"{repo} exists and is public: --private only says how a repository is made. Change it in its settings "
            f"({constants.ENDPOINT}/{repo}/settings), or choose another name."
        )
    there = sorted(name for name in remote.files if name.startswith(f"{subfolder}/") or not subfolder)
    if there and not update:
        shown = ", ".join(there[:5]) + (", ..." if len(there) > 5 else "")
        raise RunError(
            f"{repo} holds {len(there)} files already ({shown}). Add --update to replace the model in it, or choose "
            "another name."
        )
    for name in there:
        place, _, base = name.rpartition("/")
        if base == MANIFEST and place != subfolder:
            plan.notes.append(
                f"{place}/ there was exported from the model that is replaced: export and publish it again."
            )
    prefix = f"{subfolder}/" if subfolder else ""
    return [
        name for name in there if name not in plan.files and _matches(name.removeprefix(prefix), _OF_A_MODEL)
    ]


def _prepare(
    folder: Path, repo: str, url: str, subfolder: str, report: bool, license: str | None, language: str | None
) -> Published:
    """Checks the folder and prepares every file; reads only, and needs no network."""
    manifest = _check_folder(folder)
    if report and not (folder / "report.html").is_file():
        raise ConfigError(
            f"{folder} has no report.html. `codir report {shlex.quote(str(folder))}` writes it; or leave out --report."
        )
    allowed = OF_A_RUN if manifest is None else (CARD, MANIFEST, *manifest.files)
    allowed = (*allowed, "report.html") if report else allowed
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    names = [path.name for path in entries if path.is_file() and _matches(path.name, allowed)]
    plan = Published(folder, url)
    plan.left = [path.name + "/" * path.is_dir() for path in entries if path.name not in names]
    # first what tells of paths: they are then known in the texts
    contents = {name: _content(folder / name, plan.shortened) for name in sorted(names, key=_is_text)}
    card = _card(folder, repo, manifest is not None, plan.notes)
    if license is not None:
        card.data["license"] = license
    if language is not None:
        card.data["language"] = [each.strip() for each in language.split(",")]
    if not card.data.get("license"):
        plan.notes.append(
            "No licence is given, so nobody else may use the model. Add --license mit, apache-2.0, ..."
        )
    plan.metadata = card.data.to_dict()
    contents[CARD] = short_paths(str(card), plan.shortened).encode()
    for name in sorted(contents):
        _require_impersonal(folder / name, contents[name])
    prefix = f"{subfolder}/" if subfolder else ""
    plan.files = {f"{prefix}{name}": contents[name] for name in sorted(contents)}
    return plan


def _is_text(name: str) -> bool:
    return name.endswith((".md", ".html"))


def _content(path: Path, found: dict[str, str]) -> Path | bytes:
    """Returns a file as it is published: settings, results and texts with short paths, all else as it is."""
    if path.name == "codir.yaml":
        values = read_yaml_file(path)[0]
        return dump_yaml(short_paths(values, found)).encode()
    if path.name in (*_RESULTS, MANIFEST):
        values = read_json(path)
        short = short_paths(values, found)
        return path if short == values else (json.dumps(short, indent=2, ensure_ascii=False) + "\n").encode()
    return short_paths(_read(path), found).encode() if _is_text(path.name) else path


def _card(folder: Path, repo: str, is_export: bool, notes: list[str]) -> ModelCard:
    """Returns the folder's card, under the repository's name; that of a run is built anew if it is missing."""
    path = folder / CARD
    if not path.is_file() and not is_export:
        notes.append(f"{CARD} is missing and built anew.")
    text = _read(path) if path.is_file() or is_export else run_card(folder)
    try:
        card = ModelCard(text)
        if not card.data.to_dict() and not is_export:
            notes.append(f"{CARD} has no front matter: it gets what the run knows.")
            card.data = ModelCard(run_card(folder)).data
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RunError(
            f"{path}: the front matter (between the lines of dashes) is not what the Hub takes: "
            f"{' '.join(str(error).split())}. Mend it, or delete the file: then it is built anew."
        ) from error
    old, new = folder.absolute().name, repo.split("/")[1]
    if card.data.get("model_name") == old:
        card.data["model_name"] = new
    card.text = card.text.replace(f"# {inline(old)}\n", f"# {inline(new)}\n", 1)
    card.text = card.text.replace(f"{old!r}  # this folder", repr(repo))
    return card


def _check_folder(folder: Path) -> Manifest | None:
    """Refuses what is no model, unfinished or damaged; returns the manifest of an exported folder."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder} {what}. Give a run folder or an exported folder.")
    if is_deployed(folder):
        manifest = Manifest.read(folder)
        manifest.check_files(folder)
        load_tokenizer(folder)
        return manifest
    run = RunFolder(folder)
    if not run.status and not run.is_run:
        way = "Give the folder of a finished run, or one that `codir export` made."
        if (folder / "config.json").is_file():
            way = f"It is a model, but no run of codir: `hf upload user/name {folder}` sends it as it is."
        raise ModelError(f"{folder} is neither a run folder nor an exported folder. {way}")
    if not run.finished:
        raise RunError(
            f"The run in {folder} is not finished (it is {run.state}), so there is nothing to publish yet. The command "
            "that started it, with --resume, goes on with it."
        )
    resolve(folder)  # refuses a folder without config.json
    for path in (run.config, run.environment, run.metrics):
        if not path.is_file():
            raise RunError(
                f"{path} is missing, so nobody could repeat the run (a comparison student goes with its run only). "
                "Copy the run folder again, whole."
            )
        if path.suffix == ".json" and not isinstance(read_whole(path), dict):
            raise RunError(f"{path} is damaged: it holds no results. Copy the run folder again.")
    # loading finds weights that are truncated or belong to another model
    masked = any("MaskedLM" in str(name) for name in load_config(folder).architectures or ())
    model = load_masked_lm(folder) if masked else load_classifier(folder)
    load_tokenizer_for(model, folder)
    broken = next((name for name, value in model.named_parameters() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise ModelError(
            f"{folder}: the weight {broken} is not finite everywhere. Do not publish this model."
        )
    return None


def _require_impersonal(path: Path, content: Path | bytes) -> None:
    """Raises `RunError` where a text still names the user's home folder, or holds a token of the Hub."""
    if not path.name.endswith(_TEXTS):
        return
    home = str(Path.home()).rstrip("/\\")
    patterns = {"holds a token of the Hub": rb"\bhf_[A-Za-z0-9]{30,}"}
    if len(home) > 1:
        patterns[f"names your home folder ({home})"] = re.escape(home.encode()) + rb"(?![\w-])"
    raw = content if isinstance(content, bytes) else content.read_bytes()
    for words, pattern in patterns.items():
        if match := re.search(pattern, raw):
            line = raw.count(b"\n", 0, match.start()) + 1
            raise RunError(f"{path}, line {line}, {words}: that is not published. Change the line by hand.")


def _show(plan: Published, console: Console, where: str, stale: Sequence[str] = ()) -> None:
    """Prints what would be sent, what stays, the card's front matter, and which paths were cut."""
    sizes = {
        name: len(each) if isinstance(each, bytes) else each.stat().st_size
        for name, each in plan.files.items()
    }
    rows = [(name, human_bytes(size)) for name, size in sizes.items()]
    rows += [(name, "deleted: a left-over of the model there") for name in stale]
    total = f"{len(sizes)} files, {human_bytes(sum(sizes.values()))}"
    columns = (Column("file", left=True), Column("size"))
    console.print(f"{plan.folder} to {where}", soft_wrap=True)
    console.print(Table("", columns, rows, total).to_rich())
    console.print(f"Stays here: {', '.join(plan.left) or 'nothing'}")
    console.print(f"\nFront matter of the card:\n{dump_yaml(plan.metadata)}")
    if plan.shortened:
        console.print("Cut, because it names folders of this machine:")
    for path, short in plan.shortened.items():
        console.print(f"  {path} to {short}", soft_wrap=True)
    for note in plan.notes:
        console.print(f"Note: {note}")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return (
        not name.startswith(".")
        and "/" not in name
        and any(fnmatch.fnmatchcase(name, each) for each in patterns)
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RunError(
            f"{path}, line {line}: not UTF-8 text. Save it as UTF-8, or copy the folder again."
        ) from error
