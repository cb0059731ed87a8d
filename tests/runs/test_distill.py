"""Whole distillations on tiny models: what is in the run folder, and whether the table is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from small_world import CRD, TRAINING, World, quiet, sentences, write_table
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

import codir.teacher.cache as cache_module
from codir import distill, evaluate
from codir.config.config import DataConfig, DistillConfig
from codir.config.loading import load
from codir.measure.comparison import TITLES, Comparison, ModelRow
from codir.runs import train as train_module
from codir.runs.distill import DistillResult


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def logged(run: Path, key: str) -> list[float]:
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry[key] for entry in entries if key in entry]


def row(result: DistillResult, role: Any) -> ModelRow:
    found = result.comparison.row(role)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def result(world: World, tmp_path_factory: pytest.TempPathFactory) -> DistillResult:
    output = tmp_path_factory.mktemp("runs") / "student"
    return distill(**world.settings(output, kd=True), console=quiet())


def test_the_student_loads_alone_and_holds_nothing_else(world: World, result: DistillResult) -> None:
    run = result.output
    student = AutoModelForSequenceClassification.from_pretrained(run)
    teacher = AutoModelForSequenceClassification.from_pretrained(world.teacher)
    assert student.config.num_hidden_layers == 2
    assert student.config.id2label == teacher.config.id2label == {0: "neg", 1: "pos"}
    assert set(weights(run)) == set(student.state_dict())
    assert AutoTokenizer.from_pretrained(run)("good film").input_ids[0] == 2
    names = {path.name for path in run.iterdir()}
    assert {"codir.yaml", "environment.json", "metrics.json", "log.jsonl", "README.md", "table.md"} <= names
    assert "checkpoints" not in names
    assert not list(run.rglob("*optimizer*"))
    assert not list(run.rglob("objectives*"))
    for role in ("finetune", "kd"):
        assert AutoModelForSequenceClassification.from_pretrained(run / "comparison" / role)
        assert not (run / "comparison" / role / "checkpoints").exists()
        assert not (run / "comparison" / role / "contrast.safetensors").exists()  # nothing is contrasted there


def test_what_is_left_of_the_contrast_is_kept_beside_the_student(world: World, result: DistillResult) -> None:
    with safe_open(result.output / "contrast.safetensors", framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert kept["crd/teacher.weight"].shape == (8, 4 * 32)
    assert kept["crd/student.weight"].shape == (8, 2 * 32)
    assert kept["crd/rows"].shape == (96, 8)
    assert kept["crd/ids"].tolist() == list(range(96))
    assert set(kept["crd/labels"].tolist()) == {0, 1}
    found = row(result, "codir")
    # no part of the model: neither of its size
    assert found.bytes == (result.output / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("plain", "kd", "named"), [(0.7, 0.75, []), (0.8, 0.75, ["finetune"]), (0.9, 0.9, ["finetune", "kd"])]
)
def test_comparison_students_that_score_no_less_are_named_with_their_folder(
    plain: float, kd: float, named: list[str]
) -> None:
    scores = {"teacher": 0.95, "finetune": plain, "kd": kd, "codir": 0.8}
    rows = [ModelRow(TITLES[role], {"accuracy": score}, "accuracy") for role, score in scores.items()]
    result = DistillResult(Path("runs/one"), Comparison(rows), {})
    assert list(result.no_worse().values()) == [Path("runs/one/comparison", role) for role in named]
    assert not DistillResult(Path("runs/one"), Comparison(rows[:2]), {}).no_worse()


def test_the_table_is_what_evaluate_measures(world: World, result: DistillResult) -> None:
    folders = {
        "teacher": world.teacher,
        "codir": result.output,
        "kd": result.output / "comparison" / "kd",
        "finetune": result.output / "comparison" / "finetune",
    }
    data = DataConfig(**{**world.data(), "train": None})
    teacher = evaluate(world.teacher, data, quiet=True)
    for role, folder in folders.items():
        found = row(result, role)
        measured = evaluate(folder, data, quiet=True)
        assert found.metrics == pytest.approx(measured.flat_metrics())
        same = float(np.mean(measured.predictions() == teacher.predictions()))
        assert found.agreement == pytest.approx(same)
        assert found.bytes == (folder / "model.safetensors").stat().st_size
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert found.parameters == sum(p.numel() for p in model.parameters())
    assert row(result, "teacher").agreement == 1.0
    content = json.loads((result.output / "metrics.json").read_text())
    assert [row["role"] for row in content["comparison"]["rows"]] == ["teacher", "finetune", "kd", "codir"]
    card = (result.output / "README.md").read_text()
    assert (result.output / "table.md").read_text().strip() in card
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "text-classification"


def test_the_log_has_every_term(result: DistillResult) -> None:
    for key in ("loss_task", "loss_kd", "loss_crd", "crd_accuracy", "kd_agreement", "eval_agreement"):
        assert logged(result.output, key), key
    assert not logged(result.output / "comparison" / "finetune", "loss_kd")


def test_all_students_start_alike_and_get_the_same_budget(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: dict[str, dict[str, torch.Tensor]] = {}
    orders: dict[str, list[int]] = {}
    make = train_module.DistillationTrainer

    class Spy(make):  # type: ignore[valid-type, misc]
        def train(self, *args: Any, **kwargs: Any) -> Any:
            label = self._progress.label
            started[label] = {name: value.clone() for name, value in self.student.state_dict().items()}
            orders[label] = []
            return super().train(*args, **kwargs)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if model.training:
                orders[self._progress.label] += inputs["example_id"].tolist()
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(train_module, "DistillationTrainer", Spy)
    done = distill(**world.settings(tmp_path / "run", kd=True), console=quiet())
    codir, kd, plain = (started[name] for name in ("CoDIR student", "KD student", "undistilled student"))
    assert all(torch.equal(codir[name], kd[name]) and torch.equal(codir[name], plain[name]) for name in codir)
    assert orders["CoDIR student"] == orders["KD student"] == orders["undistilled student"]
    assert sorted(orders["CoDIR student"]) == list(range(96))
    assert {cost.steps for cost in done.costs.values()} == {12}
    ends = [
        weights(done.output),
        *(weights(done.output / "comparison" / role) for role in ("kd", "finetune")),
    ]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert any(not torch.equal(ends[one][name], ends[other][name]) for name in ends[0])


def test_the_teacher_runs_once_for_all_students_and_for_the_next_run(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    compute = cache_module.forward_dataset

    def spy(model: Any, columns: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(len(columns))
        return compute(model, columns, *args, **kwargs)

    monkeypatch.setattr(cache_module, "forward_dataset", spy)
    own = {"cache_dir": str(tmp_path / "cache")}
    distill(**world.settings(tmp_path / "one", kd=True, **own), console=quiet())
    assert passes == [40, 96]  # the validation split, the training split once for three students
    training = {**TRAINING, "seed": 9, "learning_rate": 1e-3}
    distill(**world.settings(tmp_path / "two", kd=True, training=training, **own), console=quiet())
    assert len(passes) == 2


def test_without_cache_the_losses_are_the_same(world: World, tmp_path: Path) -> None:
    common = {"baseline": False, "objectives": {**CRD, "crd": {**CRD["crd"], "pooling": "cls"}}}
    cached = distill(**world.settings(tmp_path / "cached", **common), console=quiet())
    live = distill(**world.settings(tmp_path / "live", cache=False, **common), console=quiet())
    for key in ("loss", "loss_task", "loss_kd", "loss_crd", "eval_loss"):
        one, other = logged(cached.output, key), logged(live.output, key)
        assert len(one) == len(other) > 0
        assert one == pytest.approx(other, rel=2e-3), key
    rows = zip(cached.comparison.rows, live.comparison.rows, strict=True)
    assert all(a.metrics["accuracy"] == pytest.approx(b.metrics["accuracy"], abs=0.051) for a, b in rows)


SETTINGS: dict[str, dict[str, Any]] = {
    "hard": {"negatives": "hard"},
    "all": {"k": "all", "pooling": "cls"},
    "list": {"teacher_layers": [1, 3], "student_layers": [2], "sharing": "independent"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_choices_of_the_contrastive_term(world: World, tmp_path: Path, name: str) -> None:
    overrides = [f"objectives.crd.{key}={json.dumps(value)}" for key, value in SETTINGS[name].items()]
    if "k" not in SETTINGS[name]:
        overrides.append("objectives.crd.k=10")
    flags = world.settings(tmp_path / "run", baseline=False)
    del flags["objectives"]
    config = load(DistillConfig, overrides=overrides, flags={key: (key, value) for key, value in flags.items()})
    done = distill(config, console=quiet())
    assert all(np.isfinite(logged(done.output, "loss_crd")))
    start = AutoModelForSequenceClassification.from_pretrained(world.teacher).bert.encoder.layer[1]
    moved = weights(done.output)["bert.encoder.layer.0.output.dense.weight"]
    assert not torch.equal(moved, start.output.dense.weight)
    kept = yaml.safe_load((done.output / "codir.yaml").read_text())["objectives"]["crd"]
    assert all(kept[key] == value for key, value in SETTINGS[name].items())


# ---- other tokenizers, families, classes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a tokenizer that cuts words into letters, with `<s>` and without token types."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz"]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.mark.parametrize("cache", [True, False])
def test_a_roberta_student_with_another_tokenizer(
    world: World, tmp_path: Path, other_tokenizer: PreTrainedTokenizerFast, cache: bool
) -> None:
    config = RobertaConfig(
        vocab_size=len(other_tokenizer),
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=42,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "model")
    other_tokenizer.save_pretrained(tmp_path / "model")
    settings = world.settings(tmp_path / "run", student={"model": str(tmp_path / "model")}, cache=cache)
    done = distill(**settings, console=quiet())
    student = AutoModelForSequenceClassification.from_pretrained(done.output)
    assert student.config.model_type == "roberta"
    assert student.config.id2label == {0: "neg", 1: "pos"}
    assert len(AutoTokenizer.from_pretrained(done.output)("film").input_ids) == 6
    data = DataConfig(**{**world.data(), "train": None})
    found, teacher = row(done, "codir"), row(done, "teacher")
    assert found.metrics == pytest.approx(evaluate(done.output, data, quiet=True).flat_metrics())
    assert teacher.metrics == pytest.approx(evaluate(world.teacher, data, quiet=True).flat_metrics())


def permuted(world: World, folder: Path) -> Path:
    """Saves the teacher with its classes in the other order: the same model under other ids."""
    model = AutoModelForSequenceClassification.from_pretrained(world.teacher)
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight.flip(0).clone())
        model.classifier.bias.copy_(model.classifier.bias.flip(0).clone())
    model.config.id2label = {0: "pos", 1: "neg"}
    model.config.label2id = {"pos": 0, "neg": 1}
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(world.teacher).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("cache", [True, False])
def test_a_student_that_is_the_teacher_with_its_classes_in_another_order(
    world: World, tmp_path: Path, cache: bool
) -> None:
    copy = permuted(world, tmp_path / "copy")
    for parameter in ("attention_probs_dropout_prob", "hidden_dropout_prob"):
        config = json.loads((copy / "config.json").read_text())
        config[parameter] = 0.0
        (copy / "config.json").write_text(json.dumps(config))
    training = {**TRAINING, "learning_rate": 1e-12, "weight_decay": 0.0}
    settings = world.settings(
        tmp_path / "run", student={"model": str(copy)}, training=training, objectives={}, cache=cache
    )
    done = distill(recipe="kd", **settings, console=quiet())
    assert logged(done.output, "loss_kd") == pytest.approx([0.0] * 6, abs=1e-5)
    student = row(done, "kd")
    assert student.agreement == 1.0
    teacher = row(done, "teacher")
    assert student.metrics == teacher.metrics
    assert AutoModelForSequenceClassification.from_pretrained(done.output).config.id2label[0] == "pos"


def test_f1_is_of_the_datas_class_whatever_the_order_of_the_models(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a folder in GLUE's format whose metric counts one class as the positive one
    folder = tmp_path / "data"
    folder.mkdir()
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    for name, count in (("msr_paraphrase_train.txt", 40), ("dev.tsv", 30)):
        rows = sentences(count, seed=5, pairs=True)[: count - count // 3]  # unequal classes
        rows += [row for row in sentences(count, seed=6, pairs=True) if row["stars"] == "pos"][: count // 3]
        lines = [f"{int(r['stars'] == 'pos')}\t1\t2\t{r['review']}\t{r['reply']}\n" for r in rows]
        (folder / ("train.tsv" if "train" in name else name)).write_text(header + "".join(lines))
    teacher = permuted(world, tmp_path / "teacher")
    config = json.loads((teacher / "config.json").read_text())
    config["id2label"] = {"0": "equivalent", "1": "not_equivalent"}
    config["label2id"] = {"equivalent": 0, "not_equivalent": 1}
    (teacher / "config.json").write_text(json.dumps(config))
    data = {"task": "mrpc", "data_dir": str(folder), "max_length": 32}
    done = distill(**world.settings(tmp_path / "run", teacher=str(teacher), data=data), console=quiet())
    for role, model in (("teacher", teacher), ("codir", done.output)):
        found = row(done, role)
        assert found.metrics == pytest.approx(evaluate(model, DataConfig(**data), quiet=True).flat_metrics())
    best = done.costs["codir"].best_score
    codir = row(done, "codir")
    assert best == pytest.approx(codir.metrics["f1"])


@pytest.mark.filterwarnings("ignore:The classes cannot be matched by name")
def test_a_teacher_without_class_names(world: World, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(world.teacher)
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    model.config.label2id = {"LABEL_0": 0, "LABEL_1": 1}
    model.save_pretrained(tmp_path / "teacher")
    AutoTokenizer.from_pretrained(world.teacher).save_pretrained(tmp_path / "teacher")
    console = quiet()
    with pytest.warns(UserWarning, match=r"matched by order: neg = LABEL_0, pos = LABEL_1"):
        done = distill(**world.settings(tmp_path / "run", teacher=str(tmp_path / "teacher")), console=console)
    found = row(done, "teacher")
    named = evaluate(world.teacher, DataConfig(**{**world.data(), "train": None}), quiet=True)
    assert found.metrics == pytest.approx(named.flat_metrics())


# ---- scores, pairs ---------------------------------------------------------------------------------------------------


def test_regression(world: World, tmp_path: Path) -> None:
    console = quiet()
    settings = world.settings(tmp_path / "run", teacher=str(world.regression), data=world.data(label="score"), kd=True)
    done = distill(**settings, console=console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "any, K = 10" in printed
    assert "LABEL_0" not in printed
    student = AutoModelForSequenceClassification.from_pretrained(done.output)
    assert student.config.num_labels == 1
    assert student.config.problem_type == "regression"
    data = DataConfig(**{**world.data(label="score"), "train": None})
    for role, folder in (("teacher", world.regression), ("codir", done.output)):
        found = row(done, role)
        assert set(found.metrics) == {"pearson", "spearman", "pearson_spearman"}
        assert found.metrics == pytest.approx(evaluate(folder, data, quiet=True).flat_metrics())
    assert row(done, "teacher").agreement == pytest.approx(1.0)


def test_pairs(world: World, tmp_path: Path) -> None:
    train = write_table(tmp_path / "train.tsv", sentences(40, seed=8, pairs=True))
    data = world.data(train=str(train), validation=None, text_pair="reply")
    console = quiet()
    done = distill(**world.settings(tmp_path / "run", data=data), console=console)
    assert "held out" in console.file.getvalue()  # type: ignore[attr-defined]
    content = json.loads((done.output / "metrics.json").read_text())
    assert content["train_examples"] + content["validation_examples"]["validation"] == 40
    assert "second_text" in (done.output / "README.md").read_text()
