"""codir: smaller, faster transformer encoders by contrastive distillation on intermediate representations.

The names below are imported when they are first used (PEP 562), so that `import codir` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codir.config.config import DistillConfig, FinetuneConfig
    from codir.config.pretraining import PretrainConfig
    from codir.data import load_task
    from codir.data.corpus import open_corpus
    from codir.data.corpus_build import build_corpus
    from codir.deploy.export import export
    from codir.deploy.latency import latency
    from codir.deploy.publish import publish
    from codir.models.student import build_student
    from codir.reports import report
    from codir.runs.augment import augment
    from codir.runs.distill import distill
    from codir.runs.evaluate import evaluate
    from codir.runs.finetune import finetune
    from codir.runs.predict import predict
    from codir.runs.pretrain import pretrain
    from codir.studies.config import StudyConfig, load_study
    from codir.studies.run import study
    from codir.teacher.frozen import FrozenTeacher
    from codir.training.arguments import DistillationArguments
    from codir.training.trainer import DistillationTrainer

__version__ = "0.1.0"

__all__ = [
    "DistillConfig",
    "DistillationArguments",
    "DistillationTrainer",
    "FinetuneConfig",
    "FrozenTeacher",
    "PretrainConfig",
    "StudyConfig",
    "augment",
    "build_corpus",
    "build_student",
    "distill",
    "evaluate",
    "export",
    "finetune",
    "latency",
    "load_study",
    "load_task",
    "open_corpus",
    "predict",
    "pretrain",
    "publish",
    "report",
    "study",
]

_HOMES = {
    "DistillConfig": "codir.config.config",
    "DistillationArguments": "codir.training.arguments",
    "DistillationTrainer": "codir.training.trainer",
    "FinetuneConfig": "codir.config.config",
    "FrozenTeacher": "codir.teacher.frozen",
    "PretrainConfig": "codir.config.pretraining",
    "StudyConfig": "codir.studies.config",
    "augment": "codir.runs.augment",
    "build_corpus": "codir.data.corpus_build",
    "build_student": "codir.models.student",
    "distill": "codir.runs.distill",
    "evaluate": "codir.runs.evaluate",
    "export": "codir.deploy.export",
    "finetune": "codir.runs.finetune",
    "latency": "codir.deploy.latency",
    "load_study": "codir.studies.config",
    "load_task": "codir.data",
    "open_corpus": "codir.data.corpus",
    "predict": "codir.runs.predict",
    "pretrain": "codir.runs.pretrain",
    "publish": "codir.deploy.publish",
    "report": "codir.reports",
    "study": "codir.studies.run",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'codir' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
