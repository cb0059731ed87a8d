"""The model card, `README.md` of a run folder: front matter for the Hub, the table, how it was made, its limits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from codir import markdown
from codir.config.library import load_recipe
from codir.data.glue import HUB, glue_task
from codir.data.task import Task
from codir.errors import CodirError
from codir.markdown import code, fence, inline
from codir.runs.card_metadata import front_matter_text, metadata, result
from codir.runs.comparison import Comparison
from codir.runs.lineage import hub_ancestor

TEXT_CLASSIFICATION = "text-classification"
UNLABELLED = "unlabelled texts, which the teacher labelled"
NEEDS_CODIR = "import codir.models.bilstm  # the model's code\n"

BIBTEX = """@inproceedings{sun2020codir,
  title = {Contrastive Distillation on Intermediate Representations for Language Model Compression},
  author = {Sun, Siqi and Gan, Zhe and Cheng, Yu and Fang, Yuwei and Wang, Shuohang and Liu, Jingjing},
  booktitle = {Proceedings of the 2020 Conference on Empirical Methods in Natural Language Processing},
  year = {2020}
}"""


@dataclass
class CardInfo:
    """What the card tells.

    Attributes:
        name: of the model, for example the run folder's name.
        task: what it was trained for.
        source: where the data came from.
        metrics: of this model by name, those of further splits as `SPLIT/METRIC`.
        config_yaml: the resolved configuration.
        environment: what `codir.runs.environment.environment` returned.
        examples: numbers of examples by split.
        recipe: name of the recipe; None for plain fine-tuning.
        base_model: the teacher, or the encoder that was fine-tuned, as the user named it.
        started_from: the model whose weights it started from, as the user named it; "" for random weights, None if
            that is `base_model`.
        comparison: the table; None for plain fine-tuning.
        dataset_id: id of the data set on the Hub; None if it is not from there.
        max_length: tokens after which texts were cut.
        notes: sentences on the data or the run.
        needs_codir: the model's code is codir's own, transformers alone does not know it.
    """

    name: str
    task: Task
    source: str
    metrics: Mapping[str, float]
    config_yaml: str
    environment: Mapping[str, Any]
    examples: Mapping[str, int] = field(default_factory=dict)
    recipe: str | None = None
    base_model: str | None = None
    started_from: str | None = None
    comparison: Comparison | None = None
    dataset_id: str | None = None
    max_length: int | None = None
    notes: Sequence[str] = ()
    needs_codir: bool = False


def model_card(info: CardInfo) -> str:
    """Returns the whole card: YAML front matter, then Markdown."""
    parts = [
        front_matter_text(front_matter(info)),
        f"# {inline(info.name)}",
        _summary(info),
        "## Results",
        _results(info),
        "## Use",
        _use(info),
        "## Data",
        _data(info),
        "## How it was made",
        how_made(info.environment, info.config_yaml),
        "## Limits",
        _limits(info),
        "## Citation",
        citation(info.recipe, contrastive(info.config_yaml)),
        fence(BIBTEX, "bibtex"),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(info: CardInfo) -> dict[str, Any]:
    """Returns the Hub's metadata; what is not known (language, licence) is left out."""
    glue = info.dataset_id is None and glue_task(info.task.name) == info.task
    dataset_id = HUB if glue else info.dataset_id
    main_split = next(
        (split for split in info.examples if split not in ("train", "training", UNLABELLED)), "validation"
    )
    results = []
    for name, value in info.metrics.items():
        split, _, metric = name.rpartition("/")
        if math.isfinite(value):
            results.append(
                result(
                    metric,
                    value,
                    task=TEXT_CLASSIFICATION,
                    dataset=f"GLUE {info.task.name.upper()}" if glue else info.task.name,
                    dataset_id=dataset_id,
                    config=info.task.name if glue else None,
                    split=split or main_split,
                )
            )
    origin = info.base_model if info.started_from is None else info.started_from
    return metadata(
        info.name,
        pipeline_tag=TEXT_CLASSIFICATION,
        tags=["knowledge-distillation"] if info.recipe else [],
        base_model=hub_ancestor(origin) if origin else None,
        datasets=[dataset_id] if dataset_id else [],
        results=results,
    )


def _summary(info: CardInfo) -> str:
    origin = f" from `{code(info.base_model)}`" if info.base_model else ""
    if info.recipe is None:
        return f"A text classifier for {inline(info.task.name)}, fine-tuned{origin} with codir."
    method = (
        "contrastive distillation on intermediate representations, " if contrastive(info.config_yaml) else ""
    )
    return (
        f"A small text classifier for {inline(info.task.name)}, distilled{origin} with codir "
        f"({method}recipe `{code(info.recipe)}`).{_of_the_student(info.config_yaml)}"
    )


def _of_the_student(config_yaml: str) -> str:
    """Says what is not usual about the student: weights of another model, a narrower shape, frozen parts."""
    try:
        student = (yaml.safe_load(config_yaml) or {}).get("student")
    except (yaml.YAMLError, AttributeError):
        return ""
    if not isinstance(student, Mapping):
        return ""
    text = ""
    if origin := student.get("origin"):
        text += f" Its embeddings and blocks started from `{code(str(origin))}`, not from the teacher."
    sizes = [("width", "dimensions"), ("intermediate", "feed-forward neurons")]
    if cut := [f"{student[name]} {what}" for name, what in sizes if student.get(name)]:
        text += f" It is narrower than the model it was cut out of ({' and '.join(cut)})."
    frozen = student.get("freeze")
    if isinstance(frozen, list) and frozen:
        parts = ", ".join(f"block {part}" if isinstance(part, int) else inline(str(part)) for part in frozen)
        text += f" Never trained: {parts}."
    return text


