"""Loading a model and its tokenizer through codir's checks, against transformers' own loading of the same folder.

    python benchmarks/bench_model_check.py              # RoBERTa-base's shapes: 500 MB of disk, half a minute
    python benchmarks/bench_model_check.py --quick      # a tiny model: does it run?

A model of random weights (12 blocks, 768 wide, 50,265 tokens) is loaded in turns, in one process: by transformers
alone, and by codir, which checks config.json, the headers of the weights, and model and tokenizer together. Medians of
processor time are compared; beside them stands the time on the clock. The target is 1.05.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.utils import logging

from codir.models.check import load_tokenizer_for
from codir.models.loading import load_classifier

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def save(folder: Path, quick: bool) -> None:
    """Saves the model and a byte-level tokenizer of as many tokens."""
    sizes = {"num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 96} if quick else {}
    rows = 500 if quick else 50_265
    config = RobertaConfig(vocab_size=rows, max_position_embeddings=514, type_vocab_size=1, **sizes)
    RobertaForSequenceClassification(config).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(one, other) for one in letters for other in letters]
    merges = pairs[: rows - len(SPECIAL) - len(letters)]
    words = [*SPECIAL, *letters, *(one + other for one, other in merges)]
    core = Tokenizer(
        models.BPE({word: number for number, word in enumerate(words)}, merges, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.ByteLevel()  # type: ignore[assignment]
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))  # type: ignore[assignment]
    names = dict(
        zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True)
    )
    PreTrainedTokenizerFast(
        tokenizer_object=core, cls_token="<s>", sep_token="</s>", **names
    ).save_pretrained(folder)


def plain(folder: Path) -> Any:
    """Loads as a program would that uses transformers alone."""
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def checked(folder: Path) -> Any:
    """Loads as codir does."""
    model = load_classifier(folder)
    return model, load_tokenizer_for(model, folder)


def main() -> None:
    """Prints the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    parser.add_argument("--rounds", type=int, default=15, help="loads of each kind")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    ways: dict[str, Callable[[Path], Any]] = {"transformers alone": plain, "through codir's checks": checked}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="codir-bench-") as temporary:
        folder = Path(temporary)
        save(folder, arguments.quick)
        for number in range(3 if arguments.quick else arguments.rounds + 1):
            for name, load in ways.items():
                gc.collect()
                begin = time.process_time(), time.perf_counter()
                kept = load(folder)
                if number:  # the first of each is for imports and the disk
                    spent[name].append((time.process_time() - begin[0], time.perf_counter() - begin[1]))
                del kept
    medians = []
    for name, times in spent.items():
        processor, clock = (1000 * statistics.median(each) for each in zip(*times, strict=True))
        medians.append(processor)
        print(f"  {name:<24}{processor:9.1f} ms   (clock {clock:9.1f} ms)")
    print(f"  ratio {medians[1] / medians[0]:.3f}")


if __name__ == "__main__":
    main()
