"""The command line's flags, each tied to the setting it sets; their help is the setting's own description."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from codir.config.config import DistillConfig, FinetuneConfig
from codir.config.pretraining import PretrainConfig
from codir.config.sections import section_at

# For each parameter of a command, the setting it stands for.
SETTINGS = {
    "model": "model",
    "teacher": "teacher",
    "output": "output",
    "resume": "resume",
    "corpus": "corpus",
    "task": "data.task",
    "data_dir": "data.data_dir",
    "train": "data.train",
    "validation": "data.validation",
    "text": "data.text",
    "text_pair": "data.text_pair",
    "label": "data.label",
    "kind": "data.kind",
    "encoding": "data.encoding",
    "delimiter": "data.delimiter",
    "holdout": "data.holdout",
    "max_length": "data.max_length",
    "limit_train": "data.limit_train",
    "limit_validation": "data.limit_validation",
    "unlabeled": "data.unlabeled",
    "limit_unlabeled": "data.limit_unlabeled",
    "student_layers": "student.layers",
    "student_init": "student.init",
    "student": "student.model",
    "student_config": "student.config",
    "student_origin": "student.origin",
    "student_width": "student.width",
    "student_intermediate": "student.intermediate",
    "student_freeze": "student.freeze",
    "epochs": "training.epochs",
    "steps": "training.steps",
    "micro_batch": "training.micro_batch",
    "batch_size": "training.batch_size",
    "learning_rate": "training.learning_rate",
    "precision": "training.precision",
    "seed": "training.seed",
    "cache": "cache",
    "cache_dir": "cache_dir",
    "baseline": "baseline",
    "kd": "kd",
}


def description(path: str, model: type[BaseModel] = DistillConfig) -> str:
    """Returns the description of the setting at a dotted path, with its default where it has a plain one."""
    *sections, name = path.split(".")
    field = section_at(model, sections).model_fields[name]
    text = field.description or ""
    if isinstance(field.default, bool) or not isinstance(field.default, int | float | str):
        return text
    return f"{text} (default: {field.default})"


def given(parameters: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """Returns the flags that were given, as the loaders of `codir.config.loading` take them."""
    return {
        path: (_flag_name(name, parameters[name]), parameters[name])
        for name, path in SETTINGS.items()
        if parameters.get(name) not in (None, [], ())  # one that may be repeated and was not given is empty
    }


def _flag_name(parameter: str, value: Any) -> str:
    flag = parameter.replace("_", "-")
    return f"--no-{flag}" if value is False else f"--{flag}"


def _option(parameter: str, model: type[BaseModel] = DistillConfig, metavar: str | None = None) -> Any:
    flag = parameter.replace("_", "-")
    names = f"--{flag}/--no-{flag}" if parameter in ("cache", "baseline") else f"--{flag}"
    return typer.Option(
        names,
        help=description(SETTINGS[parameter], model),
        metavar=metavar,
        show_default=False,
        rich_help_panel=_PANELS.get(SETTINGS[parameter].split(".")[0], "Run"),
    )


_PANELS = {"data": "Data", "student": "Student", "training": "Training"}

Model = Annotated[str | None, _option("model", FinetuneConfig, metavar="MODEL")]
Teacher = Annotated[str | None, _option("teacher", metavar="MODEL")]
Output = Annotated[Path | None, _option("output", metavar="FOLDER")]
Resume = Annotated[bool | None, typer.Option("--resume", help=description("resume"), rich_help_panel="Run")]

Task = Annotated[str | None, _option("task", metavar="NAME")]
DataDir = Annotated[Path | None, _option("data_dir", metavar="FOLDER")]
Train = Annotated[str | None, _option("train", metavar="FILE")]
Validation = Annotated[str | None, _option("validation", metavar="FILE")]
TextColumn = Annotated[str | None, _option("text", metavar="COLUMN")]
TextPairColumn = Annotated[str | None, _option("text_pair", metavar="COLUMN")]
LabelColumn = Annotated[str | None, _option("label", metavar="COLUMN")]
KindOfLabels = Annotated[str | None, _option("kind", metavar="KIND")]
Encoding = Annotated[str | None, _option("encoding", metavar="NAME")]
Delimiter = Annotated[str | None, _option("delimiter", metavar="CHARACTER")]
MaxLength = Annotated[int | None, _option("max_length", metavar="TOKENS")]
# Of a model that was trained: its run knows the length.
LengthOfRun = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        help="texts are cut to this many tokens (default: as in training, else 128)",
        metavar="TOKENS",
        show_default=False,
        rich_help_panel="Data",
    ),
]
LimitTrain = Annotated[int | None, _option("limit_train", metavar="N")]
LimitValidation = Annotated[int | None, _option("limit_validation", metavar="N")]
Holdout = Annotated[float | None, _option("holdout", metavar="SHARE")]
Unlabeled = Annotated[list[Path] | None, _option("unlabeled", metavar="FILE")]
LimitUnlabeled = Annotated[int | None, _option("limit_unlabeled", metavar="N")]

StudentLayers = Annotated[int | None, _option("student_layers", metavar="N")]
StudentInit = Annotated[str | None, _option("student_init", metavar="HOW")]
StudentModel = Annotated[str | None, _option("student", metavar="MODEL")]
StudentConfigFile = Annotated[Path | None, _option("student_config", metavar="FILE")]
StudentOrigin = Annotated[str | None, _option("student_origin", metavar="MODEL")]
StudentWidth = Annotated[int | None, _option("student_width", metavar="N")]
StudentIntermediate = Annotated[int | None, _option("student_intermediate", metavar="N")]
StudentFreeze = Annotated[str | None, _option("student_freeze", metavar="PARTS")]

Epochs = Annotated[float | None, _option("epochs", metavar="N")]
BatchSize = Annotated[int | None, _option("batch_size", metavar="N")]
LearningRate = Annotated[float | None, _option("learning_rate", metavar="X")]
PrecisionName = Annotated[str | None, _option("precision", metavar="NAME")]
Seed = Annotated[int | None, _option("seed", metavar="N")]

Cache = Annotated[bool | None, _option("cache")]
CacheDir = Annotated[Path | None, _option("cache_dir", metavar="FOLDER")]
Baseline = Annotated[bool | None, _option("baseline")]
Kd = Annotated[
    bool | None, typer.Option("--kd", help=description("kd"), show_default=False, rich_help_panel="Run")
]

RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe", help=description("recipe"), metavar="NAME", show_default=False, rich_help_panel="Run"
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="YAML file with settings; may name a `recipe`", metavar="FILE", rich_help_panel="Run"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="one setting, may be repeated: --set training.learning_rate=1e-5",
        metavar="KEY=VALUE",
        rich_help_panel="Run",
    ),
]
# Of pre-training: some flags mean another default, or another thing, than in fine-tuning.
CorpusFolder = Annotated[Path | None, _option("corpus", PretrainConfig, metavar="FOLDER")]
PretrainTeacher = Annotated[str | None, _option("teacher", PretrainConfig, metavar="MODEL")]
Steps = Annotated[int | None, _option("steps", PretrainConfig, metavar="N")]
GlobalBatch = Annotated[int | None, _option("batch_size", PretrainConfig, metavar="N")]
MicroBatch = Annotated[int | None, _option("micro_batch", PretrainConfig, metavar="N")]
PretrainLearningRate = Annotated[float | None, _option("learning_rate", PretrainConfig, metavar="X")]
PretrainRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help=description("recipe", PretrainConfig),
        metavar="NAME",
        show_default=False,
        rich_help_panel="Run",
    ),
]
EvaluationBatch = Annotated[int, typer.Option("--batch-size", help="texts run at a time", min=1, metavar="N")]

PlanRecipes = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="recipe to plan, or several with commas between them, one stage each (default: codir-pre)",
        metavar="NAMES",
        show_default=False,
        rich_help_panel="Run",
    ),
]


def _plan_option(flag: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(flag, help=help, metavar=metavar, show_default=False, rich_help_panel="Plan", **more)


PlanBlocks = Annotated[
    int | None, _plan_option("--blocks", "blocks of the corpus, where there is none yet", "N", min=1)
]
PlanBlock = Annotated[
    int | None, _plan_option("--block", "tokens of a block, likewise (default: 512)", "TOKENS", min=4)
]
Gpus = Annotated[int, _plan_option("--gpus", "processes, one for each GPU (default: 1)", "N", min=1)]
DeviceName = Annotated[
    str | None,
    _plan_option(
        "--device", "GPU to estimate for: t4, v100, a10, l4, l40s, a100, h100 or h200 (default: a100)", "NAME"
    ),
]
Efficiency = Annotated[
    float | None, _plan_option("--efficiency", "share of the peak that is reached (default: 0.35)", "X")
]
MeasureSteps = Annotated[
    bool, _plan_option("--measure", "time a few warm-up steps on this machine instead of estimating")
]
PaperSetting = Annotated[
    bool, _plan_option("--paper", "the paper's own setting: RoBERTa-base to 6 blocks, both stages")
]
JsonFile = Annotated[Path | None, _plan_option("--json", "write the numbers to this file as well", "FILE")]
