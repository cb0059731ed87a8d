"""A student's weights from another model than its teacher: a pre-trained encoder, a masked language model."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from codir.errors import ConfigError
from codir.models.labels import copy_labels
from codir.models.loading import load_config, load_pretrained, resolve
from codir.models.student import fresh_model


def load_origin(path_or_hub_id: str | Path, teacher: PreTrainedModel, *, seed: int = 0) -> PreTrainedModel:
    """Loads a model of the teacher's family as a classifier that a student can be cut out of, as out of the teacher.

    Embeddings, layers and the pooler are the model's. What stands outside of the encoder (the classifier) is the
    teacher's where the two are equally wide, and new otherwise, also where the model had been trained for other
    classes; so is a pooler that the model lacks (masked language models have none).

    Args:
        path_or_hub_id: a model folder or a Hub id; whatever head it has is not used.
        teacher: gives the family, the classes and the classifier.
        seed: of what is new; torch's global generator is left as it was.

    Returns:
        The classifier, fp32, in eval mode; it shares nothing with the teacher.

    Raises:
        ConfigError: the model is of another family than the teacher.
        ModelError: as `load_classifier`.
    """
    source = resolve(path_or_hub_id)
    config = load_config(source)
    family, wanted = config.model_type, teacher.config.model_type
    if family != wanted:
        raise ConfigError(
            f"student.origin: {path_or_hub_id} is a {family} model and the teacher a {wanted} model, so the teacher's "
            f"classifier does not belong to it. Take a {wanted} model, or use {path_or_hub_id} as it is with "
            "student.model (--student)."
        )
    copy_labels(config, teacher.config)
    with torch.random.fork_rng(devices=[]):  # what is missing is drawn, and replaced below
        model, absent = load_pretrained(AutoModelForSequenceClassification, source, config)
    inside = f"{model.base_model_prefix}."
    fresh = fresh_model(type(model), copy.deepcopy(model.config), seed).state_dict()
    of_teacher = teacher.state_dict()
    replaced = [name for name in fresh if name in absent or not name.startswith(inside)]
    # all of it or nothing: a bias that happens to fit belongs to weights that do not
    fits = all(name in of_teacher and of_teacher[name].shape == fresh[name].shape for name in replaced)
    model.load_state_dict({name: (of_teacher if fits else fresh)[name] for name in replaced}, strict=False)
    return model
