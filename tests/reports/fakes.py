"""Made-up reports, the same on every machine: full, empty, a study, a crowded and a hostile one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from codir.reports.values import Curve, Difference, Disagreement, Model, Panel, Report
from codir.reports.views import cloud_figure, confusion_figure, similarity_figure

MEASURED = "batches of 32, every text 128 tokens long, on cpu, 1 thread"
TEXT = "the film was never quite as good as its first song and yet a child who saw it liked every scene of it"
WORDS = TEXT.split()
CLASSES = ("equivalent", "not equivalent")

HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<img src=x onerror='window.hacked = 3'>",
    "\"'><svg onload=window.hacked=4>",
    "<!-- <script>",
    "]]> --> <b>bold</b> &lt;i&gt; &amp; <a href='javascript:window.hacked=5'>link</a>",
    "{{ 7 * 7 }}{% raw %} ${window.hacked=6} %{x} $\\alpha$",
    "line\u2028and\u2029paragraph",
    "null\x00byte bell\x07 lone \ud800 surrogate",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "emoji 👩‍👩‍👧 🎬 é\u0301",
    "var(--bad)",
    "<b>b</b><a href='x:'>a</a>",
    "x" * 100_000,
    "",
)


def sentence(generator: np.random.Generator, words: int = 14) -> str:
    return " ".join(generator.choice(WORDS, words)).capitalize() + "."


def models() -> list[Model]:
    """Returns a teacher, three students and two exports of the main one."""
    shape = {"parameters": 17_390_594, "embedding_parameters": 11_918_592, "bytes": 69_568_832}
    made = []
    for name, role, score, time, more in (
        ("teacher", "teacher", 0.8539, 36.93, {"layers": 6, "parameters": 22_713_986, "bytes": 90_867_952}),
        ("undistilled student", "finetune", 0.7985, 18.52, {}),
        ("KD student", "kd", 0.8060, 18.61, {}),
        ("CoDIR student", "codir", 0.8150, 18.45, {}),
        ("CoDIR student, int8", "codir", 0.8127, 5.9, {"group": "onnxruntime", "engine": "onnxruntime"}),
        ("CoDIR student, openvino bf16", "codir", 0.8150, 3.1, {"group": "openvino", "engine": "openvino"}),
    ):
        values = {"group": name, "layers": 3, **shape, **more, "kept": score / 0.8539, "measured": MEASURED}
        values |= {"metrics": {"f1": score, "accuracy": score - 0.07}, "agreement": score - 0.01}
        values |= {"milliseconds": time, "speedup": 36.93 / time, "low": 0.97 * time, "high": 1.08 * time}
        made.append(Model(name=name, role=role, score=score, **values))
    return made


def curves() -> list[Curve]:
    """Returns the curves of a CoDIR student and of two it is compared with."""
    steps, found = list(range(23, 576, 23)), []
    fall = np.exp(-np.arange(len(steps)) / 12)
    for model, terms in (
        ("CoDIR student", {"task loss": 0.62, "kd loss": 0.2, "crd loss": 3.9}),
        ("KD student", {"task loss": 0.65, "kd loss": 0.22}),
        ("undistilled student", {"task loss": 0.68}),
    ):
        found += [Curve(name, model, "loss", steps, (start * fall).tolist()) for name, start in terms.items()]
        late, agreement = (0.8 - 0.05 * fall[::5]).tolist(), (0.9 - fall[::5] / 9).tolist()
        found.append(Curve("f1", model, "score", steps[::5], late))
        found.append(Curve("on validation data", model, "agreement", steps[::5], agreement))
    return [*found, Curve("crd accuracy", "CoDIR student", "accuracy", steps, [1.0] * len(steps))]


def disagreements(many: int = 79) -> list[Disagreement]:
    """Returns examples of two kinds, worst first, a few of them long."""
    generator, found = np.random.default_rng(3), []
    for number in range(many):
        label, other = CLASSES[number % 2], CLASSES[1 - number % 2]
        kind, answers = (("lost", (label, other)), ("won", (other, label)))[number % 2]
        texts = sentence(generator, 14 if number % 10 else 260), sentence(generator)
        sure = generator.uniform(0.5, 1, 2).tolist()
        found.append(Disagreement(7 * number, *texts, label, *answers, *sure, kind, 1 - number / many))
    return found


def clouds(classes: tuple[str, ...], many: int, texts: tuple[str, ...] = ()) -> list:
    """Returns the figure of a shared space with a bank."""
    generator = np.random.default_rng(1)
    labels = [classes[place % len(classes)] for place in range(many)]
    shown = [texts[place % len(texts)] if texts else sentence(generator) for place in range(many)]
    sides = [(name, generator.normal(size=(many, 4)), labels, shown) for name in ("teacher", "student")]
    bank = ("bank", generator.normal(size=(2 * many, 4)), labels * 2, [])
    return [cloud_figure("the contrast's space: crd", [*sides, bank], "Of 4 dimensions.", 0)]


def full() -> Report:
    """Returns a run's report with every part."""
    rows, columns = np.mgrid[0:3, 0:6]
    similar = 0.98 - 0.07 * np.abs(2 * rows + 1 - columns)
    texts = ("<a href='x'>see</a> &lt; <b>bold</b>",)
    return Report(
        title="mrpc-codir",
        kind="run",
        place="student",
        recipe="codir-fine",
        subtitle="distilled with codir-fine, on mrpc (408 validation pairs), teacher /models/teacher",
        words=["The CoDIR student keeps 95.4 % of the teacher's f1.", "It is above the undistilled student."],
        panels=[Panel("mrpc", "f1", models(), constant=0.8122)],
        curves=curves(),
        similarities=[similarity_figure(name, similar, (0.3, 1.0), 408, n) for n, name in enumerate("ab")],
        ramp=(0.3, 1.0),
        clouds=clouds(CLASSES, 150, texts),
        confusions=[confusion_figure(name, CLASSES, 3 + 40 * np.eye(2, dtype=int), 0) for name in ["student"]],
        disagreements=disagreements(),
        disagreements_total=1203,
        costs=[("training of the CoDIR student", "4 min 46 s, 575 steps")],
        facts=[("command", "codir distill codir-fine --task mrpc"), ("seed", "1")],
        config="recipe: codir-fine\ntask: mrpc\n",
        missing=[("memory", "it was not measured: codir latency measures it")],
    )


