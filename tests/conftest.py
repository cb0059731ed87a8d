"""Shared fixtures: no network, one thread, and models small enough to build in every test."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import functools
import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

torch.set_num_threads(1)

# A process of `codir` builds its commands once, and so do the tests: half of what a refusal took was this.
typer.main.get_command = functools.cache(typer.main.get_command)  # type: ignore[assignment]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_TEXT = """
the a an one two this that good bad great awful film movie book song was is are were not never very quite
cat dog bird man woman child sees saw likes liked hates and or but of in on with by it he she they i you we
yes no question answer same other long short red blue green old new
"""
WORDS = _TEXT.split()


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_is_collected() -> None:
    """Takes all that is imported so far out of the garbage collector's sight.

    Accelerate collects at the end of every training, which among all of PyTorch takes longer than a tiny training.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Returns a word-level tokenizer in BERT's format; each of `WORDS` is one token, others are [UNK]."""
    words = [*SPECIAL, *WORDS, ".", ",", "!", "?"]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def tiny_classifier(tiny_tokenizer: PreTrainedTokenizerFast) -> Callable[..., BertForSequenceClassification]:
    """Returns a factory of random BERT classifiers, in eval mode.

    `tiny_classifier(labels=("negative", "positive"), layers=4, width=32, seed=0, regression=False, **config)`
    """

    def make(
        labels: tuple[str, ...] | list[str] = ("negative", "positive"),
        layers: int = 4,
        width: int = 32,
        seed: int = 0,
        regression: bool = False,
        **settings: object,
    ) -> BertForSequenceClassification:
        names = ["score"] if regression else list(labels)
        values: dict[str, object] = {
            "vocab_size": len(tiny_tokenizer),
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": 2,
            "intermediate_size": 2 * width,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "problem_type": "regression" if regression else "single_label_classification",
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = BertForSequenceClassification(BertConfig(**{**values, **settings}))  # type: ignore[arg-type]
            # the default initialisation is too small to tell texts apart
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.data.normal_(0.0, 0.2)
        return model.eval()

    return make


@pytest.fixture
def tiny_model_dir(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_classifier: Callable[..., BertForSequenceClassification],
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> Callable[..., Path]:
    """Returns a factory that saves a tiny classifier and its tokenizer; arguments as `tiny_classifier`."""

    def make(**settings: object) -> Path:
        folder = tmp_path_factory.mktemp("model")
        tiny_classifier(**settings).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Returns the folder of the real data beside the checkout; skips the test where there is none."""
    for parent in Path(__file__).resolve().parents:
        if (folder := parent / "shared" / "data").is_dir():
            return folder
    pytest.skip("the shared data folder is not on this machine")


CHROMIUM = ("chromium-headless-shell", "chromium", "google-chrome")
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """Returns the browser that CODIR_CHROMIUM names, else the first of the usual names on the PATH."""
    if named := os.environ.get("CODIR_CHROMIUM"):
        return shutil.which(named)
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Returns a running Chromium; skips the test where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = find_chromium()
    if path is None:
        pytest.skip(
            "no Chromium: set CODIR_CHROMIUM to one, or install chromium-headless-shell, chromium or google-chrome"
        )
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=path, args=list(CHROMIUM_ARGUMENTS))
        yield started
        started.close()
