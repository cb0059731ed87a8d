"""From a run folder or an exported model to the Hugging Face Hub: looked at first, then sent as one commit."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, constants, errors
from huggingface_hub.utils import validate_repo_id

from codir.config.yaml_text import dump_yaml, read_yaml_file
from codir.deploy.settings import PublishSettings, settings_of
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
_RESULTS = ("codir.yaml", "environment.json", "metrics.json", "latency.json", "corpus.json")
# What is not on this list stays, whatever it is.
_OF_A_RUN = (
    *(CARD, "LICENSE*", "NOTICE*", "config.json", "generation_config.json", "chat_template.jinja"),
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "bpe.codes", "tokenizer.model", "spiece.model", "spm.model"),
    *("sentencepiece.bpe.model", *_RESULTS, "table.md"),
)
# Where a model is replaced, these would be left-overs of the old one, or belie the new one.
_OF_A_MODEL = (*_OF_A_RUN, MANIFEST, "report.html", "*.onnx", "*.onnx.data", "openvino_model*")
_TEXTS = (".md", ".yaml", ".json", ".html", ".xml", ".onnx")
_LOG_IN = "Log in by `hf auth login`, or set HF_TOKEN, with a token that may write (huggingface.co/settings/tokens)."
_CHANGED = "Somebody else made or changed it meanwhile: look at it, then run the command again with --update."
_WAYS = {401: _LOG_IN, 403: "The token needs the right to write there.", 409: _CHANGED, 412: _CHANGED}


@dataclass
class Published:
    """What was sent, or after a dry run would have been."""

    folder: Path
    url: str
    files: dict[str, Path | bytes] = field(default_factory=dict)  # by name in the repository
    left: list[str] = field(default_factory=list)  # what stays here; folders end in a slash
    metadata: dict[str, Any] = field(default_factory=dict)  # the card's front matter
    shortened: dict[str, str] = field(default_factory=dict)  # paths of this machine that were cut
    notes: list[str] = field(default_factory=list)
    commit: str | None = None  # its hash; None after a dry run


class Remote(NamedTuple):
    """A repository before anything is sent: the tip of the branch (None if that is to be made), the names there."""

    exists: bool
    private: bool = False
    head: str | None = None
    files: Sequence[str] = ()


def publish(
    folder: str | Path,
    repo: str,
    *,
    confirm: Callable[[str], bool] | None = None,
    console: Console | None = None,
    api: Any = None,
    **settings: Any,
) -> Published:
    """Publishes a finished run, or an exported model, on the Hugging Face Hub.

    Only what is needed to use the model and to repeat the run goes; paths of this machine are cut to their names;
    everything arrives as one commit or not at all.

    Args:
        folder: The run folder, or one that `codir export` made.
        repo: `owner/name`.
        confirm: Asked before anything is changed; None is yes.
        api: Stands in for `huggingface_hub.HfApi`.
        **settings: Of `codir.deploy.settings.PublishSettings`.

    Raises:
        ConfigError: A bad name, no token, no consent.
        ModelError: No model, or a damaged one.
        RunError: An unfinished or damaged run, a repository in the way, a failure of the Hub or the network.
    """
    console, wanted = terminal(console), settings_of(PublishSettings, settings)
    _check_names(repo, wanted)
    plan = _prepare(Path(at_home(folder)), repo, wanted)
    if wanted.dry_run:
        _show(plan, console, f"{repo} ({'private' if wanted.private else 'public'})")
        console.print("\nA dry run: nothing was sent. Without --dry-run it is.", highlight=False)
        return plan
    api = HfApi() if api is None else api
    with _explained("ask the Hub who you are"):
        user = api.whoami()["name"]
    remote = _look(api, repo, wanted.revision)
    stale = _left_overs(remote, plan, repo, wanted)
    state = "private" if (remote.private if remote.exists else wanted.private) else "public"
    exists = ", exists" if remote.exists else ""
    _show(plan, console, f"{repo} ({state}{exists}, branch {wanted.revision})", stale)
    if confirm is not None and not confirm(f"Send this to {repo} as {user}?"):
        raise ConfigError("Nothing was sent.")
    plan.commit = _send(api, repo, plan, stale, remote, wanted)
    console.print(f"\nPublished: {plan.url}", highlight=False, soft_wrap=True, markup=False)
    return plan


def _check_names(repo: str, wanted: PublishSettings) -> None:
    why = "It does not say whose repository it is" if "/" not in repo else ""
    try:
        validate_repo_id(repo)
    except errors.HFValidationError as error:
        why = str(error).split(":")[0].removesuffix(".")
    if why:
        raise ConfigError(f"{repo!r} is no name of a repository on the Hub. {why}. Give user/model-name.")
    name = r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)*"
    if not re.fullmatch(name, wanted.revision) or wanted.revision.startswith("refs/"):
        raise ConfigError(f"--revision {wanted.revision!r} is no name of a branch, such as main or v1.")
    if wanted.subfolder and not re.fullmatch(name, wanted.subfolder):
        raise ConfigError(f"--subfolder {wanted.subfolder!r} is no name of a folder, such as openvino-int8.")


def _prepare(folder: Path, repo: str, wanted: PublishSettings) -> Published:
    """Checks the folder and prepares every file; reads only, and needs no network."""
    manifest = _check_folder(folder)
    if wanted.report and not (folder / "report.html").is_file():
        raise ConfigError(f"{folder} has no report.html: write it by `codir report {shlex.quote(str(folder))}`.")
    allowed = _OF_A_RUN if manifest is None else (CARD, MANIFEST, *manifest.files)
    allowed = (*allowed, "report.html") if wanted.report else allowed
    there = sorted(folder.iterdir(), key=lambda path: path.name)
    names = [path.name for path in there if path.is_file() and _matches(path.name, allowed)]
    branch = f"/tree/{wanted.revision}" if wanted.revision != "main" else ""
    plan = Published(folder, f"{constants.ENDPOINT}/{repo}{branch}")
    plan.left = [path.name + "/" * path.is_dir() for path in there if path.name not in names]
    # first what tells of paths: they are then known in the texts
    contents: dict[str, Path | bytes] = {}
    for name in sorted(names, key=lambda name: name.endswith((".md", ".html"))):
        contents[name] = _content(folder / name, plan.shortened)
    card = _card(folder, repo, plan.notes)
    if wanted.license is not None:
        card.data["license"] = wanted.license
    if wanted.language is not None:
        card.data["language"] = [each.strip() for each in wanted.language.split(",")]
    if not card.data.get("license"):
        plan.notes.append("No licence is given, so nobody else may use the model. Add --license mit, apache-2.0, ...")
    plan.metadata = card.data.to_dict()
    contents[CARD] = short_paths(str(card), plan.shortened).encode()
    for name in sorted(contents):
        _require_impersonal(folder / name, contents[name])
        plan.files[f"{wanted.subfolder}/{name}" if wanted.subfolder else name] = contents[name]
    return plan


def _check_folder(folder: Path) -> Manifest | None:
    """Refuses what is no model, unfinished or damaged; returns the manifest of an exported folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder. Give a run folder or an exported folder.")
    if is_deployed(folder):
        manifest = Manifest.read(folder)
        manifest.check_files(folder)
        load_tokenizer(folder)
        return manifest
    run = RunFolder(folder)
    if not run.status and not run.is_run:
        raise ModelError(
            f"{folder} is neither a run folder nor an exported folder. `hf upload user/name {folder}` sends any other "
            "model as it is."
        )
    if not run.finished:
        raise RunError(
            f"The run in {folder} is not finished (it is {run.state}). The command that started it, with --resume, "
            "goes on with it."
        )
    resolve(folder)  # refuses a folder without config.json
    for path in (run.config, run.environment, run.metrics):
        if not path.is_file() or (path.suffix == ".json" and not isinstance(read_whole(path), dict)):
            raise RunError(f"{path} is {'damaged' if path.is_file() else 'missing'}. Copy the run folder again, whole.")
    # loading finds weights that are truncated or belong to another model
    masked = any("MaskedLM" in str(name) for name in load_config(folder).architectures or ())
    model = load_masked_lm(folder) if masked else load_classifier(folder)
    load_tokenizer_for(model, folder)
    broken = next((name for name, value in model.named_parameters() if not torch.isfinite(value).all()), None)
    if broken is not None:
        raise ModelError(f"{folder}: the weight {broken} is not finite everywhere. Do not publish this model.")
    return None


