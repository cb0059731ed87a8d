"""`codir publish`: what goes, what stays, which paths are cut, and what is said when the Hub says no."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard, constants
from rich.console import Console
from safetensors.torch import load_file, save_file
from small_hub import DONE, REPO, SmallHub, running
from typer.testing import CliRunner, Result

from codir import distill
from codir.cli.main import app
from codir.deploy.publish import Published, publish
from codir.engines.folder import Manifest
from codir.errors import CodirError, ConfigError, ModelError, RunError
from codir.files import write_json
from codir.record.run_data import inputs_of


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def distilled(
    tmp_path_factory: pytest.TempPathFactory, tiny_classifier: Callable[..., Any], tiny_tokenizer: Any
) -> Path:
    """A finished distillation by absolute paths."""
    folder = tmp_path_factory.mktemp("world")
    tiny_classifier(layers=2).save_pretrained(folder / "teacher")
    tiny_tokenizer.save_pretrained(folder / "teacher")
    for name in ("train.csv", "dev.csv"):
        (folder / name).write_text("text,label\n" + "good film,positive\nbad film,negative\n" * 8)
    distill(
        teacher=str(folder / "teacher"),
        data={"train": str(folder / "train.csv"), "validation": str(folder / "dev.csv"), "max_length": 16},
        student={"layers": 1},
        recipe="kd",
        baseline=False,
        training={"max_steps": 1, "per_device_train_batch_size": 4, "precision": "fp32"},
        cache_dir=str(folder / "cache"),
        output=str(folder / "student"),
        console=Console(file=io.StringIO()),
        timing=False,
    )
    return folder / "student"


@pytest.fixture
def run(distilled: Path, tmp_path: Path) -> Path:
    """Returns a copy of a finished distillation, to be spoilt; without its manifest, which would tell of it first."""
    copied = Path(shutil.copytree(distilled, tmp_path / "student"))
    (copied / "codir-manifest.json").unlink()
    return copied


def send(folder: Path, hub: SmallHub | None, token: str | None = "hf_test", **settings: Any) -> tuple[Published, str]:
    console = Console(file=io.StringIO(), width=120)
    api = HfApi(endpoint=hub.address, token=token) if hub is not None else None
    done = publish(folder, REPO, console=console, api=api, **settings)
    return done, console.file.getvalue()  # type: ignore[attr-defined]


def look(folder: Path, **settings: Any) -> tuple[Published, str]:
    return send(folder, None, dry_run=True, **settings)


def content(done: Published, name: str) -> str:
    each = done.files[name]
    return (each if isinstance(each, bytes) else each.read_bytes()).decode()


# --- what goes, and what stays


def test_what_goes_is_an_allowlist(run: Path) -> None:
    (run / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    secrets = ("contrast.safetensors", "notes.txt", ".env", "optimizer.pt", "report.html", "log.jsonl")
    for name in (*secrets, "LICENSE"):
        (run / name).write_text("secret")
    done, text = look(run)
    told = ["LICENSE", "README.md", "codir.yaml", "config.json", "environment.json", "metrics.json"]
    assert list(done.files) == [*told, "model.safetensors", "table.md", "tokenizer.json", "tokenizer_config.json"]
    for name in ("checkpoints/", "run.json", *secrets):
        assert name in done.left
        assert name in text


def test_a_model_goes_there_as_one_commit_and_can_be_used(run: Path, hub: SmallHub, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    done, text = send(run, hub, private=True)
    assert (done.commit, hub.private) == (DONE, True)
    assert sum("commit" in each for each in hub.asked) == 1
    assert hub.files.keys() == done.files.keys()
    assert text.rstrip().endswith(f"Published: {done.url}")
    there = tmp_path / "there"
    there.mkdir()
    for name, each in hub.files.items():
        (there / name).write_bytes(each)
    assert AutoModelForSequenceClassification.from_pretrained(there).config.num_labels == 2
    assert AutoTokenizer.from_pretrained(there)("a good film")["input_ids"]
    assert getattr(inputs_of(there), "max_length", None) == 16  # whoever evaluates it reads texts as in training


def test_an_update_leaves_no_old_parts_behind(run: Path, hub: SmallHub) -> None:
    hub.exists = True
    old = ("model-00001-of-00002.safetensors", "vocab.txt", "photo.png", "onnx/model.onnx")
    hub.files = dict.fromkeys(old, b"old")
    with pytest.raises(RunError, match=r"holds 4 files already .*Add --update"):
        send(run, hub)
    done, text = send(run, hub, update=True)
    assert hub.files.keys() == done.files.keys() | set(old[2:])
    assert "a left-over of the model there" in text


def test_an_exported_model_goes_into_a_subfolder(run: Path, hub: SmallHub, tmp_path: Path) -> None:
    folder, there = tmp_path / "bf16", tmp_path / "there"
    folder.mkdir()
    there.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(run / name, folder)
    (folder / "README.md").write_text("---\ntags: [codir]\n---\n\n# Words\n")
    kind: dict[str, Any] = {"format": "torch-bf16", "quantize": "none", "precision": "bf16"}
    Manifest(**kind, engine="torch-bf16", source=str(run), command=f"codir export {run}").write(folder)
    (folder / "notes.txt").write_text("mine")
    send(run, hub)
    done, _ = send(folder, hub, subfolder="torch-bf16")  # what lies above is not in the way
    assert done.left == ["notes.txt"]
    for name in done.files:
        assert name.startswith("torch-bf16/")
        (there / name.removeprefix("torch-bf16/")).write_bytes(hub.files[name])
    manifest = Manifest.read(there)
    manifest.check_files(there)
    assert (manifest.source, manifest.command) == (".../student", "codir export .../student")
    with pytest.raises(RunError, match=r"holds 6 files already .torch-bf16/README"):
        send(folder, hub, subfolder="torch-bf16")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(ModelError, match="truncated"):
        look(folder)


# --- the card


def test_the_card_goes_under_the_repositorys_name(run: Path) -> None:
    done, _ = look(run, license="apache-2.0", language="en")
    text = content(done, "README.md")
    data = ModelCard(text, ignore_metadata_errors=False).data.to_dict()
    assert (data["license"], data["language"]) == ("apache-2.0", ["en"])
    assert data["model-index"][0]["name"] == "small"
    assert done.metadata == data
    assert "\n# small\n" in text
    assert f"path = '{REPO}'\n" in text


def test_a_card_edited_by_hand_goes_as_it_is_and_a_missing_one_is_built(run: Path) -> None:
    path = run / "README.md"
    before = content(look(run)[0], "README.md")
    path.write_text(path.read_text().replace("## Limits", "## Mine\n\nWritten by hand.\n\n## Limits"))
    assert "Written by hand." in content(look(run)[0], "README.md")
    path.unlink()
    done, text = look(run)
    assert content(done, "README.md") == before
    assert "README.md is missing and built anew" in text
    assert "No licence is given" in text
    for front in ("tags: [a", "- a\n- b", "model-index:\n- name: x\n  results:\n  - metrics: 3"):
        path.write_text(f"---\n{front}\n---\n\n# Words\n")
        with pytest.raises(RunError, match=r"README.md: the front matter .* Mend it, or delete"):
            look(run)


# --- what is personal


def test_no_path_of_this_machine_goes(run: Path, distilled: Path) -> None:
    world = distilled.parent
    command = f"codir distill --teacher {world}/teacher --train={world}/train.csv"
    environment = json.loads((run / "environment.json").read_text())
    write_json(run / "environment.json", {**environment, "command": command})
    write_json(run / "latency.json", {"rows": [{"path": f"{world}/student"}]})
    (run / "report.html").write_text(f"<p>{world}/teacher</p>")
    done, text = look(run, report=True)
    for name in done.files.keys() - {"model.safetensors"}:
        assert str(world) not in content(done, name), name
    settings = yaml.safe_load(content(done, "codir.yaml"))
    assert (settings["teacher"], settings["data"]["train"]) == (".../teacher", ".../train.csv")
    assert settings["training"] == yaml.safe_load((run / "codir.yaml").read_text())["training"]
    short = "codir distill --teacher .../teacher --train=.../train.csv"
    assert json.loads(content(done, "environment.json"))["command"] == short
    assert "distilled from `.../teacher`" in content(done, "README.md")
    assert f"{world}/teacher to .../teacher" in " ".join(text.split())  # the user sees what is cut
    assert isinstance(done.files["metrics.json"], Path)  # nothing to cut, so it goes as it is


def test_a_home_folder_or_a_token_that_is_left_is_refused(run: Path) -> None:
    (run / "report.html").write_text("<p>\n</p>hf_" + "a" * 34)
    with pytest.raises(RunError, match=r"report.html, line 2, holds a token"):
        look(run, report=True)
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", {"x": f"{Path.home()}/y", **config})
    with pytest.raises(RunError, match=r"config.json, line 2, names your home folder"):
        look(run)


# --- folders that cannot go


def test_bad_folders(run: Path, tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> None:
    for path in (tmp_path / "nowhere", run / "README.md"):
        with pytest.raises(ConfigError, match="is no folder"):
            look(path)
    with pytest.raises(ModelError, match=r"neither a run folder nor an exported folder.*hf upload"):
        look(tiny_model_dir())
    write_json(run / "run.json", {"state": "interrupted"})
    with pytest.raises(RunError, match=r"not finished .it is interrupted.*--resume"):
        look(run)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _not_finite(path: Path) -> None:
    weights = load_file(path)
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("model.safetensors", _cut, "truncated or damaged"),
        ("model.safetensors", _not_finite, "not finite"),
        ("config.json", Path.unlink, "config.json is missing"),
        ("tokenizer.json", Path.unlink, "no tokenizer"),
        ("metrics.json", Path.unlink, "metrics.json is missing"),
        ("metrics.json", lambda path: path.write_text("[]"), "metrics.json is damaged"),
        ("environment.json", _cut, "environment.json is damaged"),
        ("codir.yaml", Path.unlink, "codir.yaml is missing"),
        ("README.md", lambda path: path.write_bytes(b"\xff\n"), "not UTF-8"),
    ],
)
def test_a_damaged_folder(run: Path, name: str, spoil: Callable[[Path], Any], message: str) -> None:
    spoil(run / name)
    with pytest.raises(CodirError, match=message):
        look(run)


# --- the repository


@pytest.mark.parametrize(
    ("repo", "settings", "message"),
    [
        *((repo, {}, "Give user/model-name") for repo in ("model", "a/b/c", "ann/with space")),
        (REPO, {"revision": "refs/pr/1"}, "no name of a branch"),
        (REPO, {"subfolder": "../x"}, "no name of a folder"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_read(
    tmp_path: Path, repo: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        publish(tmp_path / "nowhere", repo, dry_run=True, **settings)


def test_private_is_never_public(run: Path, hub: SmallHub) -> None:
    hub.exists = True
    with pytest.raises(ConfigError, match="is public: --private only says how"):
        send(run, hub, private=True)
    hub.private = True
    assert "private, exists" in send(run, hub, private=True)[1]
    assert not any("create" in each for each in hub.asked)


def test_no_is_no_and_somebody_else_may_be_faster(run: Path, hub: SmallHub) -> None:
    with pytest.raises(ConfigError, match="Nothing was sent"):
        send(run, hub, confirm=lambda question: "ann" not in question)
    assert not hub.exists
    hub.exists = True

    def meanwhile(question: str) -> bool:
        hub.head = "e" * 40
        return True

    with pytest.raises(RunError, match="Somebody else made or changed it meanwhile"):
        send(run, hub, confirm=meanwhile)
    assert not hub.files


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        (f"models/{REPO}", 403, "look at ann/small: no. The token needs the right to write"),
        ("repos/create", 409, "Somebody else made .*--update"),
        (f"models/{REPO}/commit/v2", 401, "Log in by"),
        (f"models/{REPO}/commit/v2", 418, "send the files to ann/small: no"),
        ("validate-yaml", 400, "Invalid metadata in README.md"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(run: Path, hub: SmallHub, path: str, status: int, message: str) -> None:
    hub.answers[path] = status
    with pytest.raises(CodirError, match=message) as caught:
        send(run, hub, revision="v2")
    assert "\n" not in str(caught.value)
    assert not hub.files
    hub.answers.clear()
    done, _ = send(run, hub, revision="v2")  # the same command goes on
    assert hub.branches == {"main", "v2"}  # a branch that is missing is made
    assert done.url.endswith(f"/{REPO}/tree/v2")


def test_without_token_or_network(run: Path, hub: SmallHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"who you are.*hf auth login"):
        send(run, hub, token="hf_wrong")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(constants, name, str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"There is no token.*hf auth login"):
        send(run, hub, token=None)
    with pytest.raises(RunError, match="Could not ask the Hub who you are"):
        publish(run, REPO, api=HfApi(endpoint="http://127.0.0.1:9", token="hf_test"))


# --- the command line


def test_the_command_shows_and_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(*flags: str) -> Result:
        environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
        return CliRunner(env=environment).invoke(app, ["publish", str(run), REPO, *flags])

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    flags = ["--license", "mit", "--language", "en,de", "--subfolder", "sub", "--private"]
    done = command("--dry-run", *flags)
    assert done.exit_code == 0, done.output
    for piece in (f"{REPO} (private)", "sub/model.safetensors", "license: mit", "- de", "nothing was sent"):
        assert piece in done.output, piece
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    for given, message in (([], "add --yes"), (["--yes"], "OFFLINE"), (["--dry-run", "--report"], "report.html")):
        done = command(*given)
        assert (done.exit_code, message in done.output) == (2, True)
