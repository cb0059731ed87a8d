"""The model card of a pre-trained student."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codir.config.loading import resolved_yaml
from codir.config.pretraining import PretrainConfig
from codir.markdown import code, fence, inline
from codir.runs.card import BIBTEX, citation, contrastive, how_made
from codir.runs.card_metadata import front_matter_text, metadata, result
from codir.runs.lineage import hub_ancestor, started_from
from codir.runs.masked_scores import MaskedTable
from codir.runs.runfolder import RunFolder
from codir.storage import read_json

if TYPE_CHECKING:
    from codir.data.corpus import Corpus


FILL_MASK = "fill-mask"


@dataclass(frozen=True)
class PretrainingInfo:
    """What the card tells.

    Attributes:
        name: of the model, for example the run folder's name.
        table: the models side by side.
        settings: the resolved configuration as plain values.
        config_yaml: the same as text.
        environment: what `codir.runs.environment.environment` returned.
        corpus: name of the corpus.
        corpus_key: its fingerprint.
        blocks: number of its blocks to train on.
        block: most tokens of one.
    """

    name: str
    table: MaskedTable
    settings: Mapping[str, Any]
    config_yaml: str
    environment: Mapping[str, Any]
    corpus: str
    corpus_key: str
    blocks: int
    block: int


def pretraining_card(run: RunFolder, table: MaskedTable, config: PretrainConfig, corpus: Corpus) -> str:
    """Returns the whole card of a run: YAML front matter, then Markdown."""
    return masked_model_card(
        PretrainingInfo(
            name=run.path.name,
            table=table,
            settings={"command": "pretrain", **config.model_dump(mode="json")},
            config_yaml=resolved_yaml(config),
            environment=read_json(run.environment),
            corpus=corpus.name,
            corpus_key=corpus.key,
            blocks=len(corpus.train),
            block=corpus.block,
        )
    )


def pretraining_front_matter(info: PretrainingInfo) -> dict[str, Any]:
    """Returns the Hub's metadata; what is not known (language, licence) is left out."""
    student = next((row for row in info.table.rows if row.name == "student"), None)
    scored = student is not None and info.table.head_trained
    scores = {"perplexity": student.perplexity, "accuracy": student.accuracy} if student and scored else {}
    origin = started_from(info.settings)
    return metadata(
        info.name,
        pipeline_tag=FILL_MASK,
        tags=["knowledge-distillation"] if info.settings.get("teacher") else [],
        base_model=hub_ancestor(origin) if origin else None,
        results=[
            result(name, value, task=FILL_MASK, dataset=info.corpus, split="validation")
            for name, value in scores.items()
            if value is not None and math.isfinite(value)
        ],
    )


def masked_model_card(info: PretrainingInfo) -> str:
    """Returns the whole card: YAML front matter, then Markdown."""
    name, teacher = info.name, info.settings.get("teacher")
    recipe = str(info.settings.get("recipe"))
    taught = f", distilled from `{code(teacher)}`" if teacher else ""
    trained = info.table.head_trained
    use = f"""from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained({name!r})  # this folder
tokenizer = AutoTokenizer.from_pretrained({name!r})"""
    parts = [
        front_matter_text(pretraining_front_matter(info)),
        f"# {inline(name)}",
        f"A small pre-trained encoder{taught}, made with codir (recipe `{code(recipe)}`). It is to be fine-tuned; "
        + (
            "by itself it fills in masked tokens."
            if trained
            else "its head that predicts tokens was not trained."
        ),
        "## Results",
        info.table.to_markdown().rstrip(),
        "## Use",
        fence(use, "python"),
        fence(f"codir finetune --model {shlex.quote(name)} --task TASK --output DIR", "console"),
        "## Data",
        f"- corpus: {inline(info.corpus)}, {info.blocks:,} blocks of up to {info.block} tokens\n"
        f"- fingerprint: {inline(info.corpus_key)}",
        "## How it was made",
        how_made(info.environment, info.config_yaml),
        "## Limits",
        "- The scores are those of one seed, on blocks of the same corpus that were held out.\n"
        "- How well it fine-tunes was not measured here.\n"
        "- It knows the kind of text in its corpus only, and takes over the biases of that and of its teacher.",
        "## Citation",
        citation(recipe, contrastive(info.config_yaml)),
        fence(BIBTEX, "bibtex"),
    ]
    return "\n\n".join(parts) + "\n"