def without_figures() -> Report:
    """Returns the full report without what is drawn: its page loads at once, plotly.js is not in it."""
    panels = [replace(full().panels[0], models=models()[:1])]
    return replace(full(), panels=panels, curves=[], similarities=[], clouds=[], confusions=[])


def empty() -> Report:
    """Returns an unfinished report in which every part is missing."""
    parts = ("table", "times", "curves", "similarity", "clouds", "confusions", "disagreements")
    return Report("nothing", "run", finished=False, missing=[(part, f"the run has no {part}") for part in parts])


def study(recipes: int = 9) -> Report:
    """Returns a study of `recipes` recipes, five seeds and two tasks, without times."""
    generator = np.random.default_rng(5)
    names = ["finetune", "kd", *(f"codir-fine with a weight of {0.01 * n:.2f}" for n in range(recipes - 2))]
    panels, differences = [], []
    for task, metric, middle in (
        ("mrpc", "f1", 0.81),
        ("cola", "matthews", 0.2),
        ("average", "average", 0.5),
    ):
        lines = [Model("teacher", "teacher", "teacher", score=middle + 0.05, kept=1.0)]
        for number, name in enumerate(names):
            scores = tuple(generator.normal(middle - 0.01 + 0.001 * number, 0.008, 5).tolist())
            mean = sum(scores) / 5
            kept = None if name.endswith("0.00") else mean / (middle + 0.05)
            lines.append(Model(name, name, name, score=mean, scores=scores, kept=kept))
            shift, half = 0.004 * (number % 3), 0.006
            row = Difference(task, f"{name} - kd", shift, shift - half, shift + half, abs(shift) > half)
            differences += [row] if name != "kd" else []
        panels.append(Panel(task, metric, lines, constant=middle - 0.01 if task == "mrpc" else None))
    return Report("recipes-on-two-tasks", "study", words=["a.", "b."], panels=panels, differences=differences)


def crowded() -> Report:
    """Returns a run of forty measured models in as many groups, thirty classes, and points that only WebGL draws."""
    generator = np.random.default_rng(6)
    lines = [
        Model(
            f"student {number}, {'a very long name ' * 3}",
            "codir",
            f"group {number}",
            score=float(generator.uniform(0.7, 0.85)),
            milliseconds=float(np.exp(generator.uniform(0, 4))),
            measured=MEASURED if number % 2 else "batches of 1, on cuda",
        )
        for number in range(40)
    ]
    classes = tuple(f"class {number} of the long tail" for number in range(30))
    confusion = confusion_figure("student", classes, 3 + 40 * np.eye(30, dtype=int), 0)
    few = replace(full(), title="forty", curves=[], similarities=[], confusions=[confusion], disagreements=[])
    return replace(few, panels=[Panel("mrpc", "f1", lines)], clouds=clouds(classes, 900))


def hostile() -> Report:
    """Returns a report whose every text is one that wants to be markup, code, or a very long line."""
    bad, many = HOSTILE, len(HOSTILE)
    lines = [
        Model(
            text,
            "teacher" if number == 0 else "codir" if number == 1 else text,
            text,
            score=0.8 - 0.01 * number,
            scores=(0.8 - 0.01 * number, 0.79 - 0.01 * number),
            metrics={text: 0.5},
            milliseconds=30.0 - number,
            speedup=1.0 + number,
            engine="torch" if number < 2 else text,
            measured=bad[1],
        )
        for number, text in enumerate(bad)
    ]
    kinds = ("loss", "score", bad[0], "accuracy")
    values = [3.0, float("nan"), 1.0]
    return Report(
        title=bad[1],
        kind="run",
        subtitle=bad[2],
        finished=False,
        words=list(bad),
        panels=[Panel(bad[n], bad[m], lines, 0.5) for n, m in ((2, 0), (1, 5))],
        curves=[Curve(t, bad[n - 3], kinds[n % 4], [1, 2, 3], values) for n, t in enumerate(bad)],
        similarities=[similarity_figure(bad[0], np.eye(2, 3), (0.0, 1.0), 4, 0)],
        clouds=clouds(bad, 2 * many, bad),
        confusions=[confusion_figure(bad[5], bad, np.ones((many, many), dtype=int), 0)],
        disagreements=[
            Disagreement(n, text, bad[-1 - n], text, text, bad[-1 - n], 0.9, 0.8, "lost", 1.0)
            for n, text in enumerate(bad)
        ],
        differences=[Difference(bad[2], other, 0.01, 0.0, 0.02, True) for other in bad],
        costs=[(text, text) for text in bad],
        facts=[(text, text) for text in bad],
        config="\n".join(bad),
        missing=[(text, text) for text in bad],
    )
