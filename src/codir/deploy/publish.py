"""From a run folder or an exported model to the Hugging Face Hub: looked at first, then sent as one commit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from codir.deploy.hub import Hub, Remote, check_repo
from codir.deploy.publish_files import OF_A_MODEL, matches
from codir.deploy.publish_plan import Plan, make_plan
from codir.deploy.publish_show import show
from codir.engines.folder import MANIFEST
from codir.errors import ConfigError, RunError
from codir.locks import at_home
from codir.printing import Console, terminal
from codir.storage import human_bytes


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
    console = terminal(console)
    check_repo(repo)
    _check_branch(revision)
    plan = make_plan(
        Path(at_home(folder)),
        repo,
        exported=[Path(at_home(each)) for each in exported],
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
    text = message or f"Publish {Path(folder).resolve().name} with codir"
    with console.status(f"Sending {human_bytes(plan.bytes)} to {repo} ..."):
        _, commit = hub.send(plan.files, stale, text, revision, remote.head, made)
    console.print(f"\nPublished: {url}", highlight=False, soft_wrap=True, markup=False)
    return Published(plan, url, commit)


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


def _check_branch(revision: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][\w./-]*", revision) or ".." in revision or revision.startswith("refs/"):
        raise ConfigError(f"--revision {revision!r} is no name of a branch. Give one such as main or v1.")
