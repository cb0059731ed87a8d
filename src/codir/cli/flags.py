"""The flags of commands that set a configuration: one for each of its fields, which say type and help themselves."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from codir.config.yaml_text import read_value
from codir.errors import ConfigError, nearest
from codir.settings import Section

Given = Mapping[str, tuple[str, Any]]
"""The flags that were given, as `codir.config.loading` takes them: by the dotted key, the flag and its value."""

PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of a command that trains: other flags are arguments of transformers' TrainingArguments."""
SectionT = TypeVar("SectionT", bound=Section)
_PANELS = {"data": "Data", "student": "Student", "training": "Training"}
_MORE = "Training in detail"
# What most runs set, of the many settings of a training; the others have a panel of their own.
_USUAL = frozenset(
    {"num_train_epochs", "max_steps", "per_device_train_batch_size", "global_batch_size", "learning_rate"}
    | {"precision", "seed"}
)
# Short names beside those of TrainingArguments.
_SHORT = {
    "num_train_epochs": "--epochs",
    "max_steps": "--steps",
    "per_device_train_batch_size": "--batch-size",
    "global_batch_size": "--batch-size",
    "learning_rate": "--lr",
}
_MICRO = "--micro-batch"  # where the batch of all processes is a setting of its own
_LONG = {"output": "--output-dir"}
_METAVARS = {
    **dict.fromkeys(("train", "validation", "unlabeled", "student.config"), "FILE"),
    **dict.fromkeys(("text", "text_pair", "label"), "COLUMN"),
    **dict.fromkeys(("teacher", "model", "student.model", "student.origin"), "MODEL"),
    **dict.fromkeys(("output", "data_dir", "cache_dir", "corpus"), "FOLDER"),
    **{"max_length": "TOKENS", "holdout": "SHARE", "kind": "KIND", "delimiter": "CHARACTER"},
    **{"student.init": "HOW", "student.freeze": "PARTS"},
}


def option(*names: str, help: str, metavar: str | None = None, panel: str | None = None) -> Any:
    """Returns what typer takes for a flag, whose default stands in its help if it needs one."""
    return typer.Option(*names, help=help, metavar=metavar, show_default=False, rich_help_panel=panel)


# Flags that several commands share and that are no settings of a configuration.
RecipeName = Annotated[
    str | None,
    option("--recipe", help="recipe to start from (`codir recipes` lists them)", metavar="NAME", panel="Run"),
]
ConfigFile = Annotated[
    Path | None,
    option("--config", help="YAML file with settings; may name a `recipe`", metavar="FILE", panel="Run"),
]
Overrides = Annotated[
    list[str] | None,
    option(
        "--set",
        help="one setting, may be repeated: --set objectives.crd.k=100",
        metavar="KEY=VALUE",
        panel="Run",
    ),
]
EvaluationBatch = Annotated[int, typer.Option("--batch-size", help="texts run at a time", min=1, metavar="N")]
# Of a model that was trained: its run knows the length.
LENGTH_OF_RUN = {"max_length": "texts are cut to this many tokens (default: as in training, else 128)"}


class _Flag(NamedTuple):
    parameter: str  # of the command
    path: str  # the dotted key of the setting
    name: str  # the flag itself, the short one where there is one
    annotation: Any  # the parameter's type for typer, with help


