"""The Hugging Face Hub as `codir publish` needs it: every failure is a sentence with the way out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants, errors
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from codir.errors import ConfigError, InterruptedRunError, RunError

# Base of what its HTTP library raises, whichever that is (httpx, httpx2).
_HTTPError: type[Exception] = getattr(errors, "HTTPError", ConnectionError)
_LOG_IN = "`hf auth login` stores one; or set HF_TOKEN. It needs the right to write (huggingface.co/settings/tokens)"
_REASONS = {
    401: f"the Hub does not know the token (401). Log in again: {_LOG_IN}.",
    403: "the token may not write there (403). A fine-grained token needs the right to write to this repository or "
    "its owner's; in an organisation you need the role `write`.",
    404: "there is no such repository, or the token may not see it (404).",
    409: "it was made or changed by somebody else meanwhile (409). Look at it, then run the command again, with "
    "--update to replace what is there.",
    412: "it was changed by somebody else meanwhile (412). Look at it, then run the command again.",
    429: "too many requests (429). Wait some minutes and run the command again.",
}


@dataclass(frozen=True)
class Remote:
    """A repository before anything is sent: the tip of the branch (None if that is to be made), the names there."""

    exists: bool
    private: bool = False
    head: str | None = None
    files: frozenset[str] = frozenset()


def check_names(repo: str, revision: str, subfolder: str) -> None:
    """Raises `ConfigError` unless repository (`owner/name`), branch and subfolder have possible names."""
    why = "It does not say whose repository it is" if "/" not in repo else ""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        why = str(error).split(":")[0].removesuffix(".")
    if why:
        raise ConfigError(f"{repo!r} is no name of a repository on the Hub. {why}. Give user/model-name.")
    name = r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)*"
    if not re.fullmatch(name, revision) or revision.startswith("refs/"):
        raise ConfigError(f"--revision {revision!r} is no name of a branch. Give one such as main or v1.")
    if subfolder and not re.fullmatch(name, subfolder):
        raise ConfigError(
            f"--subfolder {subfolder!r} is no name of a folder. Give one such as onnx or openvino-int8."
        )


def look(api: Any, repo: str, revision: str) -> Remote:
    """Returns what is there now, without changing anything."""
    with explained(f"look at {repo}"):
        try:
            info = api.model_info(repo)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401:  # the token, not the repository
                raise
            return Remote(False)
        head = info.sha
        if revision != "main":
            try:
                info = api.model_info(repo, revision=revision)
                head = info.sha
            except RevisionNotFoundError:
                head = None  # a new branch starts where main is, with main's files
    files = frozenset(each.rfilename for each in info.siblings or []) - {".gitattributes"}
    return Remote(True, bool(info.private), head, files)


def send(
    api: Any,
    repo: str,
    files: Mapping[str, Path | bytes],
    delete: Sequence[str],
    remote: Remote,
    *,
    private: bool,
    revision: str,
    message: str,
) -> str:
    """Makes repository and branch if they are missing, and sends everything as one commit; returns its hash.

    The commit is tied to what was looked at. `upload_folder` would cut what is large into several commits.
    """
    kept = "Nothing in the repository was changed"
    if not remote.exists:
        with explained(f"make the repository {repo}"):
            api.create_repo(repo, private=private, exist_ok=False)
        remote, kept = look(api, repo, revision), f"The empty repository {repo} was made and can be used"
    if remote.head is None:
        with explained(f"make the branch {revision}"):
            api.create_branch(repo, branch=revision, exist_ok=True)
    operations: list[Any] = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    operations += [CommitOperationDelete(name) for name in delete]
    again = f"{kept}: the same command goes on (what the Hub has already is not sent twice)."
    try:
        with explained(f"send the files to {repo}", again):
            info = api.create_commit(
                repo, operations, commit_message=message, revision=revision, parent_commit=remote.head
            )
    except KeyboardInterrupt as error:
        raise InterruptedRunError(f"Stopped while sending. {again}") from error
    return str(info.oid)


@contextlib.contextmanager
def explained(what: str, after: str = "") -> Iterator[None]:
    """Turns what huggingface_hub raises inside the block into one sentence: `Could not WHAT: why. AFTER`."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ConfigError(f"There is no token for the Hugging Face Hub. {_LOG_IN}.") from error
    except OfflineModeIsEnabled as error:
        raise ConfigError(
            "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set, so nothing can be sent. Unset it, or add --dry-run to "
            "look only."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = " ".join((error.server_message or str(error)).split())
        reason = _REASONS.get(status, f"the Hub refused ({status}): {said}.")
        if status >= 500:
            reason = f"the Hub has a fault of its own ({status}). Try again later; status.huggingface.co says more."
        raise RunError(f"Could not {what}: {reason} {after}".rstrip()) from error
    except (_HTTPError, ConnectionError, TimeoutError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RunError(
            f"Could not {what}: the Hub at {constants.ENDPOINT} cannot be reached ({why}). Check the connection (and "
            f"HTTPS_PROXY, HF_ENDPOINT). {after}".rstrip()
        ) from error
    except (ValueError, RuntimeError, OSError) as error:
        # the Hub's own check of the card; the storage's uploader; a file that went away meanwhile
        text = " ".join(str(error).split()) or type(error).__name__
        card = " Mend README.md." if "metadata in README" in text else ""
        raise RunError(f"Could not {what}: {text}.{card} {after}".rstrip()) from error
