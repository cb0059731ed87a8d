"""Which student: the section `student` of a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from codir.settings import Section

InitName = Literal["spread", "ends", "first", "last", "random"]


# What a recipe may say of its student without making it another kind: where its weights come from, what is trained.
START = ("init", "origin", "freeze")


def takes_start(student: Mapping[str, Any]) -> bool:
    """Whether a recipe's `START` is meant for this student: cut out of the teacher at full width, not random.

    Layers to choose from are there for no other; and embeddings that are new or cut have to be trained.
    """
    named = any(student.get(key) is not None for key in ("model", "config", "width"))
    return not named and student.get("init") != "random"


def start_of(start: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what counts of a recipe's `START` for a student of which so much is said: what that leaves open."""
    return {key: value for key, value in start.items() if key not in said} if takes_start(said) else {}


class StudentConfig(Section):
    """The student: layers taken from the teacher (layers, init), or any model, or any configuration."""

    layers: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="number of layers of the student (default: half of the teacher's)",
    )
    init: InitName | list[int] = Field(
        default="spread",
        description="where its weights come from: teacher layers `spread` evenly, spread from the first to the "
        "last (`ends`), the `first`, the `last`, "
        "a list of layer numbers counted from 1, or `random` weights",
    )
    model: str | None = Field(default=None, description="take this model (folder or Hub id) as the student instead")
    config: Path | dict[str, Any] | None = Field(
        default=None,
        description="build the student, with random weights, from this model config instead: a json file, or its "
        "settings right here (`model_type: bert`, ...)",
    )
    embeddings: Literal["random", "teacher"] = Field(
        default="random",
        description="word embeddings of a student built from a config: `random`, or a copy of the `teacher`'s",
    )
    origin: str | None = Field(
        default=None,
        description="take layers and embeddings from this model of the teacher's family (folder or Hub id) instead of "
        "from the teacher; layers, init, width and intermediate choose from it, the classifier stays the teacher's",
    )
    width: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="hidden size of a narrower student, a multiple of the size of a head: the dimensions and heads "
        "with the largest weights are kept (default: as wide as what it is cut out of)",
    )
    intermediate: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="feed-forward neurons of a layer of a narrower student, those with the largest weights (default: "
        "in proportion to width)",
    )
    freeze: list[Literal["embeddings"] | int] | None = Field(
        default=None,
        description="what is never trained: `embeddings`, and numbers of the student's layers, counted from 1",
    )

    def said(self) -> dict[str, Any]:
        """Returns what was set, without what is there by default."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    @field_validator("config")
    @classmethod
    def _names_its_family(cls, value: Path | dict[str, Any] | None) -> Path | dict[str, Any] | None:
        if isinstance(value, dict) and not value.get("model_type"):
            raise ValueError("the config does not name its family: add model_type: bert (or roberta, ...)")
        return value

    @field_validator("freeze", "init", mode="before")
    @classmethod
    def _list_of_parts(cls, value: Any, info: ValidationInfo) -> Any:
        """Lets `embeddings,1,2` on the command line, and a single number, mean a list."""
        if isinstance(value, int) and not isinstance(value, bool):
            return [value]
        if isinstance(value, str):
            parts = [part.strip() for part in value.split(",")]
            if info.field_name == "init" and not all(part.isdigit() for part in parts):
                return value  # a word such as `first`
            value = parts
        if not isinstance(value, list | tuple):
            return value
        if any(isinstance(part, bool) for part in value):
            raise ValueError("true and false are not allowed here: name layers by their numbers")
        return [int(part) if isinstance(part, str) and part.isdigit() else part for part in value]

    @field_validator("freeze", "init")
    @classmethod
    def _counted_from_one_each_once(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, list):
            return value
        if not value and info.field_name == "init":
            raise ValueError("the list of teacher layers is empty")
        if any(isinstance(part, int) and part < 1 for part in value):
            raise ValueError("layers are counted from 1, and below them are the embeddings")
        if info.field_name == "freeze" and len(set(value)) < len(value):
            raise ValueError(f"{', '.join(map(str, value))}: a part is named twice")
        return value or None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.model is not None and self.config is not None:
            raise ValueError(
                "model and config exclude each other: the student is either a model or built from a config"
            )
        if self.model is not None or self.config is not None:
            cuts = ("layers", "origin", "width", "intermediate")
            cut = [name for name in cuts if getattr(self, name) is not None]
            if cut or self.init != "spread":
                other = "model" if self.model is not None else "config"
                raise ValueError(
                    f"{[*cut, 'init'][0]} says how to build the student from another model's layers, but {other} says "
                    f"to take {self.model or config_name(self.config)}: leave out one of the two"
                )
        if self.origin is not None and self.init == "random":
            raise ValueError(
                f"origin says to take the weights of {self.origin}, but init says random: leave out one of the two"
            )
        if self.embeddings == "teacher" and self.config is None:
            raise ValueError(
                "embeddings: teacher is for a student that is built from a config; one cut out of the teacher has its "
                "embeddings anyway, and a model brings its own: leave embeddings out"
            )
        if isinstance(self.init, list) and self.layers is not None and self.layers != len(self.init):
            raise ValueError(
                f"init lists {len(self.init)} teacher layers, but layers is {self.layers}: leave one out or "
                "make them agree"
            )
        return self


def config_name(config: Path | Mapping[str, Any] | None) -> str:
    """Says in messages which config is meant: its path, or the family that an inline one names."""
    return f"the config of a {config['model_type']} model" if isinstance(config, Mapping) else str(config)