def _content(path: Path, found: dict[str, str]) -> Path | bytes:
    """Returns a file as it is published: settings, results and texts with short paths, all else as it is."""
    if path.name == "codir.yaml":
        return dump_yaml(short_paths(read_yaml_file(path)[0], found)).encode()
    if path.name in (*_RESULTS, MANIFEST):
        values = read_json(path)
        short = short_paths(values, found)
        return path if short == values else (json.dumps(short, indent=2, ensure_ascii=False) + "\n").encode()
    if path.name.endswith((".md", ".html")):
        try:
            return short_paths(path.read_text(encoding="utf-8"), found).encode()
        except UnicodeDecodeError as error:
            raise RunError(f"{path} is not UTF-8 text. Save it as UTF-8.") from error
    return path


def _card(folder: Path, repo: str, notes: list[str]) -> ModelCard:
    """Returns the folder's card, under the repository's name; that of a run is built anew if it is missing."""
    path = folder / CARD
    if not path.is_file():
        notes.append(f"{CARD} is missing and built anew.")
    try:
        card = ModelCard(path.read_text(encoding="utf-8") if path.is_file() else run_card(folder))
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RunError(
            f"{path}: the front matter is not what the Hub takes: {' '.join(str(error).split())}. Mend it, or delete "
            "the file of a run: then it is built anew."
        ) from error
    old, new = folder.absolute().name, repo.split("/")[1]
    if card.data.get("model_name") == old:
        card.data["model_name"] = new
    card.text = card.text.replace(f"# {inline(old)}\n", f"# {inline(new)}\n", 1)
    card.text = card.text.replace(f"{old!r}  # this folder", repr(repo))
    return card


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
    sizes = {name: len(each) if isinstance(each, bytes) else each.stat().st_size for name, each in plan.files.items()}
    rows = [(name, human_bytes(size)) for name, size in sizes.items()]
    rows += [(name, "deleted: a left-over of the model there") for name in stale]
    total = f"{len(sizes)} files, {human_bytes(sum(sizes.values()))}"
    console.print(f"{plan.folder} to {where}", soft_wrap=True)
    console.print(Table("", (Column("file", left=True), Column("size")), rows, total).to_rich())
    console.print(f"Stays here: {', '.join(plan.left) or 'nothing'}")
    console.print(f"\nFront matter of the card:\n{dump_yaml(plan.metadata)}")
    for path, short in plan.shortened.items():
        console.print(f"Cut, because it names a folder of this machine: {path} to {short}", soft_wrap=True)
    for note in plan.notes:
        console.print(f"Note: {note}")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return name[:1] != "." and "/" not in name and any(fnmatch.fnmatchcase(name, each) for each in patterns)


