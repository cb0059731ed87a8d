"""`codir publish`: what goes, what stays, what is replaced, and what is said when the Hub says no."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_stand_in import HEAD, StandIn, http_error
from huggingface_hub import ModelCard, constants
from huggingface_hub.errors import LocalTokenNotFoundError
from safetensors.torch import save_file
from small_world import World, quiet

from codir.deploy.export import weights_digest
from codir.deploy.publish import Published, publish
from codir.engines.folder import Manifest
from codir.errors import CodirError, ConfigError, InterruptedRunError, ModelError, RunError
from codir.models.loading import load_classifier
from codir.storage import write_json

REPO = "ann/small-model"
HOME = str(Path.home())


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def distilled(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from codir import distill

    folder = tmp_path_factory.mktemp("runs") / "student"
    distill(**world.settings(folder), console=quiet(), timing=False)
    return folder


@pytest.fixture
def run(distilled: Path, tmp_path: Path) -> Path:
    """Returns a copy of a finished distillation, to be spoilt; without its manifest, which would tell of it first."""
    copied = Path(shutil.copytree(distilled, tmp_path / "student"))
    (copied / "codir-manifest.json").unlink()
    return copied


def send(folder: Path, api: StandIn | None = None, **settings: Any) -> tuple[StandIn, Published, str]:
    api = api or StandIn()
    console = quiet()
    done = publish(folder, settings.pop("repo", REPO), console=console, api=api, **settings)
    return api, done, console.file.getvalue()  # type: ignore[attr-defined]


def look(folder: Path, **settings: Any) -> tuple[Published, str]:
    console = quiet()
    done = publish(folder, REPO, dry_run=True, console=console, **settings)
    return done, console.file.getvalue()  # type: ignore[attr-defined]


def content(done: Published, name: str) -> str:
    each = done.plan.files[name]
    return (each if isinstance(each, bytes) else each.read_bytes()).decode()


def export_of(run: Path, folder: Path, precision: str = "bf16", **settings: Any) -> Path:
    """Makes an exported folder by hand, as `codir export --format torch-bf16` would."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(run / name, folder)
    values: dict[str, Any] = {
        "format": "torch-bf16",
        "quantize": "none",
        "precision": precision,
        "engine": "torch-bf16",
        "source": str(run.absolute()),
        "source_digest": weights_digest(load_classifier(run)),
        "task": "train",
        "checks": {"inputs": 1040, "agreement": 0.9975, "largest_difference": 0.0123456, "finite": True},
        "metrics_before": {"validation": {"accuracy": 0.9}},
        "metrics_after": {"validation": {"accuracy": 0.875}},
        "command": f"codir export {run.absolute()} --format torch-bf16",
    }
    Manifest(**{**values, **settings}).write(folder)
    return folder


# What goes and what stays


def test_what_goes_is_an_allowlist(run: Path) -> None:
    (run / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    for name in ("contrast.safetensors", "notes.txt", ".env", "optimizer.pt", "report.html", "table.png"):
        (run / name).write_text("secret")
    done, text = look(run)
    assert list(done.plan.files) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "codir.yaml",
        "environment.json",
        "metrics.json",
        "table.md",
        "table.png",
    ]
    (left,) = done.plan.left.values()
    for name in (
        "checkpoints/",
        "contrast.safetensors",
        "comparison/",
        ".env",
        "log.jsonl",
        "run.json",
        "notes.txt",
    ):
        assert name in left
        assert name in text
    assert "report.html" in look(run, report=True)[0].plan.files


def test_a_dry_run_needs_no_network_and_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done, text = look(run, private=True, license="mit", language="en,de")
    assert done.commit is None
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    for piece in (
        REPO,
        "(private)",
        "model.safetensors",
        "9 files",
        "license: mit",
        "- de",
        "nothing was sent",
    ):
        assert piece in text, piece
    assert f"{len((run / 'config.json').read_bytes())} B" in text


