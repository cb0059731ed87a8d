"""A reader's world in small: models named as in the pages, GLUE, files of texts, all made up."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import datasets
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from codir.data.glue import GLUE

# Rows of every made-up data set. Recipes take 500 negatives, and a table of the paper, on MRPC from files, 1000.
TRAIN, DEV, TEST = 510, 24, 6
MRPC_TRAIN = 1010

_TEXT = """
the a an one this that good bad great awful film movie book song was is are were not never very quite
cat dog bird man woman child sees saw likes liked hates and or but of in on with by it he she they we you
"""
WORDS = _TEXT.split()
MODELS = ("roberta-base", "bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2")

# Columns of GLUE's own files, for each task: (header of train and dev, header of test, columns of the texts).
_TSV: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "CoLA": ("source label mark sentence", "index sentence", ("sentence",)),
    "SST-2": ("sentence label", "index sentence", ("sentence",)),
    "MRPC": (
        "Quality #1_ID #2_ID #1_String #2_String",
        "index #1_ID #2_ID #1_String #2_String",
        ("#1_String", "#2_String"),
    ),
    "STS-B": ("index sentence1 sentence2 score", "index sentence1 sentence2", ("sentence1", "sentence2")),
    "QQP": ("id question1 question2 is_duplicate", "id question1 question2", ("question1", "question2")),
    "MNLI": ("index sentence1 sentence2 gold_label", "index sentence1 sentence2", ("sentence1", "sentence2")),
    "QNLI": ("index question sentence label", "index question sentence", ("question", "sentence")),
    "RTE": ("index sentence1 sentence2 label", "index sentence1 sentence2", ("sentence1", "sentence2")),
    "WNLI": ("index sentence1 sentence2 label", "index sentence1 sentence2", ("sentence1", "sentence2")),
}
_LABELS = ("label", "Quality", "score", "is_duplicate", "gold_label")


def sentence(draw: random.Random, good: bool | None = None) -> str:
    """Returns some words; `good` puts a word of judgement among them, so that there is something to learn."""
    words = draw.choices(WORDS, k=draw.randint(3, 10))
    if good is not None:
        words.insert(draw.randrange(len(words)), "great" if good else "awful")
    return " ".join(words)


def tokenizer(special: tuple[str, str, str, str, str]) -> PreTrainedTokenizerFast:
    """Returns a word-level tokenizer with the special tokens (start, pad, end, unknown, mask), ids in that order."""
    start, pad, end, unknown, mask = special
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS, ".", ",", "?"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    core.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} $B {end}",
        special_tokens=[(start, 0), (end, 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=start,
        cls_token=start,
        pad_token=pad,
        eos_token=end,
        sep_token=end,
        unk_token=unknown,
        mask_token=mask,
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
    )


def write_models(folder: Path) -> None:
    """Writes a model of 12 blocks under each name that the pages use; a folder here wins over the Hub."""
    shape: dict[str, Any] = {
        "hidden_size": 48,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "pad_token_id": 1,
        "num_hidden_layers": 12,
    }
    for name in MODELS:
        roberta = name.startswith("roberta")
        words = tokenizer(
            ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
            if roberta
            else ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
        )
        shape["vocab_size"] = len(words)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if roberta:
                model = RobertaForMaskedLM(
                    RobertaConfig(**shape, max_position_embeddings=130, type_vocab_size=1)
                )
            else:
                model = BertForMaskedLM(BertConfig(**shape, max_position_embeddings=128))
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)


def write_glue(folder: Path) -> None:
    """Writes all of GLUE in its own format."""
    draw = random.Random(1)
    for name, (header, test_header, texts) in _TSV.items():
        names = GLUE[name.lower().replace("-", "")].task.labels
        (folder / name).mkdir(parents=True)
        both = ("_matched", "_mismatched") if name == "MNLI" else ("",)
        splits = [
            ("train", MRPC_TRAIN if name == "MRPC" else TRAIN, header),
            *[(f"dev{each}", DEV, header) for each in both],
        ]
        for split, count, columns in [*splits, *[(f"test{each}", TEST, test_header) for each in both]]:
            lines = (
                []
                if name == "CoLA" and not split.startswith("test")
                else [columns.replace(" ", "\t").replace("_", " ")]
            )
            if name != "MRPC" and lines:
                lines = [columns.replace(" ", "\t")]
            for row in range(count):
                line = []
                for column in columns.split():
                    if column in texts:
                        line.append(sentence(draw, good=row % 2 == 0))
                    elif column in _LABELS:
                        spelled = name in ("MNLI", "QNLI", "RTE")
                        number = row % (len(names) if names else 2)
                        line.append(
                            f"{draw.uniform(0, 5):.2f}"
                            if names is None
                            else names[number]
                            if spelled
                            else str(number)
                        )
                    else:
                        line.append(str(row))
                lines.append("\t".join(line))
            (folder / name / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def hub(path: str, name: str | None = None, *, split: str) -> datasets.Dataset:
    """Stands in for `datasets.load_dataset`: GLUE with the Hub's columns."""
    assert path == "nyu-mll/glue", f"the pages fetch {path} from the Hub"
    assert name is not None
    task = GLUE[name].task
    draw = random.Random(2)
    count = TRAIN if split == "train" else DEV
    columns: dict[str, list[Any]] = {
        text: [sentence(draw, good=row % 2 == 0) for row in range(count)] for text in task.text
    }
    features: dict[str, Any] = {text: datasets.Value("string") for text in task.text}
    if task.labels is None:
        columns["label"] = [draw.uniform(0, 5) for _ in range(count)]
        features["label"] = datasets.Value("float32")
    else:
        columns["label"] = [row % len(task.labels) for row in range(count)]
        features["label"] = datasets.ClassLabel(names=list(task.labels))
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def write_files(folder: Path) -> None:
    """Writes the texts and tables that the pages name."""
    draw = random.Random(3)
    for name, count in (("train", TRAIN), ("dev", DEV)):
        rows = [
            {
                "review": sentence(draw, good=row % 2 == 0),
                "stars": "good" if row % 2 == 0 else "bad",
                "question": sentence(draw, good=row % 2 == 0),
                "answer": sentence(draw),
                "fits": str(row % 2),
                "score": f"{draw.uniform(0, 5):.2f}",
            }
            for row in range(count)
        ]
        for suffix, separator in (("csv", ","), ("tsv", "\t")):
            lines = [list(rows[0]), *[list(row.values()) for row in rows]]
            text = "\n".join(separator.join(line) for line in lines) + "\n"
            (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
        lines = [json.dumps(row) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    texts = [sentence(draw, good=row % 2 == 0) for row in range(8)]
    (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    articles = [". ".join(sentence(draw) for _ in range(12)) for _ in range(40)]
    lines = [json.dumps({"text": text}) for text in articles[:20]]
    (folder / "articles.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "wiki").mkdir()
    for number in range(2):
        text = "\n".join(articles[20 + 10 * number : 30 + 10 * number]) + "\n"
        (folder / "wiki" / f"part{number}.txt").write_text(text, encoding="utf-8")


def write_world(folder: Path) -> None:
    """Writes all of it."""
    write_models(folder)
    write_glue(folder / "glue")
    write_files(folder)
