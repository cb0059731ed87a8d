"""The figures by themselves: what is drawn together, what is on the Pareto line, colours that can be read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace

import fakes
import numpy as np
import pytest

from codir.reports.cloud_figure import OTHERS, cloud_figure
from codir.reports.colours import DARK, LIGHT, SERIES, SYMBOLS, series, symbol
from codir.reports.contents import Clouds, PairedOutcome, Panel, PointCloud, Report, ReportedModel
from codir.reports.curves import curves_of
from codir.reports.headline import tiles
from codir.reports.heatmap_figures import (
    SCALE,
    colour_at,
    confusion_figures,
    ink_on,
    luminance,
    similarity_figures,
)
from codir.reports.images import draw_images
from codir.reports.latency_figure import latency_figures
from codir.reports.measured import with_error
from codir.reports.model_table import model_table
from codir.reports.pareto import pareto
from codir.reports.point_names import NAMED, group_looks, label_places, models_to_name, page_looks
from codir.reports.score_figures import forest_figure, score_figure
from codir.reports.training_figures import training_figures

Reports = Callable[[], Report]


def model(name: str, score: float | None, time: float | None, **more: object) -> ReportedModel:
    return ReportedModel(name, "codir", name, score=score, milliseconds=time, **more)  # type: ignore[arg-type]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast of two colours, from its text: (L1 + 0.05) / (L2 + 0.05)."""
    values = []
    for colour in (one, other):
        linear = []
        for place in (1, 3, 5):
            part = int(colour[place : place + 2], 16) / 255
            linear.append(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
        values.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(values) + 0.05) / (min(values) + 0.05)


def numbers(values: object) -> list[float]:
    """Reads an array as plotly embeds it."""
    if isinstance(values, dict):
        kind = {"f4": np.float32, "f8": np.float64, "i1": np.int8}[values["dtype"]]
        return np.frombuffer(base64.b64decode(values["bdata"]), kind).tolist()
    return list(values)  # type: ignore[call-overload]


def test_the_pareto_line_holds_what_no_other_model_beats() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        models = [
            model(str(number), float(score), float(time))
            for number, (score, time) in enumerate(generator.integers(1, 6, (12, 2)))
        ]
        unbeaten = {
            (one.milliseconds, one.score)
            for one in models
            if not any(
                other.milliseconds <= one.milliseconds
                and other.score >= one.score
                and (other.milliseconds < one.milliseconds or other.score > one.score)
                for other in models
            )
        }
        front = pareto(models)
        assert {(one.milliseconds, one.score) for one in front} == unbeaten
        assert [one.milliseconds for one in front] == sorted(one.milliseconds or 0.0 for one in front)


def test_only_times_measured_alike_are_drawn_together() -> None:
    panel = Panel(
        "mrpc",
        "f1",
        [
            model("a", 0.8, 10.0, measured="cpu"),
            model("b", 0.7, 5.0, measured="cpu"),
            model("c", 0.9, 1.0, measured="gpu"),
            model("d", 0.85, 0.5, measured="gpu"),
            model("no time", 0.9, None),
            model("no score", None, 1.0, measured="cpu"),
            model("not a number", float("nan"), 1.0, measured="cpu"),
        ],
    )
    figures = latency_figures(panel, "p")
    drawn = [{trace["text"][0] for trace in figure.data if "text" in trace} for figure in figures]
    assert drawn == [{"a", "b"}, {"c", "d"}]
    lines = [next(trace for trace in figure.data if trace["mode"] == "lines") for figure in figures]
    assert [line["x"] for line in lines] == [[5.0, 10.0], [0.5, 1.0]]
    assert all(line["line"]["shape"] == "hv" for line in lines)
    assert "cpu" in figures[0].takeaway
    assert "2 more have a time but no score" in figures[0].takeaway
    assert "gpu" in figures[1].takeaway


@pytest.mark.parametrize(("slowest", "kind"), [(4.0, None), (6.0, "log")])
def test_the_axis_is_logarithmic_where_times_lie_far_apart(slowest: float, kind: str | None) -> None:
    panel = Panel("t", "f1", [model("a", 0.8, 1.0), model("b", 0.9, slowest)])
    axis = latency_figures(panel, "p")[0].layout["xaxis"]
    assert axis.get("type") == kind
    assert ("log" in axis["title"]["text"]) == (kind == "log")


