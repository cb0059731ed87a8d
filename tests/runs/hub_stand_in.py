"""A Hub for tests: remembers what it was asked, and fails where it is told to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

HEAD = "a" * 40


def http_error(
    status: int, kind: type[HfHubHTTPError] = HfHubHTTPError, said: str | None = None
) -> HfHubHTTPError:
    """Returns what huggingface_hub raises for an answer of the Hub."""
    request = httpx2.Request("POST", "https://hub.invalid/api")
    return kind(
        f"{status} Client Error", response=httpx2.Response(status, request=request), server_message=said
    )


class StandIn:
    """Has the calls of `HfApi` that `codir publish` makes.

    Args:
        files: names in the repository; None for a repository that does not exist.
        private: of the repository.
        branches: besides main.
        fail: by the name of a call, what it raises.
        who: what `whoami` answers.
    """

    def __init__(
        self,
        files: Iterable[str] | None = None,
        private: bool = False,
        branches: Iterable[str] = (),
        fail: dict[str, BaseException] | None = None,
        who: dict[str, Any] | None = None,
    ):
        self.files: set[str] | None = None if files is None else {".gitattributes", *files}
        self.private = private
        self.branches = {"main", *branches}
        self.fail = fail or {}
        self.who = who or {"name": "ann", "orgs": [{"name": "lab"}]}
        self.calls: list[str] = []
        self.sent: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.commit: dict[str, Any] = {}

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            raise self.fail[name]

    def whoami(self) -> dict[str, Any]:
        self._called("whoami")
        return self.who

    def model_info(self, repo: str, revision: str | None = None) -> Any:
        self._called("model_info")
        if self.files is None:
            raise http_error(404, RepositoryNotFoundError)
        if revision is not None and revision not in self.branches:
            raise http_error(404, RevisionNotFoundError)
        siblings = [SimpleNamespace(rfilename=name) for name in sorted(self.files)]
        return SimpleNamespace(private=self.private, sha=HEAD, siblings=siblings)

    def create_repo(self, repo: str, *, private: bool, repo_type: str, exist_ok: bool) -> None:
        self._called("create_repo")
        assert (repo_type, exist_ok) == ("model", False)
        self.files, self.private = {".gitattributes"}, private

    def create_branch(self, repo: str, *, branch: str, exist_ok: bool) -> None:
        self._called("create_branch")
        self.branches.add(branch)

    def create_commit(self, repo: str, operations: list[Any], **settings: Any) -> Any:
        self._called("create_commit")
        for each in operations:
            if isinstance(each, CommitOperationAdd):
                content = each.path_or_fileobj
                self.sent[each.path_in_repo] = (
                    content if isinstance(content, bytes) else Path(str(content)).read_bytes()
                )
            else:
                self.deleted.append(each.path_in_repo)
        self.commit = {"repo": repo, **settings}
        return SimpleNamespace(commit_url=f"https://hub.invalid/{repo}/commit/1", oid="b" * 40)
