"""The Hugging Face Hub as `codir publish` needs it: few calls, and every failure a sentence with the way out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, errors
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from codir.errors import CodirError, ConfigError, InterruptedRunError, RunError, nearest

# Base of what its HTTP library raises, whichever that is (httpx, httpx2).
_HTTPError: type[Exception] = getattr(errors, "HTTPError", ConnectionError)
# What the Hub itself puts into a new repository.
_BORN_WITH = frozenset({".gitattributes"})
_LOG_IN = "`hf auth login` stores one; or set HF_TOKEN. It needs the right to write (huggingface.co/settings/tokens)"


@dataclass(frozen=True)
class Remote:
    """A repository as it is before anything is sent.

    Attributes:
        exists: whether it is there.
        private: whether only some may see it; None where it does not exist.
        head: the commit at the tip of the branch; None for a branch that is to be made.
        files: names at that commit, without what every new repository holds.
    """

    exists: bool
    private: bool | None = None
    head: str | None = None
    files: frozenset[str] = frozenset()


def check_repo(repo: str) -> None:
    """Raises `ConfigError` unless `repo` is `owner/name` by the Hub's rules; needs no network."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        why = str(error).split(":")[0].removesuffix(".")
        raise ConfigError(
            f"{repo!r} is no name of a repository on the Hub. {why}. Give user/model-name."
        ) from error
    if "/" not in repo:
        raise ConfigError(f"{repo!r} does not say whose repository it is. Give user/model-name.")


