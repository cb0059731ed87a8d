"""Made-up reports, the same on every machine: full, empty, unfinished, a study, scores, many models, many classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from codir.reports.contents import (
    BlockSimilarity,
    Clouds,
    Confusion,
    Curve,
    Disagreement,
    PairedDifference,
    Panel,
    PointCloud,
    Report,
    ReportedModel,
)

MEASURED = "batches of 32, every text 128 tokens long, on cpu, 1 thread"
_TEXT = """
the film was never quite as good as its first song and yet a child who saw it liked every scene of it more than the
book it came from
"""
WORDS = _TEXT.split()

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
    """Returns a sentence of made-up words."""
    return " ".join(generator.choice(WORDS, words)).capitalize() + "."


def models() -> list[ReportedModel]:
    """Returns a teacher, three students and two exports of the main one."""
    common = {"blocks": 3, "parameters": 17_390_594, "embedding_parameters": 11_918_592, "bytes": 69_568_832}
    teacher = ReportedModel(
        name="teacher",
        role="teacher",
        group="teacher",
        score=0.8539,
        metrics={"f1": 0.8539, "accuracy": 0.7819},
        kept=1.0,
        agreement=1.0,
        blocks=6,
        parameters=22_713_986,
        embedding_parameters=11_918_592,
        bytes=90_867_952,
        milliseconds=36.93,
        low=36.89,
        high=39.8,
        speedup=1.0,
        measured=MEASURED,
    )

    def student(name: str, role: str, score: float, time: float, **more: object) -> ReportedModel:
        values: dict[str, object] = {
            **common,
            "group": name,
            "metrics": {"f1": score, "accuracy": score - 0.07},
            "kept": score / 0.8539,
            "agreement": score - 0.01,
            "milliseconds": time,
            "low": 0.97 * time,
            "high": 1.08 * time,
            "speedup": 36.93 / time,
            "measured": MEASURED,
            **more,
        }
        return ReportedModel(name=name, role=role, score=score, **values)  # type: ignore[arg-type]

    return [
        teacher,
        student("undistilled student", "finetune", 0.7985, 18.52),
        student("KD student", "kd", 0.8060, 18.61),
        student("CoDIR student", "codir", 0.8150, 18.45),
        student(
            "CoDIR student, onnxruntime int8",
            "codir",
            0.8127,
            5.9,
            group="onnxruntime",
            engine="onnxruntime int8",
        ),
        student(
            "CoDIR student, openvino bf16", "codir", 0.8150, 3.1, group="openvino", engine="openvino bf16"
        ),
    ]


def curves() -> list[Curve]:
    """Returns the curves of a CoDIR student and of two it is compared with."""
    generator = np.random.default_rng(0)
    steps = list(range(23, 576, 23))
    found = []
    for model, terms in (
        ("CoDIR student", {"task loss": 0.62, "kd loss": 0.2, "crd loss": 3.9}),
        ("KD student", {"task loss": 0.65, "kd loss": 0.22}),
        ("undistilled student", {"task loss": 0.68}),
    ):
        for name, start in terms.items():
            values = start * np.exp(-np.arange(len(steps)) / 12) + 0.05 * generator.random(len(steps))
            found.append(Curve(name, model, "loss", steps, values.tolist()))
        scores = 0.74 + 0.07 * (1 - np.exp(-np.arange(5) / 2)) + 0.01 * generator.random(5)
        found.append(Curve("f1", model, "score", [115, 230, 345, 460, 575], scores.tolist()))
    rise = (1 - 0.6 * np.exp(-np.arange(len(steps)) / 4)).tolist()
    found.append(Curve("crd accuracy", "CoDIR student", "accuracy", steps, rise))
    for model in ("CoDIR student", "KD student"):
        agreement = (0.85 - 0.15 * np.exp(-np.arange(len(steps)) / 9)).tolist()
        found.append(Curve("on training batches", model, "agreement", steps, agreement))
        found.append(Curve("on validation data", model, "agreement", steps[4::5], agreement[3::5]))
    return found


def similarities() -> list[BlockSimilarity]:
    """Returns a distilled and an undistilled student against six teacher blocks."""
    found = []
    for name, sharp in (("CoDIR student", 1.0), ("undistilled student", 0.7)):
        rows, columns = np.mgrid[0:3, 0:6]
        values = sharp * (0.98 - 0.07 * np.abs(2 * rows + 1 - columns))
        found.append(BlockSimilarity(name, "teacher", values, 408, "mean"))
    return found


def clouds(classes: tuple[str, ...] = ("equivalent", "not equivalent"), points: int = 150) -> list[Clouds]:
    """Returns the shared space with a bank, and the teacher's last block alone."""
    generator = np.random.default_rng(1)

    def cloud(name: str, shift: float, many: int, texts: bool = True) -> PointCloud:
        labels = [classes[place % len(classes)] for place in range(many)] if classes else []
        angle = np.array([2.4 * (place % max(1, len(classes))) for place in range(many)])
        centres = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        spread = generator.normal(0, 0.35, (many, 2)) + centres + shift
        return PointCloud(name, spread, labels, [sentence(generator) for _ in range(many)] if texts else ())

    shared = [
        cloud("teacher", 0.0, points),
        cloud("student", 0.15, points),
        cloud("bank", 0.1, 2 * points, False),
    ]
    return [
        Clouds("the contrast's shared space", shared, (0.41, 0.17)),
        Clouds("the teacher's last block", [cloud("teacher", 0.0, points)], (0.33, 0.12)),
    ]


