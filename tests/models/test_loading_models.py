from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from transformers import AutoModelForSequenceClassification

from codir.errors import ModelError
from codir.kinds import kind_named
from codir.models.loading import count_parameters, encoder_shape, load_classifier, load_tokenizer

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}


def of_classes(names: str) -> Callable[[hf.PretrainedConfig], None]:
    """Returns what gives a config a class for each letter."""
    return lambda config: kind_named("classification").write(config, list(names))


def one_score(config: hf.PretrainedConfig) -> None:
    kind_named("regression").write(config, None)


def test_loads_in_fp32_whatever_was_saved(tiny_classifier, tmp_path: Path):
    tiny_classifier().to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_classifier(tmp_path)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert not model.training


def test_tokenizer(tiny_model_dir, tmp_path: Path, tiny_classifier):
    folder = tiny_model_dir()
    assert load_tokenizer(str(folder)).tokenize("the cat") == ["the", "cat"]
    tiny_classifier().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"holds no tokenizer.*it holds config\.json, model\.safetensors"):
        load_tokenizer(tmp_path)


def test_no_such_folder(tmp_path: Path, monkeypatch):
    (tmp_path / "other").mkdir()
    with pytest.raises(ModelError, match=r"missing does not exist.*holds other/"):
        load_classifier(tmp_path / "missing")
    with pytest.raises(ModelError, match="Nor is there a folder"):
        load_classifier(str(tmp_path / "no" / "missing"))
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"runs/teacher does not exist.*runs holds nothing"):
        load_classifier("runs/teacher")


def test_not_a_model_folder(tmp_path: Path, tiny_classifier):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match=r"config\.json is missing; it holds notes\.txt"):
        load_classifier(tmp_path)
    with pytest.raises(ModelError, match="is a file"):
        load_classifier(tmp_path / "notes.txt")
    tiny_classifier().config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"model\.safetensors is missing; it holds config\.json, notes\.txt"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(tiny_model_dir, keep: float):
    folder = tiny_model_dir()
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ModelError, match=r"model\.safetensors .*truncated or damaged"):
        load_classifier(folder)


def test_shards(tiny_classifier, tmp_path: Path):
    model = tiny_classifier()
    model.save_pretrained(tmp_path, max_shard_size="40kB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    loaded = load_classifier(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    data = shards[1].read_bytes()
    shards[1].write_bytes(data[:-10])
    with pytest.raises(ModelError, match=shards[1].name):
        load_classifier(tmp_path)
    shards[1].unlink()
    with pytest.raises(ModelError, match=rf"{shards[1].name} is missing"):
        load_classifier(tmp_path)


def test_pickles_are_refused(tiny_classifier, tmp_path: Path):
    model = tiny_classifier()
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"(?s)pytorch_model\.bin.*convert it once.*save_pretrained") as caught:
        load_classifier(tmp_path)
    # the advice works
    code = str(caught.value).split('python -c "')[1].split('"')[0]
    exec(code, {})
    assert load_classifier(f"{tmp_path}-safetensors").config.num_labels == 2


def test_pickles_beside_safetensors_are_not_read(tiny_model_dir):
    folder = tiny_model_dir()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_classifier(folder)


def test_a_family_without_classifier(tmp_path: Path):
    sizes = {name: value for name, value in SIZES.items() if name != "vocab_size"}
    hf.ViTModel(hf.ViTConfig(**{**sizes, "num_hidden_layers": 1})).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="without a sequence classifier"):
        load_classifier(tmp_path)


@pytest.mark.parametrize("kind", [hf.BertModel, hf.BertForMaskedLM])  # the second has no pooler
def test_a_teacher_that_is_not_fine_tuned(kind: type, tmp_path: Path):
    kind(hf.BertConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=rf"not fine-tuned.*codir finetune --model {tmp_path} --task"):
        load_classifier(tmp_path)
    model = load_classifier(tmp_path, require_head=False, labels=of_classes("abc"))
    assert model.config.num_labels == 3
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize(("labels", "outputs"), [(of_classes("abc"), 3), (one_score, 1)])
def test_other_outputs_need_a_new_head(tiny_model_dir, labels, outputs: int):
    folder = tiny_model_dir()
    with pytest.raises(ModelError, match="other classes"):
        load_classifier(folder, labels=labels)
    assert load_classifier(folder, labels=labels, require_head=False).classifier.weight.shape == (outputs, 32)


def test_regression(tiny_model_dir):
    model = load_classifier(tiny_model_dir(regression=True), labels=one_score)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


def test_weights_of_another_shape_than_the_config(tiny_model_dir):
    folder = tiny_model_dir()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 80}))
    with pytest.raises(ModelError, match=r"lacks .*intermediate\.dense"):
        load_classifier(folder, require_head=False)


def test_offline_hub():
    with pytest.raises(ModelError, match=r"no folder some/model-nobody-has.*Hub cannot be reached"):
        load_classifier("some/model-nobody-has")
    with pytest.raises(ModelError, match="Hub cannot be reached"):
        load_tokenizer("nobody-has-this-model")


def test_shapes():
    assert encoder_shape(
        hf.DistilBertForSequenceClassification(
            hf.DistilBertConfig(dim=24, n_layers=3, n_heads=2, hidden_dim=8, vocab_size=50)
        )
    ).__dict__ == {"layers": 3, "width": 24, "heads": 2}
    with pytest.raises(ModelError, match="Linear"):
        encoder_shape(torch.nn.Linear(2, 2))


def test_parameters_of_roberta_base():
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(
            hf.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
        )
    total, embedding = count_parameters(model)
    assert embedding == 50265 * 768 + 514 * 768 + 768 + 2 * 768  # Table 3: 39.0 million
    assert total == sum({id(p): p.numel() for p in model.parameters()}.values())
    assert 124e6 < total < 126e6


def test_tied_parameters_count_once():
    model = hf.BertForMaskedLM(hf.BertConfig(**SIZES))
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    total, embedding = count_parameters(model)
    assert embedding == (100 + 512 + 2 + 2) * 32
    assert total == sum(tensor.numel() for tensor in {t.data_ptr(): t for t in model.parameters()}.values())


def test_transformers_is_quiet_and_has_its_voice_back(tmp_path: Path, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hf.BertModel(hf.BertConfig(**SIZES)).save_pretrained(tmp_path)
    capfd.readouterr()
    load_classifier(tmp_path, require_head=False)
    assert capfd.readouterr().err == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