def test_forty_groups_look_different() -> None:
    looks = group_looks(fakes.many_measured().panels[0].models)
    assert len(looks) == 40
    assert len(set(looks.values())) == 40
    assert len({(series(number), symbol(number)) for number in range(40)}) == 40
    assert SERIES * len(SYMBOLS) >= 40


def test_the_teacher_is_a_star_in_every_engine() -> None:
    models = [
        replace(model(f"{role} {engine}", 0.8, 10.0), role=role, engine=engine, group=engine)
        for engine in ("openvino", "onnxruntime")
        for role in ("teacher", "codir")
    ]
    for trace in latency_figures(Panel("t", "f1", models), "p")[0].data:
        if "marker" in trace:
            assert trace["marker"]["symbol"][1] == "star"  # students come first, for the legend
            assert trace["marker"]["symbol"][0] != "star"
            assert len({trace["marker"]["color"]}) == 1


def test_of_many_models_the_line_and_those_in_torch_are_named() -> None:
    models = [
        model(str(place), 0.5 + 0.01 * (place % 5), 1.0 + place, engine="openvino") for place in range(20)
    ]
    models[7] = replace(models[7], engine="torch")
    assert models_to_name(models) == [one for one in models if one in pareto(models) or one is models[7]]
    assert len(models_to_name(models[:NAMED])) == NAMED
    places = label_places(models, logarithmic=True)
    assert set(places) == {id(one) for one in models_to_name(models)}
    figure = latency_figures(Panel("t", "f1", models), "p")[0]
    assert figure.layout["showlegend"]
    assert sum(bool(text) for trace in figure.data for text in trace.get("text", [])) == len(places)


def test_names_do_not_cover_each_other_where_there_is_room() -> None:
    models = [model(f"a model called {place}", 0.8, 10.0 + 0.1 * place) for place in range(2)]
    places = label_places(models, logarithmic=False)
    assert len(set(places.values())) == 2


def test_error_bars_are_the_rounds_and_the_seeds() -> None:
    panel = Panel(
        "t", "f1", [model("a", 0.8, 10.0, low=9.0, high=13.0, scores=(0.79, 0.81)), model("b", 0.7, 5.0)]
    )
    trace = next(each for each in latency_figures(panel, "p")[0].data if each["name"] == "a")
    assert trace["error_x"]["array"] == [3.0]
    assert trace["error_x"]["arrayminus"] == [1.0]
    assert trace["error_y"]["array"] == pytest.approx([100 * np.std([0.79, 0.81], ddof=1)])


def test_dots_of_all_seeds_and_the_constant_answer() -> None:
    panel = fakes.study().panels[0]
    figure = score_figure(panel, "p")
    assert figure is not None
    seeds, means = figure.data[:2]
    students = [each for each in panel.models if each.scores]
    assert len(seeds["x"]) == sum(len(each.scores) for each in students)
    assert means["x"] == [100 * (each.score or 0.0) for each in panel.models]
    assert panel.constant is not None
    assert any(shape["x0"] == 100 * panel.constant for shape in figure.layout["shapes"])
    assert score_figure(Panel("t", "f1", [model("a", None, None)]), "p") is None


def test_only_differences_that_are_shown_are_filled() -> None:
    differences = fakes.study().differences
    figure = forest_figure(differences, "mrpc", "p")
    assert figure is not None
    dots = {trace["name"]: trace for trace in figure.data if trace["mode"] == "markers"}
    rows = [item for item in differences if item.task == "mrpc"]
    shown = [100 * item.mean for item in rows if item.shown]
    assert dots["shown beyond noise"]["x"] == shown
    assert dots["not shown"]["marker"]["color"] == "var(--paper)"
    assert len(dots["not shown"]["x"]) == len(rows) - len(shown)
    assert f"{len(shown)} of {len(rows)}" in figure.takeaway
    assert forest_figure(differences, "no such task", "p") is None


def test_one_colour_a_term_and_dashes_for_the_students_compared_with() -> None:
    figures = training_figures(fakes.curves(), "CoDIR student")
    assert [figure.title for figure in figures] == [
        "Loss terms",
        "Contrastive accuracy",
        "Agreement with the teacher",
        "Score on the validation split",
    ]
    looks = {trace["name"]: trace["line"] for trace in figures[0].data}
    task, kd = looks["task, CoDIR student"], looks["task, KD student"]
    assert task["color"] == kd["color"] == looks["task, undistilled student"]["color"]
    assert task["color"] != looks["crd, CoDIR student"]["color"]
    assert task["dash"] == "solid"
    assert kd["dash"] != "solid"


