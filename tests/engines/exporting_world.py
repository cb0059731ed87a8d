"""Random batches, and tiny classifiers of several families, for the tests of exporting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

VOCABULARY, POSITIONS, CLASSES = 60, 66, 3
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
    "num_labels": CLASSES,
    "pad_token_id": 1,
}
_DISTILBERT = {
    "vocab_size": VOCABULARY,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 64,
    "max_position_embeddings": POSITIONS,
    "num_labels": CLASSES,
}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
_TOKENS = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
FAMILIES: dict[str, Callable[[], PretrainedConfig]] = {
    "bert": lambda: BertConfig(**_COMMON),
    "roberta": lambda: RobertaConfig(**_COMMON),
    "distilbert": lambda: DistilBertConfig(**_DISTILBERT),
    "electra": lambda: ElectraConfig(embedding_size=32, **_COMMON),
    "mpnet": lambda: MPNetConfig(**_COMMON),
    "deberta": lambda: DebertaV2Config(type_vocab_size=0, **_DEBERTA, **_COMMON),
    "modernbert": lambda: ModernBertConfig(
        global_attn_every_n_layers=2, local_attention=8, **_TOKENS, **_COMMON
    ),
    "albert": lambda: AlbertConfig(embedding_size=16, **_COMMON),
}


def classifier(family: str) -> PreTrainedModel:
    """Returns a random classifier whose logits differ from text to text."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(FAMILIES[family]()).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.2)
    return model


def batch(size: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Returns random tokens [size, length]; the later a row, the more of it is padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (size, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(size):
        real = max(1, length - row)
        mask[row, real:], ids[row, real:] = 0, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


CALIBRATION = [batch(8, length, seed=length) for length in (5, 17, 33)]
# every size from 1 on, an odd one, the longest: nothing of the traced [3, 9] may have stayed in the graph
SHAPES = ((1, 3), (2, 64), (33, 13), (1, 64), (7, 1), (32, 32))
