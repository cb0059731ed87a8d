"""A small Hugging Face Hub on this machine, for the real `HfApi`; every file goes inside the commit."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

REPO = "ann/small"
HEAD, DONE = "c" * 40, "d" * 40


class SmallHub(ThreadingHTTPServer):
    """Answers what `codir publish` asks about one repository."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exists = self.private = False
        self.files: dict[str, bytes] = {}
        self.branches = {"main"}
        self.head = HEAD  # the commit at the tip of all branches
        self.asked: list[str] = []  # `METHOD path`, in order
        self.answers: dict[str, int] = {}  # by path, a status to fail with

    @property
    def address(self) -> str:
        """The address to give `HfApi`."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes) -> None:
        hub, path = cast(SmallHub, self.server), self.path.partition("?")[0].removeprefix("/api/")
        hub.asked.append(f"{self.command} {path}")
        model, (kind, _, branch) = path == f"models/{REPO}", path.removeprefix(f"models/{REPO}/").partition("/")
        if path in hub.answers:
            return self._send(hub.answers[path], {"error": "no"})
        if path == "whoami-v2":
            known = self.headers.get("authorization") == "Bearer hf_test"
            return self._send(200 if known else 401, {"name": "ann"} if known else {"error": "Invalid token"})
        if path == "repos/create":
            hub.exists, hub.private = True, "private" in body.decode()
            return self._send(200, {"url": f"{hub.address}/{REPO}"})
        if path == "validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if not hub.exists:
            return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if kind == "branch":
            hub.branches.add(branch)
            return self._send(200, {})
        if not model and branch not in hub.branches:
            return self._send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        if model or kind == "revision":
            siblings = [{"rfilename": name} for name in (".gitattributes", *hub.files)]
            known = {"id": REPO, "modelId": REPO, "private": hub.private, "sha": hub.head, "tags": []}
            return self._send(200, {**known, "siblings": siblings})
        if kind == "preupload":
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self._send(200, {"files": [{"path": f["path"], **plain} for f in json.loads(body)["files"]]})
        if kind == "commit":
            return self._commit([json.loads(line) for line in body.splitlines()])
        return self._send(404, {"error": f"unknown: {path}"})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        hub = cast(SmallHub, self.server)
        if lines[0]["value"].get("parentCommit") not in (None, hub.head):
            return self._send(412, {"error": "A commit has happened since. Please refresh and try again."})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del hub.files[value["path"]]
        hub.head = DONE
        self._send(200, {"commitUrl": f"{hub.address}/{REPO}/commit/{hub.head}", "commitOid": hub.head})

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def running() -> Iterator[SmallHub]:
    """Yields a hub that is served while the block runs."""
    server = SmallHub()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
