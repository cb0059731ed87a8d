"""The bidirectional LSTM against plain loops, with padding anywhere, for pairs, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)

from codir.errors import ModelError
from codir.models.bilstm import BiLstmConfig, BiLstmForSequenceClassification, BiLstmModel
from codir.models.loading import count_parameters, encoder_shape, load_classifier
from codir.models.origins import student_from_config
from codir.models.representations import TokenView, represent, require_attention
from codir.models.student import layers_prefix

SIZES: dict[str, Any] = {"vocab_size": 40, "embedding_size": 5, "hidden_size": 6, "classifier_size": 7, "num_labels": 3}


def make(**changes: Any) -> BiLstmForSequenceClassification:
    torch.manual_seed(0)
    model = BiLstmForSequenceClassification(BiLstmConfig(**(SIZES | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5)
    return model


def naive_direction(layer: Any, states: Tensor, suffix: str) -> Tensor:
    """One direction of an LSTM, token by token: i, f, g, o gates."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w, u, b, c = (getattr(layer, f"{name}_l0{suffix}").double() for name in names)
    h = cell = torch.zeros(layer.hidden_size, dtype=torch.float64)
    found = []
    for x in states:
        i, f, g, o = (w @ x + u @ h + b + c).chunk(4)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        h = o.sigmoid() * cell.tanh()
        found.append(h)
    return torch.stack(found)


def _words(model: PreTrainedModel) -> Tensor:
    return cast(torch.nn.Embedding, model.get_input_embeddings()).weight


@torch.no_grad()
def naive_text(model: BiLstmForSequenceClassification, ids: list[int]) -> tuple[list[Tensor], Tensor]:
    """States of each layer [L, d] and the last states of both directions."""
    states = _words(model).double()[ids]
    layers, last = [states], states
    for layer in model.bilstm.layers:
        forward = naive_direction(layer, states, "")
        backward = naive_direction(layer, states.flip(0), "_reverse").flip(0)
        states, last = torch.cat([forward, backward], dim=1), torch.cat([forward[-1], backward[0]])
        layers.append(states)
    return layers, last


@torch.no_grad()
def naive_head(model: BiLstmForSequenceClassification, features: Tensor) -> list[float]:
    first, second = model.hidden, model.classifier
    inner = (first.weight.double() @ features + first.bias.double()).clamp(min=0)
    return (second.weight.double() @ inner + second.bias.double()).tolist()


def padded(texts: list[list[int]], left: list[int], length: int) -> dict[str, Tensor]:
    ids = torch.full((len(texts), length), 0)
    mask = torch.zeros(len(texts), length, dtype=torch.long)
    for row, (text, start) in enumerate(zip(texts, left, strict=True)):
        ids[row, start : start + len(text)] = torch.tensor(text)
        mask[row, start : start + len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask}


TEXTS = [[3, 7, 9, 4], [5], [8, 2, 6, 11, 12, 13]]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("left", [[0, 0, 0], [2, 5, 0], [1, 3, 0]])
def test_one_text_against_plain_loops(layers: int, left: list[int]) -> None:
    model = make(num_hidden_layers=layers)
    inputs = padded(TEXTS, left, 6)
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True)
    assert [state.shape for state in outputs.hidden_states] == [(3, 6, 5), *[(3, 6, 6)] * layers]
    for row, text in enumerate(TEXTS):
        states, last = naive_text(model, text)
        assert outputs.logits[row].tolist() == pytest.approx(naive_head(model, last), abs=1e-5)
        for given, expected in zip(outputs.hidden_states, states, strict=True):
            torch.testing.assert_close(given[row, left[row] :][: len(text)], expected.float(), atol=1e-5, rtol=0)
    assert outputs.hidden_states[-1][inputs["attention_mask"] == 0].abs().max() == 0


def test_pairs_against_plain_loops_by_token_type_and_by_separator() -> None:
    model = make(sentence_pairs=True, sep_token_id=2)
    one, other, single = [1, 5, 6, 2], [7, 8, 9, 2], [1, 4, 2]
    inputs = padded([one + other, single], [0, 2], 9)
    types = torch.zeros_like(inputs["input_ids"])
    types[0, 4:8] = 1
    h1, h2 = naive_text(model, one)[1], naive_text(model, other)[1]
    features = torch.cat([h1, h2, h1 * h2, (h1 - h2).abs()])
    alone = naive_text(model, single)[1]
    with_nothing = torch.cat([alone, torch.zeros(12), alone.abs()])
    with torch.no_grad():
        for logits in (model(**inputs).logits, model(**inputs, token_type_ids=types).logits):
            assert logits[0].tolist() == pytest.approx(naive_head(model, features), abs=1e-5)
            assert logits[1].tolist() == pytest.approx(naive_head(model, with_nothing), abs=1e-5)
        states = model(**inputs, output_hidden_states=True).hidden_states[1]
    expected = torch.cat([naive_text(model, text)[0][1] for text in (one, other)])
    torch.testing.assert_close(states[0, :8], expected.float(), atol=1e-5, rtol=0)


def test_batches_do_not_matter_and_half_of_them_is_half_of_the_logits() -> None:
    for pairs in (False, True):
        model = make(sentence_pairs=pairs, sep_token_id=9)
        together = padded(TEXTS, [0, 2, 0], 6)
        with torch.no_grad():
            logits = model(**together).logits
            for row in range(3):
                alone = model(**{name: values[row : row + 1] for name, values in together.items()}).logits
                torch.testing.assert_close(alone[0], logits[row])