def contrastive(config_yaml: str) -> bool:
    """Whether a configuration has the paper's contrastive term, in either form."""
    try:
        objectives = (yaml.safe_load(config_yaml) or {}).get("objectives") or {}
    except (yaml.YAMLError, AttributeError):
        return False
    terms = objectives if isinstance(objectives, Mapping) else {}
    return any(terms.get(name) is not None for name in ("crd", "crd_official"))


def citation(recipe: str | None, is_contrastive: bool) -> str:
    """Returns the sentence before the paper's entry: whose method it is."""
    if is_contrastive:
        return "The method is that of the paper:"
    if recipe is None:
        return "codir implements the method of the paper:"
    try:
        source = f" That of the recipe `{code(recipe)}`: {inline(load_recipe(recipe).source)}."
    except CodirError:  # a recipe of the user's own
        source = ""
    return f"codir implements the method of the paper below; this model was made with another one.{source}"


def _results(info: CardInfo) -> str:
    parts = []
    if info.comparison is not None:
        parts += [info.comparison.to_markdown().rstrip(), *info.comparison.plain_words()]
        parts.append(
            f"{inline(info.comparison.main_metric)}: on the validation data; kept: share of the teacher's score; "
            "agrees: share of examples predicted as by the teacher (regression: Pearson correlation with its "
            "scores); embed.: parameters of the embeddings, part of params; ms/seq and speed-up: forward pass, all "
            f"models in turns on one machine{_timing_words(info.comparison)}."
        )
    rows = [(name, _value(value)) for name, value in info.metrics.items()]
    parts.append(markdown.table(["metric of this model", "value"], rows).rstrip())
    return "\n\n".join(parts)


def _timing_words(comparison: Comparison) -> str:
    timing = next((row.timing for row in comparison.rows if row.timing is not None), None)
    if timing is None:
        return ""
    threads = f", {timing.threads} threads" if timing.device == "cpu" else ""
    return (
        f" ({timing.device}{threads}, {timing.dtype}, batches of {timing.batch_size}, at most {timing.max_length} "
        f"tokens, {timing.sequences} sequences, median of {len(timing.rounds)} rounds)"
    )


def _use(info: CardInfo) -> str:
    pair = ", second_text" if info.task.pairs else ""
    last = (
        "print(logits.item())"
        if info.task.kind == "regression"
        else "print(model.config.id2label[logits.argmax(-1).item()])"
    )
    limit = f", max_length={info.max_length}" if info.max_length else ""
    return fence(
        (NEEDS_CODIR if info.needs_codir else "")
        + f"""from transformers import AutoModelForSequenceClassification, AutoTokenizer

path = {info.name!r}  # this folder
model = AutoModelForSequenceClassification.from_pretrained(path)
tokenizer = AutoTokenizer.from_pretrained(path)
inputs = tokenizer(text{pair}, truncation=True{limit}, return_tensors="pt")
logits = model(**inputs).logits
{last}""",
        "python",
    )


def _data(info: CardInfo) -> str:
    lines = [f"- task: {inline(info.task.name)} ({info.task.kind})", f"- source: {_source(info)}"]
    if info.task.labels:
        lines.append("- classes: " + ", ".join(inline(label) for label in info.task.labels))
    lines += [f"- {inline(split)}: {count:,} examples" for split, count in info.examples.items()]
    if info.max_length:
        lines.append(f"- texts are cut after {info.max_length} tokens")
    lines += [f"- {inline(note)}" for note in info.notes]
    return "\n".join(lines)


def _source(info: CardInfo) -> str:
    glue = f"{HUB}/{info.task.name}"
    if glue_task(info.task.name) == info.task and info.source != glue:
        return f"GLUE ({glue} on the Hub), read from {inline(info.source)}"
    return inline(info.source)


def how_made(environment: Mapping[str, Any], config_yaml: str) -> str:
    """Returns the command, the configuration, versions and machine of a run."""
    versions = environment.get("versions") or {}
    machine = environment.get("machine") or {}
    git = environment.get("git") or {}
    lines = [f"- {name} {version}" for name, version in versions.items() if version]
    if machine:
        gpus = ", ".join(machine.get("gpus") or []) or "no GPU"
        cpu = inline(str(machine.get("cpu")))
        lines.append(f"- machine: {cpu}, {machine.get('cores')} cores, {inline(gpus)}")
    if git:
        lines.append(f"- git: {git.get('commit')}{' with local changes' if git.get('dirty') else ''}")
    for key in ("seed", "precision", "time"):
        if environment.get(key) is not None:
            lines.append(f"- {key}: {environment[key]}")
    parts = []
    if environment.get("command"):
        # `python -m codir` calls itself by its file
        command = re.sub(r"^__main__\.py\b", "codir", str(environment["command"]))
        parts.append(fence(command, "console"))
    parts += ["The resolved configuration (`codir.yaml`):", fence(config_yaml.rstrip(), "yaml")]
    parts.append("\n".join(lines))
    return "\n\n".join(part for part in parts if part)


def _limits(info: CardInfo) -> str:
    lines = [
        "- The scores are on the validation data, which may also have chosen the checkpoint: expect a little less "
        "on new data.",
        f"- They are those of {_seeds(info)}; differences of the size that other seeds make mean nothing.",
        "- It only knows the kind of text it was trained on. Nothing was measured on other domains or languages, nor "
        "on fairness.",
    ]
    if info.recipe is not None:
        lines.append("- A student takes over its teacher's mistakes and biases.")
    if info.comparison is not None:
        lines.append("- The speed-up holds for the machine and the lengths named above.")
    return "\n".join(lines)


def _seeds(info: CardInfo) -> str:
    seeds = info.comparison.seeds if info.comparison is not None else 1
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _value(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
