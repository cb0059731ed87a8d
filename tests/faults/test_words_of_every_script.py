"""`codir augment` replaces whole words in every script: letters keep their marks, joiners and accents."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from unicodedata import normalize

import pytest
import torch
from fault_world import refused, succeeded
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARIES = {
    "Hindi": "बहुत अच्छी फिल्म किताब पुरानी नहीं लड़की खूबसूरत संगीत ज़िन्दगी",
    "Hindi with joiners": "नमस्\u200dते बहुत अच्\u200cछी फिल्म किताब पुरानी",
    "Tamil": "நல்ல படம் புத்தகம் மிகவும் பாடல் அழகு",
    "Bengali": "খুব ভালো ছবি বই সুন্দর গান",
    "Arabic with vowels": "فِيلْمٌ جَيِّدٌ كِتَابٌ قَدِيمٌ وَلَدٌ جَمِيلٌ",
    "Persian with joiners": "می\u200cخواهم کتاب\u200cها خوب فیلم قدیمی زیبا",
    "Hebrew with points": "סֶרֶט טוֹב סֵפֶר יָשָׁן יָפֶה מְאֹד",
    "French, decomposed": normalize("NFD", "café très élève drôle même là où"),
    "Vietnamese, decomposed": normalize("NFD", "phim rất hay đẹp quyển sách cũ"),
    "Korean, decomposed": normalize("NFD", "영화 정말 재미 좋은 음악 책"),
    "Greek, composed": "ταινία καλή βιβλίο παλιό μουσική ωραία",
    "English": "film good book old music nice don't",
}


@pytest.fixture
def masked_model(tmp_path: Path) -> Callable[[list[str]], Path]:
    """Returns a maker of random masked language models whose tokens are the given words."""

    def make(words: list[str]) -> Path:
        folder = tmp_path / "mlm"
        tokens = [*SPECIAL, *words, ".", ",", "।", "!"]
        core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(tokens)}, unk_token="[UNK]"))
        core.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("।", "isolated")]
        )
        core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
        PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **names).save_pretrained(folder)
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        torch.manual_seed(0)
        BertForMaskedLM(BertConfig(vocab_size=len(tokens), **sizes)).save_pretrained(folder)
        return folder

    return make


def copies_of(texts: list[str], model: Path, tmp_path: Path) -> list[tuple[str, str]]:
    """Returns each copy that `codir augment` makes, with the text that it is of."""
    file, output = tmp_path / "texts.txt", tmp_path / "copies.jsonl"
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    flags = ("--copies", 6, "--probability", 0.6, "--candidates", 3, "--output", output, "--overwrite")
    succeeded("augment", "--model", model, "--train", file, *flags)
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return [(texts[line["source"]], line["text"]) for line in lines]


@pytest.mark.parametrize("script", list(VOCABULARIES))
def test_words_are_replaced_whole(script: str, masked_model: Callable[[list[str]], Path], tmp_path: Path) -> None:
    words = VOCABULARIES[script].split()
    texts = [" ".join(words[:4]) + " ।", f"{words[3]}, {words[1]} !", " ".join(words[::-1])]
    made = copies_of(texts, masked_model(words), tmp_path)
    assert len(made) >= 6
    changed = set()
    for text, copy in made:
        # what is between the words stays, and every word is one the model knows, from its first character to its last
        assert len(copy.split()) == len(text.split()), copy
        assert re.sub(r"[^ ,!।]+", "", copy) == re.sub(r"[^ ,!।]+", "", text), copy
        new = [word.strip(",") for word in copy.split() if word not in ("।", "!")]
        assert set(new) <= set(words), copy
        changed |= set(new) - {word.strip(",") for word in text.split()}
    assert changed


def test_a_chinese_character_is_a_word(masked_model: Callable[[list[str]], Path], tmp_path: Path) -> None:
    # as Unicode has it; a whole sentence in the place of one word would be gone
    made = copies_of(["我 很 喜欢这部电影", "电影很好 看"], masked_model(list("我很好看电影这部")), tmp_path)
    assert all(len(copy) == len(text) for text, copy in made)
    assert all(copy.count(" ") == text.count(" ") for text, copy in made)


def test_scripts_without_boundaries_have_no_words(masked_model: Callable[[list[str]], Path], tmp_path: Path) -> None:
    # only a dictionary knows where a word of Thai, Lao, Khmer or Burmese ends: better none than a half
    model = masked_model(["film", "good", "book", "old", "music", "nice"])
    made = copies_of(["ภาพยนตร์ดีมาก good film", "ຮູບເງົາດີ good book"], model, tmp_path)
    assert all(copy.split()[0] == text.split()[0] for text, copy in made)
    file = tmp_path / "thai.txt"
    file.write_text("ภาพยนตร์ดีมาก\nរឿងល្អ\n", encoding="utf-8")
    output = tmp_path / "none.jsonl"
    message = refused("augment", model=model, train=file, output=output, leaves_nothing=tmp_path)
    assert "None of the 2 training texts has a word that could be replaced" in message