def test_cosines_and_the_temperature_are_drawn_as_they_are() -> None:
    log = [{"step": step, "loss_crd": 1.0, "crd_positive": 0.5, "crd_negative": -0.25} for step in (1, 2)]
    figures = {
        figure.title: figure for figure in training_figures(curves_of(log, "student", None), "student")
    }
    cosines = figures["Contrast: mean cosine of positives and negatives"]
    assert [trace["name"] for trace in cosines.data] == ["crd positives", "crd negatives"]
    assert {value for trace in cosines.data for value in numbers(trace["y"])} == {0.5, -0.25}
    assert "Contrast: learned temperature" not in figures
    learnt = curves_of([{**entry, "crd_temperature": 0.07} for entry in log], "student", None)
    assert "Contrast: learned temperature" in [figure.title for figure in training_figures(learnt, "student")]
    assert draw_images(replace(fakes.full(), curves=learnt)).keys() >= {"cosine", "temperature"}


def test_a_model_has_one_colour_on_the_whole_page() -> None:
    report = fakes.full()
    panel, looks = report.panels[0], page_looks(report)
    curves = training_figures(report.curves, "CoDIR student", looks)
    expected = {model.name: looks[model.group][0] for model in panel.models if model.engine == "torch"}
    assert len(set(expected.values())) == len(expected)
    assert expected["CoDIR student"] == "var(--s1)"
    found = {trace["name"]: trace["line"]["color"] for trace in curves[-1].data}
    assert found == {name: expected[name] for name in found}
    students = {looks[curve.model][0] for curve in report.curves}
    assert not students & {trace["line"]["color"] for trace in curves[0].data}  # loss terms
    for figure in latency_figures(panel, "p", looks):
        for trace in figure.data:
            if trace["name"] in expected:
                assert trace["marker"]["color"] == expected[trace["name"]]
    dots = score_figure(panel, "p", looks)
    assert dots is not None
    models = [model for model in panel.models if model.score is not None]
    assert dots.data[1]["marker"]["color"] == [looks[model.group][0] for model in models]


def test_a_lead_of_one_run_is_said_with_care() -> None:
    best = replace(model("undistilled", 0.8, 1.0), error=0.02, examples=400)
    other = replace(model("student", 0.7975, 2.0), error=0.02, examples=400)
    figure = latency_figures(Panel("t", "accuracy", [best, other]), "p")[0]
    assert "Highest score and least time of the 2 measured: undistilled (80.0)." in figure.takeaway
    assert "within the whiskers" in figure.takeaway
    assert "one standard error of an accuracy on 400 examples" in figure.takeaway
    bars = [trace["error_y"]["array"] for trace in figure.data if "error_y" in trace]
    assert bars == [[pytest.approx(2.0)], [pytest.approx(2.0)]]
    test = PairedOutcome(
        frozenset(("undistilled", "student")), False, "McNemar exact test, p = 1.000, 400 examples"
    )
    figure = latency_figures(Panel("t", "accuracy", [best, other], tests=[test]), "p")[0]
    assert "is within noise (McNemar exact test, p = 1.000, 400 examples)" in figure.takeaway
    plain = [replace(each, error=None, examples=None) for each in (best, other)]
    figure = latency_figures(Panel("t", "f1", plain), "p")[0]
    assert "no test says whether it is more than noise" in figure.takeaway
    assert "whiskers" not in figure.takeaway
    assert not any("error_y" in trace for trace in figure.data)


def test_only_an_accuracy_of_known_examples_has_an_error() -> None:
    line = model("a", 0.8, 1.0)
    assert with_error(line, "accuracy", 400).error == pytest.approx(0.02)
    assert with_error(line, "f1", 400).error is None
    assert with_error(line, "accuracy", None).error is None


def test_a_plane_has_a_short_heading_and_nothing_is_cut() -> None:
    about = "This is the space that the objective crd contrasts in, of 128 dimensions. " + "It is long. " * 20
    clouds = replace(fakes.clouds()[0], space="the contrast's space: crd", about=about)
    figure, _ = cloud_figure(clouds, 0)
    assert figure.title == "The contrast's space: crd"
    assert about.strip() in figure.takeaway
    assert "…" not in figure.takeaway


