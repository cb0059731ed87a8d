"""Made-up evidence for the tests of `codir recommend`."""

from __future__ import annotations

from typing import Any


def entries(epochs: int = 3, **gains: float | None) -> list[dict[str, Any]]:
    """Returns two entries of each recipe: a gain over `kd` with an interval of two points, None for `kd` itself."""
    return [
        {
            "study": "s",
            "recipe": recipe.replace("_", "-"),
            "settings": {},
            "task": task,
            "kind": "classification",
            "metric": "accuracy",
            "train_examples": 100,
            "teacher": {"blocks": 4, "width": 32, "score": 0.9},
            "student": {"layers": 2, "width": 32, "parameters": 1000},
            "epochs": epochs,
            "steps": 10 * epochs,
            "seeds": 5,
            "scores": [0.8],
            "mean": 0.8,
            "sd": 0.01,
            "kept": 90.0 + (gain or 0.0),
            "over_kd": None if gain is None else {"mean": gain, "low": gain - 1, "high": gain + 1},
            "seconds": 10.0,
            "learning_rate": 3e-3,
        }
        for recipe, gain in gains.items()
        for task in ("a", "b")
    ]
