"""A study that codir ran becomes one small file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from collect import collect
from trials import compare, read_study


@pytest.mark.slow
def test_a_study_becomes_one_small_file(tmp_path: Path) -> None:
    import codir

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    shape = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    torch.manual_seed(0)
    BertForSequenceClassification(shape).save_pretrained(tmp_path / "teacher")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=32, **special)
    tokenizer.save_pretrained(tmp_path / "teacher")
    for name in ("train", "dev"):
        lines = [json.dumps({"text": f"{'good' if n % 2 else 'bad'} film", "label": n % 2}) for n in range(16)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    codir.study(
        recipes=["finetune", "kd"],
        tasks={"good": {"train": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / "dev.jsonl")}},
        teachers={"good": str(tmp_path / "teacher")},
        seeds=[1, 2],
        training={"num_train_epochs": 2, "precision": "fp32"},
        output=str(tmp_path / "s"),
    )
    content = collect("made", [tmp_path / "s"], tmp_path / "made.json")
    assert (content["finished"], content["planned"]) == (4, 4)
    assert str(tmp_path) not in (tmp_path / "made.json").read_text(encoding="utf-8")
    found = compare([read_study(tmp_path / "made.json")])
    assert found is not None
    assert [str(row) for row in found.rows] == ["finetune", "kd"]
    assert found.trials[0].curve("loss_task")[0]