class Hub:
    """The calls, in the order in which `codir publish` makes them.

    Args:
        repo: `owner/name`.
        api: stands in for the real one in tests.
    """

    def __init__(self, repo: str, api: Any = None):
        self.repo = repo
        self._api = HfApi() if api is None else api

    def require_login(self) -> str:
        """Returns the user's name; raises `ConfigError` without a token that may write to the repository."""
        if constants.HF_HUB_OFFLINE:
            name = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
            raise ConfigError(
                f"{name} is set, so nothing can be sent. Unset it, or add --dry-run to look only."
            )
        with self._explaining("ask the Hub who you are"):
            who = self._api.whoami()
        name = str(who.get("name"))
        owner = self.repo.split("/")[0]
        organisations = [str(each.get("name")) for each in who.get("orgs") or []]
        if owner.lower() not in (known.lower() for known in (name, *organisations)):
            may = ", ".join([name, *organisations])
            raise ConfigError(
                f"The token is that of {name}, who cannot publish as {owner}{nearest(owner, [name, *organisations])}. "
                f"Possible owners: {may}. Give {name}/{self.repo.split('/')[1]}, or log in as somebody else."
            )
        if (who.get("auth") or {}).get("accessToken", {}).get("role") == "read":
            raise ConfigError(f"The token of {name} may only read. Make one that may write: {_LOG_IN}.")
        return name

    def look(self, revision: str) -> Remote:
        """Returns what is there now, without changing anything."""
        with self._explaining("look at the repository"):
            try:
                main = self._api.model_info(self.repo)
            except RepositoryNotFoundError as error:
                if _status(error) == 401:  # the token, not the repository
                    raise
                return Remote(False)
            try:
                info = main if revision == "main" else self._api.model_info(self.repo, revision=revision)
            except RevisionNotFoundError:
                # a new branch starts where main is, with main's files
                return Remote(True, bool(main.private), None, _names(main))
        return Remote(True, bool(info.private), info.sha, _names(info))

    def create(self, private: bool) -> None:
        """Makes the repository; one that was made meanwhile is an error."""
        with self._explaining("make the repository"):
            self._api.create_repo(self.repo, private=private, repo_type="model", exist_ok=False)

    def branch(self, revision: str) -> None:
        """Makes the branch, from main."""
        if revision != "main":
            with self._explaining(f"make the branch {revision}"):
                self._api.create_branch(self.repo, branch=revision, exist_ok=True)

    def send(
        self,
        files: dict[str, Path | bytes],
        delete: Sequence[str],
        message: str,
        revision: str,
        parent: str | None,
        made: bool,
    ) -> tuple[str, str]:
        """Sends everything as one commit, so that the repository changes as a whole or not at all.

        Args:
            files: by name in the repository, a file here or the content itself.
            delete: names there that go.
            message: of the commit.
            revision: the branch.
            parent: the commit that was looked at; another one there by now is an error.
            made: whether the repository was made just before.

        Returns:
            The commit's address and its hash.
        """
        kept = (
            f"The empty repository {self.repo} was made and can be used: "
            if made
            else "Nothing in the repository was changed: "
        )
        again = f"{kept}the same command goes on (what the Hub has already is not sent twice)."
        operations: list[Any] = [
            CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
            for name, content in files.items()
        ]
        operations += [CommitOperationDelete(name) for name in delete]
        try:
            with self._explaining("send the files", again):
                info = self._api.create_commit(
                    self.repo,
                    operations,
                    commit_message=message,
                    revision=revision,
                    parent_commit=parent,
                    repo_type="model",
                )
        except KeyboardInterrupt as error:
            raise InterruptedRunError(f"Stopped while sending. {again}") from error
        return str(info.commit_url), str(info.oid)

    @contextlib.contextmanager
    def _explaining(self, what: str, more: str = "") -> Iterator[None]:
        try:
            yield
        except CodirError:
            raise
        except LocalTokenNotFoundError as error:
            raise ConfigError(f"There is no token for the Hugging Face Hub. {_LOG_IN}.") from error
        except OfflineModeIsEnabled as error:
            raise ConfigError("HF_HUB_OFFLINE is set, so nothing can be sent. Unset it.") from error
        except HfHubHTTPError as error:
            raise RunError(_join(f"Could not {what}: {self._reason(error)}", more)) from error
        except (_HTTPError, ConnectionError, TimeoutError) as error:
            raise RunError(
                _join(
                    f"Could not {what}: the Hub at {constants.ENDPOINT} cannot be reached ({_first(error)}). Check the "
                    "connection (and HTTPS_PROXY, HF_ENDPOINT).",
                    more,
                )
            ) from error
        except (ValueError, RuntimeError, OSError) as error:
            # the Hub's own check of the card; the storage's uploader; a file that went away meanwhile
            text = " ".join(str(error).split())
            card = " Mend README.md, or --regenerate." if "metadata in README" in text else ""
            raise RunError(_join(f"Could not {what}: {text or type(error).__name__}.{card}", more)) from error

    def _reason(self, error: HfHubHTTPError) -> str:
        status = _status(error)
        said = " ".join((error.server_message or str(error)).split())
        reasons = {
            401: f"the Hub does not know the token (401). Log in again: {_LOG_IN}.",
            403: f"the token may not write to {self.repo} (403). A fine-grained token needs the right to write to this "
            "repository or its owner's; in an organisation you need the role `write`.",
            404: f"there is no repository {self.repo}, or the token may not see it (404).",
            409: f"{self.repo} was made or changed by somebody else meanwhile (409). Look at it, then run the command "
            "again, with --update to replace what is there.",
            412: f"{self.repo} was changed by somebody else meanwhile (412). Look at it, then run the command again.",
            413: f"a file is too large for the Hub (413): {said}.",
            429: "too many requests (429). Wait some minutes and run the command again.",
        }
        if status in reasons:
            return reasons[status]
        if status is not None and status >= 500:
            return f"the Hub has a fault of its own ({status}). Try again later; status.huggingface.co says more."
        return f"the Hub refused ({status}): {said}."


def _names(info: Any) -> frozenset[str]:
    return frozenset(each.rfilename for each in info.siblings or []) - _BORN_WITH


def _status(error: HfHubHTTPError) -> int | None:
    return getattr(error.response, "status_code", None)


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _join(first: str, more: str) -> str:
    return f"{first} {more}".rstrip()