def with_settings(
    model: type[BaseModel],
    only: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    help: Mapping[str, str] | None = None,
    panel: str = "Run",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command a flag for each setting of a configuration, and the command those that were given, as `given`.

    Args:
        model: the configuration, or a section of it.
        only: the keys that get a flag; all by default.
        without: keys that get none.
        help: the help of a key where it is not the setting's own description.
        panel: the panel of the help in which settings outside of a section stand.
    """
    flags = [
        flag
        for flag in _flags(model, "", help or {}, panel)
        if (not only or flag.path in only) and flag.path not in without
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
        taken = {parameter.name for parameter in own}
        mine = [flag for flag in flags if flag.parameter not in taken]

        @functools.wraps(command)
        def wrapped(**parameters: Any) -> None:
            context: typer.Context = parameters.pop("context")
            values = {flag: parameters.pop(flag.parameter, None) for flag in mine}
            given = {
                flag.path: (f"--no-{flag.name[2:]}" if value is False else flag.name, value)
                for flag, value in values.items()
                if value not in (None, [], ())  # one that may be repeated and was not given is empty
            }
            command(**parameters, given={**given, **_more(context.args, [flag.name for flag in flags])})

        kind = inspect.Parameter.KEYWORD_ONLY
        made = [inspect.Parameter(f.parameter, kind, default=None, annotation=f.annotation) for f in mine]
        made.append(inspect.Parameter("context", kind, annotation=typer.Context))
        parameters = [*(parameter.replace(kind=kind) for parameter in own), *made]
        wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapped

    return decorate


def _more(words: list[str], own: Iterable[str]) -> dict[str, tuple[str, Any]]:
    """Reads what is left of a command line: flags that a training passes on to TrainingArguments."""
    found: dict[str, tuple[str, Any]] = {}
    left = list(words)
    while left:
        from codir.config.trainer_arguments import known_arguments  # imports transformers

        flag, equals, value = left.pop(0).partition("=")
        name = flag[2:].replace("-", "_")
        if not flag.startswith("--") or name not in known_arguments():
            what = "No such option" if flag.startswith("-") else "Nothing is known to do with"
            raise ConfigError(f"{what}: {flag}{nearest(flag, own)}.")
        if not equals:
            if not left or left[0].startswith("--"):
                raise ConfigError(f"{flag} needs a value.")
            value = left.pop(0)
        found[f"training.{name}"] = (flag, read_value(value))
    return found


def section(model: type[SectionT], given: Given) -> SectionT:
    """Builds a section of settings out of the flags that were given; raises `ConfigError` for a wrong one."""
    from codir.config.loading import Settings, build

    settings = Settings()
    settings.set_given((), given)
    return build(model, settings)


def _description(field: FieldInfo) -> str:
    text = field.description or ""
    if isinstance(field.default, bool) or not isinstance(field.default, int | float | str):
        return text
    return f"{text} (default: {field.default})"


def _flags(model: type[BaseModel], within: str, help: Mapping[str, str], panel: str) -> Iterator[_Flag]:
    for name, field in model.model_fields.items():
        path = f"{within}.{name}" if within else name
        annotation = _without_none(field.annotation)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _flags(annotation, path, help, panel)
        elif (kind := _kind(annotation)) is not None:
            whole = "global_batch_size" in model.model_fields
            yield _flag(path, field, kind, help.get(path), panel, whole)


def _flag(path: str, field: FieldInfo, kind: Any, help: str | None, panel: str, whole: bool) -> _Flag:
    section, _, name = path.rpartition(".")
    plain = section in ("", "data", "training")  # others say whose setting it is
    parameter = name if plain else section if name == "model" else f"{section}_{name}"
    flag = f"--{parameter.replace('_', '-')}"
    panel = _PANELS.get(section, panel)
    if section == "training" and name not in _USUAL:
        panel = _MORE
    names = [f"{flag}/--no-{flag[2:]}" if kind is bool and field.default is True else flag]
    if section == "training" and name in _SHORT:
        short = _MICRO if whole and name == "per_device_train_batch_size" else _SHORT[name]
        names.insert(0, short)
    if path in _LONG:
        names.append(_LONG[path])
    usual = {int: "N", float: "X", str: "NAME", Path: "PATH"}.get(kind)
    metavar = _METAVARS.get(name if plain else path, usual)
    said = option(*names, help=help or _description(field), metavar=metavar, panel=panel)
    return _Flag(parameter, path, names[0].partition("/")[0], Annotated[kind | None, said])


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return parts[0] if len(parts) == 1 else Union[tuple(parts)]  # noqa: UP007 - made at run time
    return annotation


def _kind(annotation: Any) -> Any:
    """Returns the type of a flag for a setting; None for mappings, which a flag cannot hold."""
    if annotation in (bool, int, float, Path, list[Path]):
        return annotation
    if get_origin(annotation) is dict:
        return None
    if get_origin(annotation) in (Union, UnionType) and Path in get_args(annotation):
        return Path
    return str  # also lists and choices, which the configuration reads out of a text
