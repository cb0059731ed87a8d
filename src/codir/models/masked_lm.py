"""Masked language models: loading them, cutting students out of them, and what they need of a tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from codir.errors import ModelError
from codir.models.config_file import require_memory
from codir.models.loading import load_config, load_pretrained, resolve
from codir.models.representations import represent


def load_masked_lm(path_or_hub_id: str | Path, *, require_head: bool = True, seed: int = 0) -> PreTrainedModel:
    """Loads a masked language model in fp32.

    Args:
        path_or_hub_id: a model folder (a run folder is one) or a Hub id.
        require_head: the weights of the head that predicts tokens must be there. Otherwise a missing one is made
            anew (the output embedding is tied to the input embedding where the family ties them).
        seed: of a new head; torch's global generator is left as it was.

    Returns:
        The model in eval mode.

    Raises:
        ModelError: as `load_classifier`; or there is no head and one is required; or the family's head is not of the
            kind that can be computed at chosen positions only.
    """
    model, absent = load_encoder(path_or_hub_id, seed=seed)
    if require_head and absent:
        raise ModelError(
            f"{resolve(path_or_hub_id)} has no head that predicts masked tokens ({', '.join(absent[:3])}"
            f"{', ...' if len(absent) > 3 else ''} missing). `codir pretrain --recipe mlm-head "
            f"--student {path_or_hub_id} --corpus CORPUS --output DIR` trains one."
        )
    return model


def load_encoder(path_or_hub_id: str | Path, *, seed: int = 0) -> tuple[PreTrainedModel, list[str]]:
    """Loads an encoder as a masked language model, fp32, in eval mode, with a new head if it has none.

    Args:
        path_or_hub_id: as `load_masked_lm`, and so are the others.
        seed: of a new head.

    Returns:
        The model, and the names of the head's weights that were missing and are new.

    Raises:
        ModelError: as `load_masked_lm`, but for the missing head.
    """
    source = resolve(path_or_hub_id)
    config = load_config(source)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, absent = load_pretrained(AutoModelForMaskedLM, source, config)
    require_plain_head(model, str(source))
    return model, absent


def masked_lm_from_config(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Makes a masked language model of random weights, fp32, in eval mode; the global generator stays as it was.

    Raises:
        ModelError: the config's family has no masked language model.
    """
    require_memory(config, "The student's config")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = AutoModelForMaskedLM.from_config(config, dtype=torch.float32)
        except Exception as error:
            raise ModelError(
                f"No masked language model can be made from this config ({config.model_type}): {error}"
            ) from error
    require_plain_head(model, f"a {config.model_type} model")
    return model.eval()


@torch.no_grad()
def require_plain_head(model: PreTrainedModel, name: str) -> None:
    """Raises `ModelError` unless the head at chosen positions gives what the whole model gives there.

    Computes eight tokens both ways. A head that does more after its linear map (scales the logits, say), or that
    looks at neighbouring positions, would otherwise be trained as what it is not.
    """
    if model.get_output_embeddings() is None:
        raise ModelError(f"{name} ({type(model).__name__}) does not say which layer gives its predictions.")
    ids = torch.arange(8, device=model.device).unsqueeze(0) % model.config.vocab_size
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    positions = torch.zeros_like(ids, dtype=torch.bool)
    positions[0, [1, 4, 6]] = True
    training = model.training
    model.eval()
    try:
        whole = model(**inputs).logits[positions]
        masked = represent(model, inputs, (), positions).masked
    finally:
        model.train(training)
    assert masked is not None
    ours = torch.nn.functional.linear(masked.hidden, masked.weight, masked.bias)
    if ours.shape != whole.shape or not torch.allclose(ours, whole, rtol=1e-3, atol=1e-4):
        raise ModelError(
            f"The predictions of {name} ({type(model).__name__}) are not one linear map of its last hidden states, so "
            "they cannot be computed at masked positions only. Use a model of another family."
        )