def confusions(classes: tuple[str, ...] = ("equivalent", "not equivalent")) -> list[Confusion]:
    """Returns those of teacher and student."""
    generator = np.random.default_rng(2)
    found = []
    for name, right in (("teacher", 60), ("CoDIR student", 45)):
        counts = generator.integers(0, 18, (len(classes), len(classes))) + right * np.eye(
            len(classes), dtype=int
        )
        found.append(Confusion(name, classes, counts))
    return found


def disagreements(
    many: int = 79, classes: tuple[str, ...] = ("equivalent", "not equivalent")
) -> list[Disagreement]:
    """Returns examples of three kinds, a few of them long."""
    generator = np.random.default_rng(3)
    found = []
    for number in range(many):
        label = classes[number % len(classes)]
        other = classes[(number + 1) % len(classes)]
        kind = ("lost", "won", "both wrong")[number % 3 if len(classes) > 2 else number % 2]
        teacher = label if kind == "lost" else other
        student = (
            label
            if kind == "won"
            else classes[(number + 2) % len(classes)]
            if kind == "both wrong"
            else other
        )
        found.append(
            Disagreement(
                number=7 * number,
                text=sentence(generator, 14 if number % 10 else 260),
                text_pair=sentence(generator),
                label=label,
                teacher=teacher,
                student=student,
                teacher_confidence=float(generator.uniform(0.5, 1)),
                student_confidence=float(generator.uniform(0.5, 1)),
                kind=kind,
                badness=float(generator.normal()),
            )
        )
    return found


def full() -> Report:
    """Returns a run's report with every part."""
    return Report(
        title="mrpc-codir",
        kind="run",
        subtitle="distilled with codir-fine, on mrpc (408 validation pairs), teacher /models/teacher",
        words=[
            "The CoDIR student keeps 95.4 % of the teacher's f1 (81.5 of 85.4) and is 2.0 times as fast.",
            "It is 1.7 points above the undistilled student; with one seed that is no proof.",
            "Exported to OpenVINO in bf16 it needs 3.1 ms for a sequence, 11.9 times as fast as the teacher.",
        ],
        panels=[Panel("mrpc", "f1", models(), constant=0.8122)],
        curves=curves(),
        similarities=similarities(),
        clouds=clouds(),
        confusions=confusions(),
        disagreements=disagreements(),
        disagreements_total=79,
        costs=[
            ("training of the CoDIR student", "4 min 46 s, 575 steps"),
            ("the whole command", "7 min 2 s"),
        ],
        facts=[
            ("command", "codir distill codir-fine --task mrpc"),
            ("seed", "1"),
            ("machine", "2 cores, no GPU"),
        ],
        config="recipe: codir-fine\ntask: mrpc\nobjectives:\n  crd:\n    weight: 0.1\n    negatives: 100\n",
        missing=[("memory", "it was not measured: codir latency measures it")],
    )


def empty() -> Report:
    """Returns a report in which every part is missing."""
    parts = ("table", "times", "curves", "similarity", "clouds", "confusions", "disagreements")
    return Report("nothing", "run", missing=[(part, f"the run has no {part}") for part in parts])


def unfinished() -> Report:
    """Returns a run that is under way: two curves and a reason for everything else."""
    return replace(
        empty(),
        title="under way",
        finished=False,
        words=[
            "This run is under way: its main student has logged up to step 92. What there is so far is below."
        ],
        curves=[replace(curve, steps=curve.steps[:4], values=curve.values[:4]) for curve in curves()[:3]],
        config="task: mrpc\n",
    )


def scores() -> Report:
    """Returns a regression's report: no classes, no confusions, answers without confidence."""
    generator = np.random.default_rng(4)
    apart = [
        Disagreement(
            number,
            sentence(generator),
            sentence(generator),
            "3.8",
            "3.6",
            "1.2",
            None,
            None,
            "far apart",
            2.4,
        )
        for number in range(6)
    ]
    panel = Panel(
        "stsb", "pearson", [replace(model, metrics={"pearson": model.score or 0.0}) for model in models()[:4]]
    )
    return replace(
        full(),
        title="stsb",
        panels=[panel],
        clouds=clouds(classes=()),
        confusions=[],
        disagreements=apart,
        disagreements_total=6,
        missing=[("confusions", "the task has scores, not classes")],
    )


