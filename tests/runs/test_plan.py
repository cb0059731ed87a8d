"""`codir plan`: operations against PyTorch's own counter, the paper's two stages, measured steps, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig
from typer.testing import CliRunner

from codir.cli.main import app
from codir.errors import ConfigError, DataError, ModelError
from codir.runs import plan as plan_module
from codir.runs.plan import Plan, Stage, plan

TINY = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def flags(**values: Any) -> dict[str, tuple[str, Any]]:
    names = {
        "teacher": "teacher",
        "student": "student.model",
        "batch": "training.global_batch_size",
        "corpus": "corpus",
        "micro_batch": "training.per_device_train_batch_size",
        "steps": "training.max_steps",
        "epochs": "training.num_train_epochs",
    }
    return {names.get(key, f"training.{key}"): (f"--{key}", value) for key, value in values.items()}


def planned(**options: Any) -> Plan:
    return plan(**{"blocks": 100_000, "flags": flags(teacher="roberta-base"), **options})


def only(found: Plan) -> Stage:
    (stage,) = found.stages.values()
    return stage


def tiny(folder: Path, family: str = "bert", **settings: Any) -> PretrainedConfig:
    config = AutoConfig.for_model(family, vocab_size=99, **{**TINY, **settings})
    config.save_pretrained(folder)
    return config


def test_the_papers_two_stages(tmp_path: Path) -> None:
    arguments = ["plan", "--paper", "--gpus", "8", "--json", str(tmp_path / "plan.json")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "plan.json").read_text())
    first, second = content["stages"]["mlm-pre"], content["stages"]["codir-pre"]
    assert (first["steps"], second["steps"]) == (35_000, 10_000)
    assert first["tokens"] == second["tokens"] == 8192 * 512
    assert (first["teacher_parameters"], second["teacher_parameters"]) == (None, 124_697_433)
    assert second["bank_bytes"] == 8_400_000 * 128 * 2
    assert content["gpu_hours"] == pytest.approx(first["gpu_hours"] + second["gpu_hours"])
    seconds = first["flops_total"] / (8 * 312e12 * 0.35)
    assert first["hours"] == pytest.approx(35_000 * seconds / 3600)
    assert "82.2 M" in result.output
    assert "35% of the peak" in result.output


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "albert", "deberta-v2"])
def test_operations_are_those_that_pytorch_counts(family: str, tmp_path: Path) -> None:
    """The student's forward and backward pass; the counter sees its head at all positions, as `positions: all` has."""
    sizes = {"n_layers": 2, "n_heads": 2, "dim": 32, "hidden_dim": 64} if family == "distilbert" else TINY
    config = AutoConfig.for_model(family, vocab_size=99, **sizes)
    config.save_pretrained(tmp_path)
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    ids = torch.randint(5, 99, (4, 64))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=ids)
    settings = {"flags": flags(student=str(tmp_path), batch=4, micro_batch=4), "recipes": "mlm-pre"}
    stage = only(plan(blocks=40, block=64, overrides=["masking.probability=1"], **settings))
    assert stage.flops_student == 3 * counted.get_total_flops()
    assert stage.student_parameters == sum(each.numel() for each in model.parameters())


def test_settings_reach_the_numbers() -> None:
    plain = only(planned())
    options = {"overrides": ["objectives.crd.bank_dtype=float32"], "gpus": 2, "device": "h100", "block": 128}
    changed = {**flags(teacher="roberta-base", batch=512, micro_batch=8, steps=7)}
    more = only(planned(flags=changed, efficiency=0.5, **options))
    assert (more.steps, more.tokens, more.micro_batches) == (7, 512 * 128, 32)
    assert more.bank_bytes == 2 * plain.bank_bytes
    assert more.seconds_per_step == pytest.approx(more.flops_total / (2 * 989e12 * 0.5))
    checkpointing = ["training.gradient_checkpointing=true"]
    assert only(planned(overrides=checkpointing)).memory_bytes < plain.memory_bytes
    assert only(planned(overrides=["objectives.crd.negatives=in-batch"])).bank_bytes == 0


def test_precision_and_memory_of_the_device() -> None:
    found = planned(device="t4", flags=flags(teacher="roberta-large", micro_batch=64))
    assert only(found).precision == "fp16"  # a T4 has no bf16
    assert any("does not fit into 16 GB" in note for note in found.notes)
    assert not any("does not fit" in note for note in planned().notes)


def test_the_head_alone() -> None:
    head = only(plan(recipes="mlm-head", blocks=10_000, flags=flags(student="bert-base-uncased")))
    whole = only(plan(recipes="mlm-pre", blocks=10_000, flags=flags(student="bert-base-uncased")))
    assert head.memory_bytes < whole.memory_bytes / 2
    assert head.flops_student / head.tokens < whole.flops_student / whole.tokens / 2


def test_measured_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny(tmp_path)
    settings = flags(teacher=str(tmp_path), batch=8, micro_batch=4, steps=10)
    stages = plan(recipes="mlm-pre,codir-pre", blocks=50, block=16, measured=True, flags=settings).stages.values()
    assert all(0 < stage.hours < 1 and stage.micro_batches == 2 for stage in stages)
    assert "measured on" in capsys.readouterr().out


def corpus(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    content = {"block": 128, "train": range(50_000), "vocab_size": 50265, "path": "corpora/wiki", **values}
    stub = SimpleNamespace(config_path=None, **content)
    monkeypatch.setattr(plan_module, "open_corpus", lambda path, digests: stub)


def test_a_corpus_says_how_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(monkeypatch)
    given = flags(teacher="roberta-base", corpus=Path("corpora/wiki"))
    stage = only(plan(flags=given))
    assert stage.tokens == 8192 * 128
    assert stage.bank_bytes == 50_000 * 128 * 2
    with pytest.raises(ConfigError, match="leave out one of the two"):
        plan(flags=given, blocks=5)
    with pytest.raises(DataError, match=r"50,265 tokens.*30,522.*codir corpus"):
        plan(flags=flags(teacher="bert-base-uncased", corpus=Path("corpora/wiki")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "a1000"}, r"a1000 is not known.*did you mean 'a100'.*--measure"),
        ({"measured": True, "device": "h100"}, "leave out --device"),
        ({"efficiency": 1.5}, "no share of the peak"),
        ({"device": "v100", "flags": flags(teacher="roberta-base", precision="bf16")}, "V100.*no bf16"),
        ({"blocks": None}, "--blocks"),
        ({"gpus": 3}, r"3 processes.*8190"),
        ({"flags": {}}, "--teacher"),
        ({"recipes": "mlm-pre", "flags": {}}, "what the student looks like"),
        ({"recipes": "kd"}, "codir distill"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(**options)


def test_blocks_longer_than_the_positions() -> None:
    with pytest.raises(ModelError, match=r"positions for 512 tokens.*--block 512"):
        planned(block=1024)