def test_an_export_or_a_stranger_is_no_trained_student() -> None:
    students = [
        model("kd", 0.7, None),
        model("stranger", 0.9, None),
        model("kd (onnxruntime int8)", 0.95, None),
    ]
    students = [
        replace(students[0], role="kd"),
        replace(students[1], role="other"),
        replace(students[2], role="kd", engine="onnxruntime"),
    ]
    found = tiles(Report("study", "study", panels=[Panel("t", "accuracy", students)]))
    assert [(tile.value, tile.name, tile.note) for tile in found] == [
        ("70.0", "best accuracy on t", "kd"),
        ("1", "trained student", "1 task"),
    ]
    best = [line.name for line in model_table(Panel("t", "accuracy", students)).lines if line.cells[0].best]
    assert best == ["kd (onnxruntime int8)"]


def test_students_of_one_shape_have_one_time_and_the_figure_says_so() -> None:
    common = {"milliseconds": 8.0, "low": 7.0, "high": 9.0, "measured": "here"}
    teacher = ReportedModel("teacher", "teacher", "teacher", score=0.9, **{**common, "milliseconds": 16.0})
    students = [
        ReportedModel(name, name, name, score=score, scores=(score, score), **common)
        for name, score in (("kd", 0.8), ("pkd", 0.85))
    ]
    (figure,) = latency_figures(Panel("t", "accuracy", [teacher, *students]), "p")
    said = (
        "All 2 students take 8 ms: they have one shape. The highest of them is pkd (85.0); teacher has 90.0."
    )
    assert figure.takeaway.startswith(said)
    assert "lead" not in figure.takeaway
    # one that is faster ends that
    faster = replace(students[0], milliseconds=4.0)
    (figure,) = latency_figures(Panel("t", "accuracy", [teacher, faster, students[1]]), "p")
    assert "Fastest: kd" in figure.takeaway


def test_a_study_has_a_figure_of_scores_for_each_task() -> None:
    curves = [
        replace(curve, name=name, model=student)
        for curve in fakes.curves()
        if curve.kind == "score"
        for name in ("mrpc f1", "cola matthews")
        for student in ("kd", "pkd")
    ]
    figures = training_figures(curves)
    assert [figure.title.split(": ")[1] for figure in figures] == ["mrpc f1", "cola matthews"]
    assert len({figure.name for figure in figures}) == 2


def test_similarities_share_one_scale_and_their_values_are_printed() -> None:
    one, other = similarity_figures(fakes.similarities())
    heat, text = one.data
    assert (heat["zmin"], heat["zmax"]) == (other.data[0]["zmin"], other.data[0]["zmax"])
    assert heat["colorscale"] == other.data[0]["colorscale"]
    values = fakes.similarities()[0].values
    assert text["text"][0] == f"{values[0, 0]:.2f}"
    bold = [label for label in text["text"] if label.startswith("<b>")]
    assert bold == [f"<b>{row.max():.2f}</b>" for row in values]


def test_counts_are_printed_for_few_classes_and_hovered_for_many() -> None:
    few, many = confusion_figures([*fakes.confusions()[:1], fakes.many_classes().confusions[0]])
    counts = np.asarray(fakes.confusions()[0].counts)
    assert few.data[1]["text"][0] == f"{counts[0, 0]}<br>{100 * counts[0, 0] / counts[0].sum():.0f} %"
    assert len(many.data) == 1
    assert "class 29" in many.data[0]["hovertext"][29][0]


def test_a_class_without_examples_divides_by_nothing() -> None:
    empty = replace(fakes.confusions()[0], counts=np.array([[0, 0], [1, 2]]))
    assert np.isfinite(confusion_figures([empty])[0].data[0]["z"]).all()


def test_clouds_are_told_apart_by_shape_and_classes_by_colour() -> None:
    figure, switches = cloud_figure(fakes.clouds()[0], 0)
    assert [name for name, _ in switches.clouds] == ["teacher", "student", "bank"]
    for trace in figure.data:
        cloud, group = trace["meta"]
        assert trace["marker"]["symbol"] == switches.clouds[cloud][1]
        assert trace["marker"]["color"] == switches.classes[group][1]
    assert sum(len(trace["x"]) for trace in figure.data) == 150 + 150 + 300
    assert "41.0" in figure.takeaway
    assert "PCA" in figure.takeaway


