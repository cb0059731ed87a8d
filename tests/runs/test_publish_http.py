"""`codir publish` through the real `HfApi`, against a small Hub on this machine: the calls fit the library's."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from huggingface_hub import HfApi, constants
from small_world import World, quiet

from codir.deploy.publish import publish
from codir.errors import CodirError, ConfigError, RunError

REPO = "ann/small"
HEAD = "c" * 40


class SmallHub(ThreadingHTTPServer):
    """Answers what `codir publish` asks; everything goes as a regular file, inside the commit."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exists = False
        self.files: dict[str, bytes] = {}
        self.head = HEAD
        self.asked: list[str] = []
        self.answers: dict[str, int] = {}  # path -> status to fail with


class _Handler(BaseHTTPRequestHandler):
    @property
    def hub(self) -> SmallHub:
        return cast(SmallHub, self.server)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes) -> None:
        hub, path = self.hub, self.path.partition("?")[0].removeprefix("/api/")
        hub.asked.append(f"{self.command} {path}")
        if path in hub.answers:
            return self._send(hub.answers[path], {"error": "no"})
        if path == "whoami-v2":
            if self.headers.get("authorization") != "Bearer hf_test":
                return self._send(401, {"error": "Invalid token"})
            return self._send(200, {"name": "ann", "orgs": [], "auth": {"accessToken": {"role": "write"}}})
        if path == "repos/create":
            hub.exists = True
            return self._send(200, {"url": f"http://127.0.0.1:{hub.server_port}/{REPO}"})
        if path == f"models/{REPO}" or path.startswith(f"models/{REPO}/revision/"):
            if not hub.exists:
                return self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            siblings = [{"rfilename": name} for name in (".gitattributes", *hub.files)]
            return self._send(
                200,
                {
                    "id": REPO,
                    "modelId": REPO,
                    "private": False,
                    "sha": hub.head,
                    "tags": [],
                    "siblings": siblings,
                },
            )
        if path == "validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == f"models/{REPO}/preupload/main":
            files = [
                {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for each in json.loads(body)["files"]
            ]
            return self._send(200, {"files": files})
        if path == f"models/{REPO}/commit/main":
            return self._commit([json.loads(line) for line in body.splitlines()])
        return self._send(404, {"error": f"unknown: {path}"})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        hub = self.hub
        if lines[0]["value"].get("parentCommit") != hub.head:
            return self._send(412, {"error": "A commit has happened since. Please refresh and try again."})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del hub.files[value["path"]]
        hub.head = "d" * 40
        self._send(
            200,
            {
                "commitUrl": f"http://127.0.0.1:{hub.server_port}/{REPO}/commit/{hub.head}",
                "commitOid": hub.head,
            },
        )

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = SmallHub()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def send(hub: SmallHub, world: World) -> Callable[..., Any]:
    def call(token: str = "hf_test", **settings: Any) -> Any:
        api = HfApi(endpoint=f"http://127.0.0.1:{hub.server_port}", token=token)
        return publish(world.teacher, REPO, console=quiet(), api=api, **settings)

    return call


def test_a_model_goes_there_and_is_replaced(hub: SmallHub, send: Callable[..., Any], world: World) -> None:
    done = send()
    assert done.commit == "d" * 40
    assert hub.files["model.safetensors"] == (world.teacher / "model.safetensors").read_bytes()
    assert hub.files.keys() == done.plan.files.keys()
    with pytest.raises(RunError, match="--update"):
        send()
    hub.files["vocab.txt"] = b"of an older model"
    send(update=True)
    assert "vocab.txt" not in hub.files


def test_somebody_else_was_faster(hub: SmallHub, send: Callable[..., Any]) -> None:
    def meanwhile(question: str) -> bool:
        hub.head = "e" * 40
        return True

    hub.exists = True
    with pytest.raises(RunError, match="changed by somebody else meanwhile"):
        send(confirm=meanwhile)
    assert not hub.files


def test_a_wrong_token(hub: SmallHub, send: Callable[..., Any]) -> None:
    with pytest.raises(RunError, match="does not know the token"):
        send(token="hf_wrong")
    assert hub.asked == ["GET whoami-v2"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("repos/create", 403, "make the repository: the token may not write"),
        (f"models/{REPO}/preupload/main", 403, "send the files: the token may not write"),
        (f"models/{REPO}/commit/main", 500, "fault of its own .500"),
        (f"models/{REPO}/commit/main", 413, "too large"),
    ],
)
def test_what_the_hub_refuses(
    hub: SmallHub, send: Callable[..., Any], path: str, status: int, message: str
) -> None:
    hub.answers[path] = status
    with pytest.raises(CodirError, match=message):
        send()
    assert not hub.files


def test_the_hubs_own_check_of_the_card(hub: SmallHub, send: Callable[..., Any]) -> None:
    hub.answers["validate-yaml"] = 400
    with pytest.raises(RunError, match=r"Invalid metadata in README.md.*Mend README.md"):
        send()


def test_no_network(hub: SmallHub, world: World) -> None:
    api = HfApi(endpoint="http://127.0.0.1:9", token="hf_test")
    with pytest.raises(RunError, match="cannot be reached"):
        publish(world.teacher, REPO, console=quiet(), api=api)


def test_no_token(hub: SmallHub, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))
    api = HfApi(endpoint=f"http://127.0.0.1:{hub.server_port}")
    with pytest.raises(ConfigError, match=r"no token.*hf auth login"):
        publish(world.teacher, REPO, console=quiet(), api=api)
