"""codir: smaller, faster transformer encoders by contrastive distillation on intermediate representations.

The names below are imported when they are first used (PEP 562), so that `import codir` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codir.corpora.build import build_corpus
    from codir.corpora.corpus import open_corpus
    from codir.models.student import build_student
    from codir.recipes.config import DistillConfig, FinetuneConfig
    from codir.recipes.pretraining import PretrainConfig
    from codir.reports.make import report
    from codir.studies.config import StudyConfig
    from codir.studies.loading import load_study
    from codir.studies.run import study
    from codir.tasks import load_task
    from codir.teacher.frozen import FrozenTeacher
    from codir.training.arguments import DistillationArguments
    from codir.training.trainer import DistillationTrainer
    from codir.workflows.augment import augment
    from codir.workflows.distill import distill
    from codir.workflows.evaluate import evaluate
    from codir.workflows.export import export
    from codir.workflows.finetune import finetune
    from codir.workflows.latency import latency
    from codir.workflows.predict import predict
    from codir.workflows.pretrain import pretrain
    from codir.workflows.publish import publish
    from codir.workflows.recommend import recommend

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
    "recommend",
    "report",
    "study",
]

_HOMES = {
    "DistillConfig": "codir.recipes.config",
    "DistillationArguments": "codir.training.arguments",
    "DistillationTrainer": "codir.training.trainer",
    "FinetuneConfig": "codir.recipes.config",
    "FrozenTeacher": "codir.teacher.frozen",
    "PretrainConfig": "codir.recipes.pretraining",
    "StudyConfig": "codir.studies.config",
    "augment": "codir.workflows.augment",
    "build_corpus": "codir.corpora.build",
    "build_student": "codir.models.student",
    "distill": "codir.workflows.distill",
    "evaluate": "codir.workflows.evaluate",
    "export": "codir.workflows.export",
    "finetune": "codir.workflows.finetune",
    "latency": "codir.workflows.latency",
    "load_study": "codir.studies.loading",
    "load_task": "codir.tasks",
    "open_corpus": "codir.corpora.corpus",
    "predict": "codir.workflows.predict",
    "pretrain": "codir.workflows.pretrain",
    "publish": "codir.workflows.publish",
    "recommend": "codir.workflows.recommend",
    "report": "codir.reports.make",
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
