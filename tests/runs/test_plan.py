"""`codir plan`: what it takes, what it refuses, and that docs/scaling.md says what it prints."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig
from typer.testing import CliRunner, Result

from codir.cli.main import app
from codir.errors import ConfigError, DataError, ModelError
from codir.runs import plan as plan_module
from codir.runs.devices import DEVICES, recognise
from codir.runs.plan import Plan, plan
from codir.runs.warmup import Measured

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
WIDTH = 120


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def command(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}).invoke(
        app, ["plan", *arguments]
    )


def flags(**values: Any) -> dict[str, tuple[str, Any]]:
    names = {"teacher": "teacher", "student": "student.model", "batch": "training.batch_size"}
    return {names.get(key, f"training.{key}"): (f"--{key}", value) for key, value in values.items()}


def planned(**options: Any) -> Plan:
    given = {"blocks": 100_000, "device": "a100", "flags": flags(teacher="roberta-base"), **options}
    return plan(**given)


# --- what it says -------------------------------------------------------------------------------------------------


def test_the_papers_two_stages(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    result = command("--paper", "--gpus", "8", "--device", "a100", "--json", str(file))
    assert result.exit_code == 0, result.output
    content = json.loads(file.read_text())
    first, second = content["stages"]["mlm-pre"], content["stages"]["codir-pre"]
    assert (first["steps"], second["steps"]) == (35_000, 10_000)
    assert first["tokens"] == second["tokens"] == 8192 * 512
    assert first["teacher"] is None
    assert second["teacher"] == "12 x 768"
    assert first["student"] == "6 x 768"
    assert second["flops_teacher_forward"] == 2 * second["flops_student_forward"]
    assert second["bank_bytes"] == 8_400_000 * 128 * 2
    assert content["gpu_hours"] == pytest.approx(first["gpu_hours"] + second["gpu_hours"])
    expected = first["flops_total"] / (8 * 312e12 * 0.35)
    assert first["seconds_per_step"] == pytest.approx(expected)
    assert first["hours"] == pytest.approx(35_000 * expected / 3600)
    assert set(content["processes"]) == {"1", "8", "64"}


def test_the_stronger_settings_reach_the_numbers() -> None:
    plain = planned().stages[0]
    more = planned(
        flags={**flags(teacher="roberta-base", batch=512, micro_batch=8, steps=7)},
        overrides=["objectives.crd.bank_dtype=float32", "training.arguments.gradient_checkpointing=true"],
        gpus=2,
        device="h100",
        efficiency=0.5,
        block=128,
    ).stages[0]
    assert (more.setting.batch, more.setting.micro_batch, more.setting.accumulation) == (512, 8, 32)
    assert (more.setting.steps, more.setting.block, more.setting.processes) == (7, 128, 2)
    assert more.setting.recompute
    assert not plain.setting.recompute
    assert more.setting.contrast is not None
    assert more.setting.contrast.bank_item == 4
    assert more.peak == DEVICES["h100"].half
    assert more.utilisation is not None
    assert more.utilisation < 0.5


@pytest.mark.parametrize(
    ("negatives", "compared", "bank"),
    [("in-batch-bank", 8192, 2), ("in-batch", 256, 0), ("queue", 4096, 0), ("any", 500, 2)],
)
def test_negatives(negatives: str, compared: int, bank: int) -> None:
    contrast = planned(overrides=[f"objectives.crd.negatives={negatives}"], gpus=8).stages[0].setting.contrast
    assert contrast is not None
    assert (contrast.compared, contrast.bank_item) == (compared, bank)


def test_a_contrast_for_each_pair_of_blocks() -> None:
    whole, pairs, top = (
        planned(overrides=overrides, gpus=8).stages[0].setting.contrast
        for overrides in (
            [],
            ["objectives.crd.contrast=blocks"],
            ["objectives.crd.contrast=blocks", "objectives.crd.matching=top"],
        )
    )
    assert whole is not None
    assert pairs is not None
    assert top is not None
    assert (whole.pairs, pairs.pairs, top.pairs) == (1, 6, 1)
    assert (whole.teacher_inputs, pairs.teacher_inputs, top.teacher_inputs) == (12 * 768, 6 * 768, 768)
    assert (whole.student_inputs, pairs.student_inputs, top.student_inputs) == (6 * 768, 6 * 768, 768)


def test_a_student_of_its_own_and_configs_in_files(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    tiny = AutoConfig.for_model(
        "bert",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    tiny.save_pretrained(tmp_path)
    by_file = plan(
        recipes="mlm-pre",
        blocks=9000,
        block=64,
        device="t4",
        flags={"student.config": ("--student-config", config)},
    )
    by_folder = plan(
        recipes="mlm-pre", blocks=9000, block=64, device="t4", flags=flags(student=str(tmp_path))
    )
    assert by_file.stages[0].setting == by_folder.stages[0].setting
    assert by_file.stages[0].setting.student.blocks == 2
    assert by_file.stages[0].setting.precision == "fp16"  # a T4 has no bf16


def test_the_head_alone() -> None:
    stage = plan(
        recipes="mlm-head", blocks=10_000, device="a100", flags=flags(student="bert-base-uncased")
    ).stages[0]
    assert stage.setting.head_only
    assert stage.setting.trained < 1_000_000


def test_a_training_that_does_not_fit_says_what_helps() -> None:
    notes = planned(device="t4", flags=flags(teacher="roberta-large", micro_batch=64)).notes
    assert any("does not fit into 16 GB" in note and "gradient_checkpointing" in note for note in notes)
    assert not any("does not fit" in note for note in planned().notes)


def test_warm_up_steps_are_real(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    AutoConfig.for_model(
        "bert",
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    ).save_pretrained(tmp_path)
    stage = plan(
        recipes="codir-pre",
        blocks=64,
        block=32,
        measured=True,
        flags=flags(teacher=str(tmp_path), batch=16, micro_batch=4, precision="fp32"),
    ).stages[0]
    found = stage.measured
    assert found is not None
    assert found.micro_batch_seconds > 0
    assert found.optimiser_seconds > 0
    expected = 4 * found.micro_batch_seconds + found.optimiser_seconds
    assert stage.seconds_per_step == pytest.approx(expected)
    assert stage.utilisation is None
    shown = capsys.readouterr().out
    assert "measured on" in shown
    assert "On other numbers" not in shown
    from codir.runs.footprint import activation_bytes

    assert activation_bytes(stage.setting, False) == pytest.approx(found.activations, rel=0.1)


def test_gpu_names() -> None:
    assert recognise("NVIDIA H200") == "h200"
    assert recognise("NVIDIA A100-SXM4-80GB") == "a100"
    assert recognise("NVIDIA A100-PCIE-40GB") == "a100-40gb"
    assert recognise("Tesla V100-SXM2-32GB") == "v100"
    assert recognise("NVIDIA GeForce RTX 4090") is None


# --- a corpus -----------------------------------------------------------------------------------------------------


def corpus_stub(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    stub = SimpleNamespace(
        path=Path("corpora/wiki"), block=128, vocab_size=50265, train=range(50_000), config_path=None
    )
    stub.__dict__.update(values)
    monkeypatch.setattr(plan_module, "open_corpus", lambda path, digests: stub)


def test_a_corpus_says_how_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus_stub(monkeypatch)
    corpus = {**flags(teacher="roberta-base"), "corpus": ("--corpus", Path("corpora/wiki"))}
    stage = plan(device="a100", flags=corpus).stages[0]
    assert (stage.setting.block, stage.setting.blocks) == (128, 50_000)
    with pytest.raises(ConfigError, match="leave out one of the two"):
        plan(device="a100", flags=corpus, blocks=5)


def test_a_corpus_of_a_larger_vocabulary_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus_stub(monkeypatch)
    with pytest.raises(DataError, match=r"50,265 tokens.*30,522.*codir corpus"):
        plan(
            device="a100",
            flags={**flags(teacher="bert-base-uncased"), "corpus": ("--corpus", Path("corpora/wiki"))},
        )


def test_a_corpus_of_another_tokenizer_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(tokenizer: object, whose: str) -> None:
        raise DataError(f"not that of {whose}")

    corpus_stub(monkeypatch, check_tokenizer=refuse, vocab_size=99)
    monkeypatch.setattr(plan_module, "load_tokenizer", lambda source: object())
    AutoConfig.for_model("bert", vocab_size=99, num_hidden_layers=2).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="not that of the teacher"):
        plan(
            device="a100",
            flags={**flags(teacher=str(tmp_path)), "corpus": ("--corpus", Path("corpora/wiki"))},
        )


def test_a_corpus_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        plan(
            device="a100", flags={**flags(teacher="roberta-base"), "corpus": ("--corpus", tmp_path / "wiki")}
        )


# --- what it refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "a1000"}, r"a1000 is not known.*did you mean 'a100'.*--peak-tflops"),
        ({"device": "cpu"}, "--measure"),
        ({"measured": True, "device": "h100"}, "names another"),
        ({"measured": True, "device": None, "efficiency": 0.4}, "leave out --efficiency"),
        ({"efficiency": 1.5}, "no share of the peak"),
        ({"peak_tflops": -1.0}, "must be above 0"),
        ({"device": "v100", "flags": flags(teacher="roberta-base", precision="bf16")}, "V100.*no bf16"),
        ({"blocks": None}, "--blocks"),
        ({"blocks": 0}, "at least one"),
        ({"gpus": 0}, "at least one"),
        ({"gpus": 3}, r"3 processes.*8190"),
        ({"gpus": 8, "flags": flags(teacher="roberta-base", micro_batch=30)}, "micro_batch 16"),
        ({"flags": {}}, "--teacher"),
        ({"recipes": "mlm-pre", "flags": {}}, "what the student looks like"),
        ({"recipes": "kd"}, "codir distill"),
        ({"flags": flags(teacher="roberta-base", student="bert-base-uncased")}, "50,265.*30,522.*mlm-pre"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(**options)


def test_blocks_longer_than_the_positions() -> None:
    with pytest.raises(ModelError, match=r"positions for 512 tokens.*--block 512"):
        planned(block=1024)


def test_the_command_says_it_without_a_traceback() -> None:
    result = command("--paper", "--device", "h2000")
    assert result.exit_code == 2
    assert "did you mean 'h200'" in " ".join(result.output.split())
    assert "Traceback" not in result.output


# --- the page -----------------------------------------------------------------------------------------------------


def blocks_of_the_page() -> list[tuple[str, str]]:
    """Returns (command, what the page says it prints)."""
    found = re.findall(
        r"```console\n\$ codir plan (.*?)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    return [(first, rest) for first, rest in found]


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@pytest.mark.parametrize(("arguments", "printed"), blocks_of_the_page())
def test_the_page_says_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, arguments: str, printed: str
) -> None:
    if "--measure" not in arguments:
        assert lines(printed) == lines(command(*shlex.split(arguments)).output)
        return
    # What was measured depends on the machine: every line but those of the time must still agree.
    monkeypatch.setattr(plan_module, "measure_step", lambda *_: Measured(1.0, 1.0, 6, 1, None, "x86_64", 1))
    now = command(*shlex.split(arguments)).output

    def unmeasured(text: str) -> list[str]:
        before_time = text.split("\n Time")[0]
        return [re.sub(r"─+|\s+", " ", line) for line in lines(before_time) if "measured" not in line]

    assert unmeasured(printed) == unmeasured(now)


def test_the_page_has_both_commands() -> None:
    commands = [arguments for arguments, _ in blocks_of_the_page()]
    assert any("--paper" in each for each in commands)
    assert any("--measure" in each for each in commands)