def test_everything_arrives_as_one_commit(run: Path) -> None:
    api, done, text = send(run, private=True, message="First")
    assert api.calls == ["whoami", "model_info", "create_repo", "model_info", "create_commit"]
    assert api.private
    assert api.commit == {
        "repo": REPO,
        "commit_message": "First",
        "revision": "main",
        "parent_commit": HEAD,
        "repo_type": "model",
    }
    assert api.sent.keys() == done.plan.files.keys()
    assert api.sent["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert done.commit == "b" * 40
    assert text.rstrip().endswith(f"Published: {done.url}")
    assert done.url.endswith(f"/{REPO}")


def test_the_published_folder_is_a_model(run: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    api, _, _ = send(run)
    there = tmp_path / "there"
    for name, each in api.sent.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(each)
    model = AutoModelForSequenceClassification.from_pretrained(there)
    assert model.config.num_labels == 2
    assert AutoTokenizer.from_pretrained(there)("a good film")["input_ids"]


# The card


def test_the_card_says_what_the_hub_wants_to_know(run: Path) -> None:
    done, _ = look(run, license="apache-2.0", language="en")
    text = content(done, "README.md")
    card = ModelCard(text, ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (data["license"], data["language"], data["pipeline_tag"]) == (
        "apache-2.0",
        ["en"],
        "text-classification",
    )
    assert data["model-index"][0]["name"] == "small-model"
    assert data["model-index"][0]["results"][0]["dataset"]["name"] == "train"
    assert "base_model" not in data  # the teacher came from a folder
    assert done.plan.metadata == data
    assert "path = 'ann/small-model'" in text
    assert "\n# small-model\n" in text
    assert "this folder" not in text


def test_a_card_edited_by_hand_goes_as_it_is(run: Path) -> None:
    path = run / "README.md"
    path.write_text(path.read_text().replace("## Limits", "## Mine\n\nWritten by hand.\n\n## Limits"))
    done, _ = look(run)
    assert "Written by hand." in content(done, "README.md")
    done, text = look(run, regenerate=True)
    assert "Written by hand." not in content(done, "README.md")
    assert "written anew" in text


def test_a_card_written_anew_is_the_card(run: Path) -> None:
    before, _ = look(run)
    again, _ = look(run, regenerate=True)
    assert content(again, "README.md") == content(before, "README.md")


@pytest.mark.parametrize("text", ["", "# Only words\n"])
def test_a_card_without_front_matter_gets_it(run: Path, text: str) -> None:
    (run / "README.md").write_text(text)
    done, shown = look(run)
    card = content(done, "README.md")
    assert ModelCard(card).data.to_dict()["pipeline_tag"] == "text-classification"
    assert text.strip() in card
    assert "no front matter" in shown


def test_a_missing_card_is_written(run: Path) -> None:
    (run / "README.md").unlink()
    done, shown = look(run)
    assert "## Results" in content(done, "README.md")
    assert "missing and written anew" in shown
    assert not (run / "README.md").exists()


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("tags: [a\nlicense: mit", r"README.md, line 3.*no YAML"),
        ("- a\n- b", "not `key: value` lines"),
        ("tags: codir", "`tags: 'codir'`.*a list of words"),
        ("language: no", "put no .Norwegian. in quotes"),
        ("license: [mit, gpl]", "`license: "),
        ("base_model_relation: distilled", "one of finetune, quantized"),
        ("model-index:\n- name: x\n  results:\n  - metrics: 3", "`model-index`.*not in the Hub's format"),
    ],
)
def test_front_matter_the_hub_would_refuse_is_refused(run: Path, front: str, message: str) -> None:
    (run / "README.md").write_text(f"---\n{front}\n---\n\n# Words\n")
    with pytest.raises(RunError, match=message):
        look(run)


def test_a_folder_is_no_base_model(run: Path) -> None:
    (run / "README.md").write_text(
        f"---\nbase_model: {HOME}/teacher\nbase_model_relation: finetune\ndatasets: [nyu-mll/glue, /data/x]\n---\n\n"
    )
    done, text = look(run)
    assert "base_model" not in done.plan.metadata
    assert "base_model_relation" not in done.plan.metadata
    assert done.plan.metadata["datasets"] == ["nyu-mll/glue"]
    assert "named a folder of this machine" in text


def test_without_licence_the_user_is_told(run: Path) -> None:
    assert "No licence is given" in look(run)[1]
    assert "No licence is given" not in look(run, license="mit")[1]
    assert "not one codir knows" in look(run, license="etalab-2.0")[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"license": "Apache 2.0"}, "Did you mean apache-2.0"),
        ({"license": "MIT"}, "Did you mean mit"),
        ({"language": "english"}, "ISO 639"),
        ({"language": ""}, "ISO 639"),
        ({"revision": "refs/pr/1"}, "no name of a branch"),
        ({"revision": "a b"}, "no name of a branch"),
        ({"report": True}, "codir report"),
    ],
)
def test_bad_settings(run: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        look(run, **settings)


def test_latency_measured_since_is_in_the_card_once(run: Path) -> None:
    from codir.deploy.latency_table import LatencyResult

    conditions = {"batch": 32, "max_length": 128, "rounds": 3, "sequences": 96, "threads": 1, "device": "cpu"}
    conditions |= {"texts": "those of mrpc", "tokens": 40.0}
    result = LatencyResult(rows=(), machine={"cpu": "A CPU"}, conditions=conditions, task="mrpc")
    write_json(run / "latency.json", result.to_json())
    done, _ = look(run)
    card = content(done, "README.md")
    assert "latency.json" in done.plan.files
    assert card.count("## Latency") == 1
    assert card.index("## Latency") < card.index("## Limits")
    assert "batches of 32 sequences of 128 tokens" in card
    (run / "README.md").write_text(card)  # published, and measured again
    result = dataclasses.replace(result, conditions={**conditions, "batch": 64})
    write_json(run / "latency.json", result.to_json())
    again = content(look(run)[0], "README.md")
    assert again.count("## Latency") == 1
    assert "batches of 64 sequences" in again


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": []}'])
def test_a_damaged_latency_file_is_named(run: Path, text: str) -> None:
    (run / "latency.json").write_text(text)
    with pytest.raises(RunError, match=r"latency\.json"):
        look(run)


def test_a_pretrained_model_has_a_card_of_its_own(pretrained: Path) -> None:
    done, _ = look(pretrained)
    data = done.plan.metadata
    assert data["pipeline_tag"] == "fill-mask"
    assert data["base_model"] == "google-bert/bert-base-uncased"
    results = data["model-index"][0]["results"][0]
    assert results["task"]["type"] == "fill-mask"
    assert {metric["type"] for metric in results["metrics"]} == {"perplexity", "accuracy"}
    text = content(done, "README.md")
    assert "from_pretrained('ann/small-model')" in text
    assert "codir finetune --model ann/small-model --task" in text
    assert "8 blocks of up to 16 tokens" in text


@pytest.fixture
def pretrained(tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> Path:
    from transformers import BertConfig, BertForMaskedLM

    from codir.runs.masked_scores import MaskedRow, MaskedTable

    folder = tiny_model_dir()
    BertForMaskedLM(BertConfig.from_pretrained(folder)).save_pretrained(folder)
    table = MaskedTable([MaskedRow("student", 2, 32, 10, 5, 2.0, 0.4, 0.5)], 100, 4)
    corpus = {"path": f"{HOME}/corpora/wiki", "key": "k", "blocks": 8}
    write_json(
        folder / "metrics.json",
        {"corpus": corpus, "scores": table.to_json(), "tokens_per_step": 64, "seed": 1},
    )
    settings = {
        "command": "pretrain",
        "recipe": "codir-pre",
        "teacher": "google-bert/bert-base-uncased",
        "objectives": {"mlm": {}, "crd": {}},
        "training": {"batch_size": 4},
    }
    (folder / "codir.yaml").write_text(yaml.safe_dump(settings))
    write_json(folder / "environment.json", {"command": f"codir pretrain --corpus {HOME}/corpora/wiki"})
    write_json(folder / "run.json", {"state": "finished"})
    return folder


# What is personal


def test_paths_of_this_machine_are_replaced_everywhere(run: Path, world: World) -> None:
    done, text = look(run)
    for name in done.plan.files:
        if name.endswith((".md", ".yaml", ".json")) and name != "tokenizer.json":
            words = content(done, name)
            assert str(world.folder) not in words, name
            assert str(run.parent) not in words, name
    settings = yaml.safe_load(content(done, "codir.yaml"))
    assert settings["teacher"] == "<local path>/teacher"
    assert settings["data"]["train"] == "<local path>/train.csv"
    assert settings["training"] == yaml.safe_load((run / "codir.yaml").read_text())["training"]
    card = content(done, "README.md")
    assert "distilled from `<local path>/teacher`" in card
    assert r"- source: \<local path\>/train.csv, \<local path\>/dev.csv" in card
    assert "teacher: <local path>/teacher" in card
    assert f"{world.folder}/teacher" in "".join(text.split())  # the user sees what is replaced
    assert {each.file for each in done.plan.redactions} == {"codir.yaml", "README.md"}
    where = next(each for each in done.plan.redactions if each.found.endswith("/teacher"))
    assert "teacher:" in (run / "codir.yaml").read_text().splitlines()[(where.line or 0) - 1]


def test_the_command_and_the_host_are_cleaned_too(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "gethostname", lambda: "anns-laptop-3.home.arpa")
    made_by = json.loads((run / "environment.json").read_text())
    command = (
        f"codir distill --teacher '{HOME}/my runs/teacher' --train={HOME}/a.csv --output /data/ann/student --seed 1 "
        "--set training.arguments.hub_token=hf_abcdefghijklmnopqrstuv --storage postgresql://ann:secret@anns-laptop-3/db"
    )
    made_by["command"] = command
    write_json(run / "environment.json", made_by)
    path = run / "README.md"
    path.write_text(
        path.read_text() + f"\n```console\n{command}\n```\n\nTrained on anns-laptop-3 in {HOME}.\n"
    )
    done, _ = look(run)
    for name in ("environment.json", "README.md"):
        words = content(done, name)
        for secret in (HOME + "/", "my runs", "hf_abc", "secret", "anns-laptop", "/data/ann"):
            assert secret not in words, (name, secret)
    clean = json.loads(content(done, "environment.json"))["command"]
    assert clean == (
        "codir distill --teacher '<local path>/teacher' '--train=<local path>/a.csv' --output '<local path>/student' "
        "--seed 1 --set 'training.arguments.hub_token=<token>' --storage 'postgresql://<token>@<host>/db'"
    )
    assert clean in content(done, "README.md")
    assert r"Trained on \<host\> in \<local path\>." in content(done, "README.md")


def test_what_is_no_path_stays(run: Path) -> None:
    words = (
        "5 ms/seq and/or 3/4; https://arxiv.org/abs/2009.14167, 2026/11/21, </s>, /usr/bin/python, `a/b`, ~/x"
    )
    path = run / "README.md"
    path.write_text(path.read_text() + f"\n{words}\n")
    done, _ = look(run)
    assert words in content(done, "README.md")


def test_a_models_own_words_are_no_paths(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config |= {
        "_name_or_path": f"{HOME}/teacher",
        "id2label": {"0": "/r/a/b", "1": str(run)},
        "label2id": {"/r/a/b": 0, str(run): 1},
    }
    write_json(run / "config.json", config)
    done, _ = look(run)
    sent = json.loads(content(done, "config.json"))
    assert sent == {**config, "_name_or_path": "<local path>/teacher"}


def test_a_report_keeps_its_program(run: Path) -> None:
    (run / "report.html").write_text(f"<p>{HOME}/data/x.csv</p><script>s.replace(/a/b/g, '</p>')</script>")
    done, _ = look(run, report=True)
    assert (
        content(done, "report.html") == "<p>(local path)/x.csv</p><script>s.replace(/a/b/g, '</p>')</script>"
    )


def test_nothing_the_user_named_breaks_the_output(run: Path) -> None:
    nasty = run.parent / "[red]x[bold] `*<b>"
    run.rename(nasty)
    done, text = look(nasty, regenerate=True, message="[/]")
    assert "[red]x[bold] `*<b>" in "".join(text.split("\n"))
    assert ModelCard(content(done, "README.md")).data.to_dict()["pipeline_tag"] == "text-classification"


# Exported models


def test_exported_formats_go_into_subfolders(run: Path, tmp_path: Path) -> None:
    first = export_of(run, tmp_path / "a")
    second = export_of(
        run, tmp_path / "b", format="openvino", quantize="int8", precision="int8", engine="openvino"
    )
    api, done, _ = send(run, exported=[first, second])
    assert "torch-bf16/deployment.json" in api.sent
    assert "openvino-int8/model.safetensors" in api.sent
    card = content(done, "README.md")
    assert "| torch-bf16/ | torch-bf16 | bf16 |" in card
    assert "same answer for 99.75% of 1,040 inputs; largest difference of a logit 0.012 |" in card
    assert "| accuracy 0.9000 | accuracy 0.8750 |" in card
    assert 'hf download ann/small-model --include "torch-bf16/*"' in card
    there = tmp_path / "there"
    for name, each in api.sent.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(each)
    manifest = Manifest.read(there / "torch-bf16")
    manifest.check_files(there / "torch-bf16")  # what was replaced fits the manifest
    assert manifest.source == "student"
    assert manifest.command == "codir export student --format torch-bf16"


def test_a_changed_file_of_an_export_fits_its_manifest(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", {**config, "_name_or_path": f"{HOME}/teacher"})
    api, _, _ = send(export_of(run, tmp_path / "student-bf16"))
    entry = json.loads(api.sent["deployment.json"])["files"]["config.json"]
    assert entry["bytes"] == len(api.sent["config.json"])
    assert b"<local path>/teacher" in api.sent["config.json"]


def test_what_stays_is_not_in_the_manifest_that_goes(run: Path, tmp_path: Path) -> None:
    folder = export_of(run, tmp_path / "bf16")
    (folder / "export.json").write_text("{}")
    Manifest.read(folder).write(folder)
    api, done, _ = send(folder)
    assert done.plan.left[str(folder)] == ("export.json",)
    files = json.loads(api.sent["deployment.json"])["files"]
    assert files.keys() == api.sent.keys() - {"deployment.json", "README.md"}
    # what the table calls changed is told of, and only that
    words = " ".join(look(folder)[1].split())
    said = "deployment.json lists the files as they are sent: without export.json, which stays here."
    assert said in words
    (folder / "export.json").unlink()
    Manifest.read(export_of(run, tmp_path / "whole"))
    assert "lists the files as they are sent" not in look(tmp_path / "whole")[1]


def test_an_exported_folder_alone(run: Path, tmp_path: Path) -> None:
    folder = export_of(
        run, tmp_path / "student-int8", precision="int8", source="google-bert/bert-base-uncased"
    )
    done, text = look(folder)
    data = done.plan.metadata
    assert (data["base_model"], data["base_model_relation"]) == ("google-bert/bert-base-uncased", "quantized")
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.875
    assert "no front matter" in text
    with pytest.raises(ConfigError, match="codir export"):
        look(folder, regenerate=True)
    with pytest.raises(ConfigError, match="an exported model itself"):
        look(folder, exported=[folder])


def test_an_export_must_belong_to_the_model(run: Path, tmp_path: Path) -> None:
    stale = export_of(run, tmp_path / "stale", source_digest="0" * 32)
    with pytest.raises(RunError, match=r"other weights.*Export it again"):
        look(run, exported=[stale])
    with pytest.raises(ConfigError, match="not an exported folder"):
        look(run, exported=[run])
    good = export_of(run, tmp_path / "good")
    with pytest.raises(ConfigError, match="is torch-bf16, too"):
        look(run, exported=[good, good])
    (good / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(ModelError, match="truncated"):
        look(run, exported=[good])


def test_the_exporters_notes_on_source_files_do_not_go(run: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    trace = node.metadata_props.add()
    trace.key, trace.value = (
        "pkg.torch.onnx.stack_trace",
        f'File "{HOME}/venv/lib/python3.11/modeling_bert.py", line 3',
    )
    shapes = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    folder = export_of(run, tmp_path / "onnx", format="onnx", precision="fp32", engine="onnxruntime")
    graph = onnx.helper.make_graph([node], "g", shapes[:1], shapes[1:])
    onnx.save(onnx.helper.make_model(graph), folder / "model.onnx")
    Manifest.read(folder).write(folder)
    api, _, text = send(folder)
    assert b"File" not in api.sent["model.onnx"]
    sent = onnx.load_from_string(api.sent["model.onnx"])
    assert [each.op_type for each in sent.graph.node] == ["Identity"]
    entry = json.loads(api.sent["deployment.json"])["files"]["model.onnx"]
    assert entry["bytes"] == len(api.sent["model.onnx"])
    assert "notes on source files" in " ".join(text.split())


# Folders that cannot go


def test_bad_folders(run: Path, tmp_path: Path, tiny_model_dir: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        look(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is a file"):
        look(run / "README.md")
    with pytest.raises(ModelError, match="no run of codir: `hf upload"):
        look(tiny_model_dir())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="neither a run folder nor an exported folder"):
        look(tmp_path / "empty")
    with pytest.raises(RunError, match=r"comparison student. Publish its run, .*student\."):
        look(run / "comparison" / "finetune")


@pytest.mark.parametrize("state", ["running", "interrupted", "failed"])
def test_an_unfinished_run(run: Path, state: str) -> None:
    write_json(run / "run.json", {"state": state})
    with pytest.raises(RunError, match=f"not finished .it is {state}.*--resume"):
        look(run)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _not_finite(path: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(path)
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "spoil", "error", "message"),
    [
        ("model.safetensors", _cut, ModelError, "truncated or damaged"),
        ("model.safetensors", Path.unlink, ModelError, "model.safetensors is missing"),
        ("model.safetensors", _not_finite, ModelError, "not finite"),
        ("config.json", Path.unlink, ModelError, "config.json is missing"),
        ("tokenizer.json", Path.unlink, ModelError, "no tokenizer"),
        ("metrics.json", _cut, RunError, "metrics.json is damaged"),
        ("metrics.json", Path.unlink, RunError, "metrics.json is missing"),
        ("metrics.json", lambda path: path.write_text("[]"), RunError, "holds no results"),
        ("environment.json", _cut, RunError, "environment.json is damaged"),
        ("codir.yaml", Path.unlink, RunError, "codir.yaml is missing"),
        ("codir.yaml", lambda path: path.write_text("a: [1"), CodirError, "codir.yaml"),
        ("README.md", lambda path: path.write_bytes(b"\xff\n"), RunError, "line 1: not UTF-8"),
    ],
)
def test_a_damaged_folder(
    run: Path, name: str, spoil: Callable[[Path], Any], error: type[Exception], message: str
) -> None:
    spoil(run / name)
    with pytest.raises(error, match=message):
        look(run)


def test_results_of_another_shape_cannot_become_a_card(run: Path) -> None:
    write_json(run / "metrics.json", {"comparison": {"rows": 3}})
    with pytest.raises(RunError, match=r"metrics.json is damaged, or was written by a version"):
        look(run, regenerate=True)


# The repository


@pytest.mark.parametrize(
    "repo", ["model", "a/b/c", "ann/with space", "ann/-x", "ann/x..y", "ann/x.git", "ann/" + "x" * 97]
)
def test_a_bad_name_is_refused_before_anything_is_read(repo: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Give user/model-name"):
        publish(tmp_path / "nowhere", repo, dry_run=True, console=quiet())


def test_a_repository_with_other_files_is_not_overwritten(run: Path) -> None:
    api = StandIn(files=["model.safetensors", "pytorch_model.bin"])
    with pytest.raises(RunError, match=r"holds 2 files already .*Add --update"):
        send(run, api)
    assert api.calls == ["whoami", "model_info"]


def test_an_update_leaves_no_old_parts_behind(run: Path) -> None:
    there = [
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "vocab.txt",
        "photo.png",
        "onnx/deployment.json",
    ]
    api, _, text = send(run, StandIn(files=there), update=True)
    assert api.deleted == ["model-00001-of-00002.safetensors", "vocab.txt"]
    assert "create_repo" not in api.calls
    assert "a left-over of the model there" in text
    assert "onnx/ in the repository was exported from the model" in " ".join(text.split())


def test_an_empty_repository_is_used(run: Path) -> None:
    api, _, text = send(run, StandIn(files=[]))
    assert "create_repo" not in api.calls
    assert "public, exists" in text


def test_private_is_never_public(run: Path) -> None:
    api = StandIn(files=[])
    with pytest.raises(ConfigError, match="is public: --private only says how"):
        send(run, api, private=True)
    assert "create_commit" not in api.calls
    assert send(run, StandIn(files=[], private=True), private=True)[1].commit


def test_another_branch_is_made(run: Path) -> None:
    api, done, _ = send(run, revision="v2")
    assert api.calls[-2:] == ["create_branch", "create_commit"]
    assert api.commit["revision"] == "v2"
    assert done.url.endswith(f"/{REPO}/tree/v2")
    api, _, _ = send(run, StandIn(files=["a.txt"]), revision="v2", update=True)
    assert "create_branch" in api.calls
    assert api.commit["parent_commit"] is None
    api, _, _ = send(run, StandIn(files=["a.txt"], branches=["v2"]), revision="v2", update=True)
    assert "create_branch" not in api.calls
    assert api.commit["parent_commit"] == HEAD


def test_no_is_no(run: Path) -> None:
    asked: list[str] = []
    api = StandIn()
    with pytest.raises(ConfigError, match="Nothing was sent"):
        send(run, api, confirm=lambda question: bool(asked.append(question)))
    assert asked == [f"Send this to {REPO} as ann?"]
    assert api.calls == ["whoami", "model_info"]


# When the Hub says no


def test_offline_is_said_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    api = StandIn()
    with pytest.raises(ConfigError, match=r"OFFLINE is set.*--dry-run"):
        send(run, api)
    assert not api.calls


@pytest.mark.parametrize(
    ("who", "repo", "message"),
    [
        ({"name": "bob"}, REPO, r"that of bob, who cannot publish as ann.*Give bob/small-model"),
        ({"name": "ann", "orgs": [{"name": "labs"}]}, "lab/x", r"did you mean 'labs'"),
        ({"name": "ann", "auth": {"accessToken": {"role": "read"}}}, REPO, "may only read"),
    ],
)
def test_a_token_that_does_not_fit(run: Path, who: dict[str, Any], repo: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        send(run, StandIn(who=who), repo=repo)


def _no_connection() -> Exception:
    import httpx2

    return httpx2.ConnectError("[Errno -2] Name or service not known")


@pytest.mark.parametrize(
    ("call", "failure", "message"),
    [
        ("whoami", LocalTokenNotFoundError("none"), "There is no token.*hf auth login"),
        ("whoami", http_error(401), "does not know the token .401.*hf auth login"),
        ("whoami", _no_connection(), "ask the Hub who you are.*cannot be reached.*HTTPS_PROXY"),
        ("whoami", http_error(429), "too many requests"),
        ("model_info", http_error(403), "look at the repository.*may not write"),
        ("create_repo", http_error(403), "make the repository.*may not write to ann/small-model .403"),
        ("create_repo", http_error(409), "made or changed by somebody else.*--update"),
        ("create_commit", http_error(401), "send the files.*Log in again.*was made and can be used"),
        ("create_commit", http_error(404), "no repository ann/small-model"),
        ("create_commit", http_error(412), "changed by somebody else"),
        ("create_commit", http_error(413, said="File too big"), "too large.*File too big"),
        ("create_commit", http_error(500), "fault of its own .500"),
        ("create_commit", http_error(418, said="Teapot"), "refused .418.: Teapot"),
        ("create_commit", _no_connection(), "send the files.*cannot be reached.*not sent twice"),
        ("create_commit", TimeoutError("timed out"), "cannot be reached"),
        (
            "create_commit",
            RuntimeError("Data processing error: CAS"),
            "Data processing error.*not sent twice",
        ),
        ("create_commit", ValueError("Invalid metadata in README.md.\n- bad"), "Mend README.md"),
    ],
)
def test_failures_are_sentences(run: Path, call: str, failure: BaseException, message: str) -> None:
    api = StandIn(fail={call: failure})
    with pytest.raises(CodirError, match=message) as caught:
        send(run, api)
    assert "\n" not in str(caught.value)
    assert api.calls[-1] == call
    assert not api.sent


def test_a_branch_that_cannot_be_made(run: Path) -> None:
    with pytest.raises(RunError, match="make the branch v2"):
        send(run, StandIn(fail={"create_branch": http_error(403)}), revision="v2")


def test_an_interrupted_upload_says_that_nothing_changed(run: Path) -> None:
    with pytest.raises(InterruptedRunError, match="Nothing in the repository was changed: the same command"):
        send(run, StandIn(files=[], fail={"create_commit": KeyboardInterrupt()}))


def test_a_retry_after_a_failure_needs_no_other_command(run: Path) -> None:
    api = StandIn(fail={"create_commit": http_error(500)})
    with pytest.raises(RunError):
        send(run, api)
    api.fail = {}
    assert send(run, api)[1].commit
    assert api.calls.count("create_repo") == 1


def test_unreadable_files_are_not_skipped(run: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (run / "metrics.json").chmod(0)
    with pytest.raises(OSError, match=r"metrics\.json"):
        look(run)