def test_gradients_and_the_loss() -> None:
    model = make(sentence_pairs=True, sep_token_id=9).train()
    inputs = padded(TEXTS, [0, 2, 0], 6)
    outputs = model(**inputs, labels=torch.tensor([0, 2, 1]))
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    logits = model(**inputs).logits
    torch.testing.assert_close(
        model(**inputs, labels=torch.tensor([0, 2, 1])).loss,
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 1])),
    )
    score = make(num_labels=1)
    found = score(**inputs, labels=torch.tensor([0.0, 1.0, 2.0]))
    torch.testing.assert_close(found.loss, (found.logits[:, 0] - torch.tensor([0.0, 1.0, 2.0])).square().mean())


def test_dropout_is_drawn_from_the_global_generator() -> None:
    model = make(hidden_dropout_prob=0.5, num_hidden_layers=2).train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model(**padded(TEXTS, [0, 0, 0], 6)).logits)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_autocast_gives_finite_logits_near_those_of_fp32() -> None:
    model = make(num_hidden_layers=2)
    inputs = padded(TEXTS, [0, 2, 0], 6)
    with torch.no_grad():
        exact = model(**inputs).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(**inputs).logits
    torch.testing.assert_close(rough.float(), exact, atol=0.2, rtol=0.1)


def test_it_is_saved_and_loaded_without_code_from_the_folder(tmp_path: Path) -> None:
    model = make(num_hidden_layers=2, sentence_pairs=True, sep_token_id=9, pad_token_id=1)
    model.save_pretrained(tmp_path)
    assert {entry.suffix for entry in tmp_path.iterdir()} == {".json", ".safetensors"}
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, BiLstmConfig)
    assert (config.sentence_pairs, config.sep_token_id, config.pad_token_id, config.num_labels) == (True, 9, 1, 3)
    inputs = padded(TEXTS, [0, 2, 0], 6)
    again = load_classifier(tmp_path)
    assert isinstance(again, BiLstmForSequenceClassification)
    for loaded in (again, AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()):
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, model.state_dict()[name]), name
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert isinstance(encoder, BiLstmModel)
    torch.testing.assert_close(encoder(**inputs).last_hidden_state, model.bilstm(**inputs).last_hidden_state)
    headless = load_classifier(tmp_path, require_head=False, labels=lambda config: setattr(config, "num_labels", 5))
    assert headless(**inputs).logits.shape == (3, 5)


def test_what_codir_asks_of_a_student() -> None:
    model = make(num_hidden_layers=2)
    shape = encoder_shape(model)
    assert (shape.layers, shape.width, shape.heads) == (2, 6, None)
    assert layers_prefix(model) == "bilstm.layers."
    assert count_parameters(model)[1] == 40 * 5
    inputs = padded(TEXTS, [0, 2, 0], 6)
    seen = represent(model, inputs, ("mean", "cls"), tokens=[TokenView("hidden", 1)])
    assert seen.pooled["mean"].shape == seen.pooled["cls"].shape == (3, 2, 6)
    assert seen.tokens[TokenView("hidden", 1)].shape == (3, 6, 6)
    with pytest.raises(ModelError, match="attention cannot be compared"):
        require_attention(model, "The student")
    with pytest.raises(ValueError, match="must be even"):
        BiLstmConfig(hidden_size=7)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()
    embedded = model.get_input_embeddings()(inputs["input_ids"])
    torch.testing.assert_close(
        model(inputs_embeds=embedded, attention_mask=inputs["attention_mask"]).logits, model(**inputs).logits
    )


BERT: dict[str, Any] = {"model_type": "bert", "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


class _Tokenizer:
    """What `student_from_config` reads of one."""

    pad_token_id = 3
    sep_token_id = 4

    def __len__(self) -> int:
        return 50


def teacher() -> BertForSequenceClassification:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = BertConfig(**sizes, intermediate_size=16, vocab_size=60)
    config.id2label = {0: "bad", 1: "middling", 2: "good"}
    torch.manual_seed(1)
    return BertForSequenceClassification(config).eval()


def test_a_student_from_an_inline_config_takes_the_tokenizers_vocabulary() -> None:
    tokenizer: Any = _Tokenizer()
    student = student_from_config({"model_type": "codir-bilstm"}, teacher(), seed=1, tokenizer=tokenizer, pairs=True)
    config = student.config
    assert isinstance(config, BiLstmConfig)
    assert (config.vocab_size, config.pad_token_id, config.sep_token_id, config.sentence_pairs) == (50, 3, 4, True)
    assert config.id2label == {0: "bad", 1: "middling", 2: "good"}
    again = student_from_config({"model_type": "codir-bilstm"}, teacher(), seed=1, tokenizer=tokenizer, pairs=True)
    for one, other in zip(student.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    said = {"model_type": "codir-bilstm", "sentence_pairs": False, "vocab_size": 55, "embedding_size": 8}
    own = student_from_config(said, teacher(), tokenizer=tokenizer, pairs=True).config
    assert (own.vocab_size, own.sentence_pairs, own.embedding_size) == (55, False, 8)
    other = student_from_config(BERT | {"hidden_size": 8}, teacher(), tokenizer=tokenizer).config
    assert (other.vocab_size, other.pad_token_id) == (50, 3)
    assert not hasattr(other, "sentence_pairs")


def test_embeddings_of_the_teacher() -> None:
    tokenizer: Any = _Tokenizer()
    of = teacher()
    words = _words(of)
    for config in ({"model_type": "codir-bilstm"}, BERT | {"hidden_size": 16}):
        student = student_from_config(config, of, tokenizer=tokenizer, embeddings="teacher")
        table = _words(student)
        assert torch.equal(table, words[:50])
        assert table.data_ptr() != words.data_ptr()
    for wrong in ({"embedding_size": 300}, {"vocab_size": 61}):
        with pytest.raises(ModelError, match=r"student\.embeddings: teacher"):
            student_from_config({"model_type": "codir-bilstm", **wrong}, of, tokenizer=tokenizer, embeddings="teacher")
