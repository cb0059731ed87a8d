"""The model card of a pre-trained student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from codir.recipes.loading import resolved_yaml
from codir.recipes.pretraining import PretrainConfig
from codir.storage import read_json
from codir.workflows.card import BIBTEX, code, fence, how_made, inline, looks_like_hub_id
from codir.workflows.masked_scores import MaskedTable
from codir.workflows.runfolder import RunFolder

if TYPE_CHECKING:
    from codir.corpora.corpus import Corpus


def pretraining_card(run: RunFolder, table: MaskedTable, config: PretrainConfig, corpus: Corpus) -> str:
    """Returns the whole card: YAML front matter, then Markdown."""
    name = run.path.name
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "tags": ["codir", *(["knowledge-distillation"] if config.teacher else [])],
    }
    if config.teacher and looks_like_hub_id(config.teacher):
        front["base_model"] = config.teacher
    taught = f", distilled from `{code(config.teacher)}`" if config.teacher else ""
    use = f"""from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained({name!r})  # this folder
tokenizer = AutoTokenizer.from_pretrained({name!r})"""
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {inline(name)}",
        f"A small pre-trained encoder{taught}, made with codir (recipe `{code(config.recipe)}`). It is to be "
        "fine-tuned; by itself it fills in masked tokens.",
        "## Results",
        table.to_markdown().rstrip(),
        "## Use",
        fence(use, "python"),
        fence(f"codir finetune --model {name} --task TASK --output DIR", "console"),
        "## Data",
        f"- corpus: {inline(corpus.name)}, {len(corpus.train):,} blocks of up to {corpus.block} tokens\n"
        f"- fingerprint: {corpus.key}",
        "## How it was made",
        how_made(read_json(run.environment), resolved_yaml(config)),
        "## Limits",
        "- The scores are those of one seed, on blocks of the same corpus that were held out.\n"
        "- How well it fine-tunes was not measured here.\n"
        "- It knows the kind of text in its corpus only, and takes over the biases of that and of its teacher.",
        "## Citation",
        "The method is that of the paper:",
        fence(BIBTEX, "bibtex"),
    ]
    return "\n\n".join(parts) + "\n"