def study(recipes: int = 9) -> Report:
    """Returns a study of `recipes` recipes, five seeds and two tasks, without times."""
    generator = np.random.default_rng(5)
    names = ["finetune", "kd", "codir-fine", "pkd", "tinybert", "minilm", "distilbert", "sid", "mobilebert"]
    names += [
        f"codir-fine with a weight of {0.01 * number:.2f}" for number in range(max(0, recipes - len(names)))
    ]
    names = names[:recipes]
    panels, differences = [], []
    for task, metric, middle in (
        ("mrpc", "f1", 0.81),
        ("cola", "matthews", 0.2),
        ("average", "average", 0.505),
    ):
        lines = [ReportedModel("teacher", "teacher", "teacher", score=middle + 0.05, kept=1.0)]
        for name in names:
            values = tuple(
                float(value) for value in generator.normal(middle + 0.002 * len(name) - 0.01, 0.008, 5)
            )
            mean = sum(values) / 5
            lines.append(
                ReportedModel(
                    f"{name} (half)", name, name, score=mean, scores=values, kept=mean / (middle + 0.05)
                )
            )
        panels.append(Panel(task, metric, lines, constant=middle - 0.01 if task == "mrpc" else None))
        for name in names:
            if name == "kd":
                continue
            mean = float(generator.normal(0.002, 0.012))
            half = float(generator.uniform(0.004, 0.015))
            shown = abs(mean) > half
            differences.append(
                PairedDifference(task, f"{name} (half) - kd", mean, mean - half, mean + half, shown)
            )
    return Report(
        title="recipes-on-two-tasks",
        kind="study",
        subtitle="9 recipes, 2 tasks, 5 seeds",
        words=[
            "No difference from kd shown on mrpc: finetune (half), codir-fine (half), distilbert (half).",
            "minilm (half) is below kd beyond noise on cola: -2.5 points (95 % interval -3.9 to -1.2, 5 pairs).",
        ],
        panels=panels,
        differences=differences,
        costs=[("all trainings", "6 h 12 min in 80 trials")],
        facts=[("trials", "80 finished"), ("workers", "2")],
        config="command: study\nseeds: [1, 2, 3, 4, 5]\n",
        missing=[("times", "the trials measured none")],
    )


def many_models() -> Report:
    """Returns a study of forty recipes."""
    return study(recipes=40)


def many_measured() -> Report:
    """Returns a run of forty measured models in as many groups, half of them under other conditions."""
    generator = np.random.default_rng(6)
    lines = [
        ReportedModel(
            f"student {number}, {'a very long name ' * 3}",
            "codir",
            f"group {number}",
            score=float(generator.uniform(0.7, 0.85)),
            milliseconds=float(np.exp(generator.uniform(0, 4))),
            measured=MEASURED if number % 2 else "batches of 1, on cuda",
        )
        for number in range(40)
    ]
    return replace(full(), title="forty", panels=[Panel("mrpc", "f1", lines)])


def many_classes() -> Report:
    """Returns a run on a task of thirty classes, with so many points that WebGL draws them."""
    classes = tuple(f"class {number} of the long tail" for number in range(30))
    return replace(
        full(),
        title="thirty classes",
        clouds=clouds(classes, points=900),
        confusions=confusions(classes),
        disagreements=disagreements(60, classes),
    )


def hostile() -> Report:
    """Returns a report whose every text is one that wants to be markup, code, or a very long line."""
    bad = HOSTILE
    many = len(bad)
    lines = [
        ReportedModel(
            text,
            "teacher" if number == 0 else "codir" if number == 1 else text,
            text,
            score=0.8 - 0.01 * number,
            scores=(0.8 - 0.01 * number, 0.79 - 0.01 * number),
            metrics={text: 0.5},
            milliseconds=30.0 - number,
            speedup=1.0 + number,
            engine=text,
            measured=bad[1],
        )
        for number, text in enumerate(bad)
    ]
    generator = np.random.default_rng(7)
    square = np.full((many, many), 0.5)
    cloud = [
        PointCloud(name, generator.normal(size=(many, 2)), list(bad), list(reversed(bad)))
        for name in (bad[0], bad[2], "bank")
    ]
    return Report(
        title=bad[1],
        kind="run",
        subtitle=bad[2],
        finished=False,
        words=list(bad),
        panels=[
            Panel(bad[2], bad[0], lines, 0.5),
            Panel(bad[1], bad[5], lines),
            Panel(bad[3], bad[1], lines),
        ],
        curves=[
            Curve(text, other, kind, [1, 2, 3], [3.0, float("nan"), 1.0])
            for text, other, kind in zip(
                bad * 2, bad[3:] + bad + bad[:3], ("loss", "score", bad[0], "accuracy") * 8, strict=False
            )
        ],
        similarities=[BlockSimilarity(bad[0], bad[2], square[:2, :3], 4, bad[1])],
        clouds=[Clouds(bad[5], cloud, (0.5, 0.2))],
        confusions=[Confusion(bad[5], list(bad), np.ones((many, many), dtype=int))],
        disagreements=[
            Disagreement(
                number, text, bad[-1 - number], text, text, bad[-1 - number], 0.9, 0.8, text, float(number)
            )
            for number, text in enumerate(bad)
        ],
        disagreements_total=500,
        differences=[
            PairedDifference(text, other, 0.01, 0.0, 0.02, True) for text in bad[:2] for other in bad
        ],
        costs=[(text, text) for text in bad],
        facts=[(text, text) for text in bad],
        config="\n".join(bad),
        missing=[(text, text) for text in bad],
    )