# --- the Hub: every failure is a sentence with the way out ------------------------------------------------------------


def _look(api: Any, repo: str, revision: str) -> Remote:
    """Returns what is there now, without changing anything."""
    with _explained(f"look at {repo}"):
        try:
            info = api.model_info(repo)
        except errors.RepositoryNotFoundError as error:
            if error.response.status_code == 401:  # the token, not the repository
                raise
            return Remote(False)
        head = info.sha
        if revision != "main":
            try:
                info = api.model_info(repo, revision=revision)
                head = info.sha
            except errors.RevisionNotFoundError:
                head = None  # a new branch starts where main is, with main's files
    names = sorted(each.rfilename for each in info.siblings or [] if each.rfilename != ".gitattributes")
    return Remote(True, bool(info.private), head, names)


def _left_overs(remote: Remote, plan: Published, repo: str, wanted: PublishSettings) -> list[str]:
    """Returns the old model's files that the new one does not have; raises where the repository is in the way."""
    if remote.exists and wanted.private and not remote.private:
        raise ConfigError(
            f"{repo} exists and is public: --private only says how a repository is made. Change it in its settings, or "
            "choose another name."
        )
    prefix = f"{wanted.subfolder}/" if wanted.subfolder else ""
    there = [name for name in remote.files if name.startswith(prefix)]
    if there and not wanted.update:
        raise RunError(
            f"{repo} holds {len(there)} files already ({', '.join(there[:5])}). Add --update to replace the model in "
            "it, or choose another name."
        )
    return [name for name in there if name not in plan.files and _matches(name[len(prefix) :], _OF_A_MODEL)]


def _send(api: Any, repo: str, plan: Published, stale: Sequence[str], remote: Remote, wanted: PublishSettings) -> str:
    """Makes repository and branch if they are missing, and sends everything as one commit; returns its hash.

    The commit is tied to what was looked at. `upload_folder` would cut what is large into several commits.
    """
    if not remote.exists:
        with _explained(f"make the repository {repo}"):
            api.create_repo(repo, private=wanted.private, exist_ok=False)
        remote = _look(api, repo, wanted.revision)
    if remote.head is None:
        with _explained(f"make the branch {wanted.revision}"):
            api.create_branch(repo, branch=wanted.revision, exist_ok=True)
    operations: list[Any] = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in plan.files.items()
    ]
    operations += [CommitOperationDelete(name) for name in stale]
    message = wanted.message or f"Publish {plan.folder.resolve().name} with codir"
    with _explained(f"send the files to {repo}"):
        to = {"commit_message": message, "revision": wanted.revision, "parent_commit": remote.head}
        return str(api.create_commit(repo, operations, **to).oid)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns what huggingface_hub raises inside the block into one sentence: `Could not WHAT: why.` and the way on."""
    try:
        yield
    except errors.LocalTokenNotFoundError as error:
        raise ConfigError(f"There is no token for the Hugging Face Hub. {_LOG_IN}") from error
    except errors.OfflineModeIsEnabled as error:
        raise ConfigError("HF_HUB_OFFLINE is set, so nothing can be sent. Unset it, or add --dry-run.") from error
    except Exception as error:  # its own check of the card; its HTTP library's, whichever that is
        said = getattr(error, "server_message", None) or str(error) or type(error).__name__
        way = _WAYS.get(error.response.status_code, "") if isinstance(error, errors.HfHubHTTPError) else ""
        raise RunError(f"Could not {what}: {' '.join(said.split()).rstrip('.')}. {way}".rstrip()) from error