def test_many_classes_share_the_last_colour_and_many_points_are_drawn_by_webgl() -> None:
    figure, switches = cloud_figure(fakes.many_classes().clouds[0], 0)
    assert [name for name, _ in switches.classes][-1] == OTHERS
    assert len(switches.classes) == SERIES
    assert {trace["type"] for trace in figure.data} == {"scattergl"}
    assert sum(len(trace["x"]) for trace in figure.data) == 900 + 900 + 1800
    few, _ = cloud_figure(fakes.clouds()[0], 0)
    assert {trace["type"] for trace in few.data} == {"scatter"}


def test_a_cloud_without_labels_beside_one_with() -> None:
    points = np.zeros((2, 2))
    clouds = Clouds(
        "s", [PointCloud("teacher", points, ["a", "b"]), PointCloud("bank", points, [])], (0.5, 0.1)
    )
    figure, _ = cloud_figure(clouds, 0)
    assert sum(len(trace["x"]) for trace in figure.data) == 4


def test_arrays_are_embedded_in_four_bytes_a_number() -> None:
    figure, _ = cloud_figure(fakes.many_classes().clouds[0], 0)
    spec = json.loads(figure.json())
    assert spec["data"][0]["x"]["dtype"] == "f4"
    assert len(numbers(spec["data"][0]["x"])) == len(figure.data[0]["x"])


def test_the_table_leaves_out_what_nobody_has_and_marks_the_best_student() -> None:
    table = model_table(fakes.full().panels[0])
    assert list(table.headings) == [
        "f1", "kept", "agrees", "ms", "speed-up", "blocks", "parameters", "embedding", "on disk", "accuracy",
    ]  # fmt: skip
    assert not any("text" in heading for heading in table.headings)
    asked = replace(fakes.full().panels[0].models[0], requests={1: (5.0, 9.0), 32: (50.0, 700.0)})
    wide = model_table(Panel("t", "f1", [asked, fakes.full().panels[0].models[1]]))
    place = wide.headings.index("one text, ms")
    assert wide.headings[place + 1] == "32 texts, ms"
    assert [(line.cells[place].text, line.cells[place].note) for line in wide.lines] == [
        ("5", "95 % in 9"),
        ("–", ""),
    ]
    study = model_table(fakes.study().panels[0])
    assert list(study.headings) == ["f1", "kept"]
    panel = fakes.study().panels[0]
    best = max((each for each in panel.models if each.role != "teacher"), key=lambda each: each.score or 0.0)
    assert [line.name for line in study.lines if line.cells[0].best] == [best.name]
    assert all(not cell.best for line in study.lines if line.role == "teacher" for cell in line.cells)
    spread = 100 * np.std(panel.models[1].scores, ddof=1)
    assert study.lines[1].cells[0].note == f"± {spread:.1f}"


def test_values_that_are_no_numbers_are_dashes() -> None:
    table = model_table(Panel("t", "f1", [model("a", float("nan"), None), model("b", 0.5, None)]))
    assert table.lines[0].cells[0].text == "–"
    assert table.lines[0].cells[0].key is None


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_read(colours: dict[str, str]) -> None:
    for name in ("text", "soft", "accent", "good", "bad", "warn"):
        for ground in ("paper", "card"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    assert contrast(colours["warn"], colours["warn-soft"]) >= 4.5
    assert contrast(colours["text"], colours["accent-soft"]) >= 4.5
    assert contrast(colours["soft"], colours["accent-soft"]) >= 4.5
    assert contrast(colours["on-mark"], colours["mark"]) >= 4.5
    for name in ("edge", *(f"s{number}" for number in range(SERIES + 1))):
        assert contrast(colours[name], colours["paper"]) >= 3, name


def test_both_modes_have_the_same_colours() -> None:
    assert set(LIGHT) == set(DARK)


def test_the_ink_can_be_read_on_every_colour_of_the_scale() -> None:
    for part in np.linspace(0, 1, 201):
        ground = colour_at(float(part))
        assert contrast(ink_on(ground), ground) >= 4.5, part
    assert [colour_at(part) for part, _ in SCALE] == [colour for _, colour in SCALE]
    steps = [luminance(colour_at(float(part))) for part in np.linspace(0, 1, 101)]
    assert steps == sorted(steps)  # from dark to light: it can be read in grey, too
