"""A reader's world in small: models named as in the pages, GLUE, files of texts, all made up."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import datasets
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForMaskedLM, BertConfig, PreTrainedTokenizerFast, RobertaConfig

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
# GLUE's own files: columns of train and dev; those of the texts are in the test files beside `index`.
_TSV: dict[str, tuple[str, tuple[str, ...]]] = {
    "CoLA": ("source label mark sentence", ("sentence",)),
    "SST-2": ("sentence label", ("sentence",)),
    "MRPC": ("Quality #1_ID #2_ID #1_String #2_String", ("#1_String", "#2_String")),
    "STS-B": ("index sentence1 sentence2 score", ("sentence1", "sentence2")),
    "QQP": ("id question1 question2 is_duplicate", ("question1", "question2")),
    "MNLI": ("index sentence1 sentence2 gold_label", ("sentence1", "sentence2")),
    "QNLI": ("index question sentence label", ("question", "sentence")),
    "RTE": ("index sentence1 sentence2 label", ("sentence1", "sentence2")),
    "WNLI": ("index sentence1 sentence2 label", ("sentence1", "sentence2")),
}
_LABELS = ("label", "Quality", "score", "is_duplicate", "gold_label")


def sentence(draw: random.Random, good: bool | None = None) -> str:
    """Returns some words; `good` puts a word of judgement among them, so that there is something to learn."""
    words = draw.choices(WORDS, k=draw.randint(3, 10))
    if good is not None:
        words.insert(draw.randrange(len(words)), "great" if good else "awful")
    return " ".join(words)


def write_models(folder: Path) -> None:
    """Writes a model of 12 layers under each name that the pages use; a folder here wins over the Hub."""
    for name in MODELS:
        roberta = name.startswith("roberta")
        special = "<s> <pad> </s> <unk> <mask>" if roberta else "[CLS] [PAD] [SEP] [UNK] [MASK]"
        start, pad, end, unknown, mask = special.split()
        vocabulary = {word: number for number, word in enumerate([*special.split(), *WORDS, ".", ",", "?"])}
        core = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
        core.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
        core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single=f"{start} $A {end}",
            pair=f"{start} $A {end} $B {end}",
            special_tokens=[(start, 0), (end, 2)],
        )
        shape: dict[str, Any] = {
            "hidden_size": 48,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "pad_token_id": 1,
            "num_hidden_layers": 12,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 130,
        }
        config = RobertaConfig(**shape, type_vocab_size=1) if roberta else BertConfig(**shape)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoModelForMaskedLM.from_config(config).save_pretrained(folder / name)
        named = {
            "cls_token": start,
            "pad_token": pad,
            "sep_token": end,
            "unk_token": unknown,
            "mask_token": mask,
        }
        PreTrainedTokenizerFast(
            tokenizer_object=core,
            bos_token=start,
            eos_token=end,
            model_max_length=128,
            model_input_names=["input_ids", "attention_mask"],
            **named,
        ).save_pretrained(folder / name)


def write_glue(folder: Path) -> None:
    """Writes all of GLUE in its own format."""
    draw = random.Random(1)
    for name, (columns, texts) in _TSV.items():
        labels = GLUE[name.lower().replace("-", "")].task.labels
        spelled = name in ("MNLI", "QNLI", "RTE")

        def cell(
            column: str,
            row: int,
            texts: tuple[str, ...] = texts,
            labels: Any = labels,
            spelled: bool = spelled,
        ) -> str:
            if column in texts:
                return sentence(draw, good=row % 2 == 0)
            if column not in _LABELS:
                return str(row)
            if labels is None:
                return f"{draw.uniform(0, 5):.2f}"
            return labels[row % len(labels)] if spelled else str(row % len(labels))

        (folder / name).mkdir(parents=True)
        ends = ("_matched", "_mismatched") if name == "MNLI" else ("",)
        test = "index #1_ID #2_ID #1_String #2_String" if name == "MRPC" else f"index {' '.join(texts)}"
        splits = [("train", MRPC_TRAIN if name == "MRPC" else TRAIN, columns)]
        splits += [
            (f"{split}{end}", count, head)
            for end in ends
            for split, count, head in (("dev", DEV, columns), ("test", TEST, test))
        ]
        for split, count, head in splits:
            heads = [each.replace("_", " ") if name == "MRPC" else each for each in head.split()]
            lines = [] if name == "CoLA" and not split.startswith("test") else ["\t".join(heads)]
            lines += ["\t".join(cell(column, row) for column in head.split()) for row in range(count)]
            (folder / name / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def hub(path: str, name: str | None = None, *, split: str) -> datasets.Dataset:
    """Stands in for `datasets.load_dataset`: GLUE with the Hub's columns."""
    assert path == "nyu-mll/glue", f"the pages fetch {path} from the Hub"
    assert name is not None
    task, draw = GLUE[name].task, random.Random(2)
    count = TRAIN if split == "train" else DEV
    columns: dict[str, list[Any]] = {
        text: [sentence(draw, good=row % 2 == 0) for row in range(count)] for text in task.text
    }
    features: dict[str, Any] = {text: datasets.Value("string") for text in task.text}
    columns["label"] = [draw.uniform(0, 5) if task.labels is None else row % len(task.labels) for row in range(count)]
    features["label"] = (
        datasets.Value("float32") if task.labels is None else datasets.ClassLabel(names=list(task.labels))
    )
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
        table = datasets.Dataset.from_list(rows)
        table.to_csv(folder / f"{name}.csv", index=False)
        table.to_csv(folder / f"{name}.tsv", index=False, sep="\t")
        table.to_json(folder / f"{name}.jsonl")
        table.to_parquet(folder / f"{name}.parquet")
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
