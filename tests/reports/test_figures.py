"""The figures by themselves: what is drawn together, the Pareto line, colours and texts that can be read, pictures."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from codir.errors import ConfigError, RunError
from codir.reports.curves import training_figures
from codir.reports.figures import COLOURS, SERIES, colour_at, ink_on
from codir.reports.images import write_images
from codir.reports.page import model_table, tiles
from codir.reports.scores import NAMED, forest_figure, latency_figures, page_looks, pareto, score_figure
from codir.reports.text import clean, count, for_hover, for_plotly, for_script, points, share, shortened, size, times
from codir.reports.values import Model, Panel, Report
from codir.reports.views import OTHERS, confusion_figure


def model(name: str, score: float | None, time: float | None, **more: Any) -> Model:
    return replace(Model(name, "codir", name, score=score, milliseconds=time), **more)


def latency(*models: Model, metric: str = "f1") -> Any:
    panel = Panel("t", metric, models)
    return latency_figures(panel, "p", page_looks(Report("", "run", panels=[panel])))


def test_the_pareto_line_holds_what_no_other_model_beats() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        models = [model(str(n), *map(float, pair)) for n, pair in enumerate(generator.integers(1, 6, (12, 2)))]
        pairs = {(one.milliseconds, one.score) for one in models}
        unbeaten = {(t, s) for t, s in pairs if not any(a <= t and b >= s and (a, b) != (t, s) for a, b in pairs)}
        assert [(one.milliseconds, one.score) for one in pareto(models)] == sorted(unbeaten)


def test_only_times_measured_alike_are_drawn_together() -> None:
    figures = latency(
        model("a", 0.8, 10.0, measured="cpu"),
        model("b", 0.7, 5.0, measured="cpu"),
        model("c", 0.9, 1.0, measured="gpu"),
        model("d", 0.85, 0.5, measured="gpu"),
        model("no time", 0.9, None),
        model("no score", None, 1.0, measured="cpu"),
        model("not a number", float("nan"), 1.0, measured="cpu"),
    )
    drawn = [{trace["text"][0] for trace in figure.data if "text" in trace} for figure in figures]
    assert drawn == [{"a", "b"}, {"c", "d"}]
    lines = [next(trace for trace in figure.data if trace["mode"] == "lines") for figure in figures]
    assert [line["x"] for line in lines] == [[5.0, 10.0], [0.5, 1.0]]
    assert all(line["line"]["shape"] == "hv" for line in lines)
    assert "cpu" in figures[0].takeaway
    for slowest, kind in ((4.0, None), (6.0, "log")):  # where times lie far apart
        assert latency(model("a", 0.8, 1.0), model("b", 0.9, slowest))[0].layout["xaxis"].get("type") == kind


def test_of_many_models_the_line_and_those_in_torch_are_named_and_neighbours_on_different_sides() -> None:
    models = [model(str(n), 0.5 + 0.01 * (n % 5), 1.0 + n, engine="openvino") for n in range(20)]
    models[7] = replace(models[7], engine="torch")
    for shown, expected in ((models, {*(one.name for one in pareto(models)), "7"}), (models[:NAMED], None)):
        (figure,) = latency(*shown)
        traces = [trace for trace in figure.data if "textposition" in trace]
        named = {trace["text"][0]: trace["textposition"][0] for trace in traces if trace["text"][0]}
        assert set(named) == (expected or {one.name for one in shown})
        assert len(set(named.values())) == min(len(named), 4)


def test_error_bars_are_the_rounds_and_the_seeds() -> None:
    (figure,) = latency(model("a", 0.8, 10.0, low=9.0, high=13.0, scores=(0.79, 0.81)), model("b", 0.7, 5.0))
    trace = next(each for each in figure.data if each["name"] == "a")
    assert (trace["error_x"]["array"], trace["error_x"]["arrayminus"]) == ([3.0], [1.0])
    assert trace["error_y"]["array"] == pytest.approx([100 * np.std([0.79, 0.81], ddof=1)])


def test_a_lead_of_one_run_is_said_with_care() -> None:
    best, other = (
        model(name, score, time).with_error("accuracy", 400)
        for name, score, time in (("undistilled", 0.8, 1.0), ("student", 0.7975, 2.0))
    )
    assert best.error == pytest.approx(0.02)
    (figure,) = latency(best, other, metric="accuracy")
    assert "Highest score and least time of the 2 measured: undistilled (80.0)." in figure.takeaway
    assert "within the whiskers" in figure.takeaway
    assert "one standard error of an accuracy on 400 examples" in figure.takeaway
    (figure,) = latency(*(replace(each, error=None) for each in (best, other)))
    assert "no test says whether it is more than noise" in figure.takeaway
    assert not any("error_y" in trace for trace in figure.data)
    assert model("a", 0.8, 1.0).with_error("f1", 400).error is None


def test_the_fastest_of_several_of_one_shape_is_no_fastest() -> None:
    said = latency(model("t", 0.9, 16.0), model("kd", 0.8, 8.0), model("pkd", 0.85, 8.0))[0].takeaway
    assert "Fastest: pkd, the highest of 2 that take one time (8 ms, 85.0)" in said


def test_a_model_has_one_colour_on_the_whole_page_and_teachers_are_stars() -> None:
    report = fakes.full()
    panel, looks = report.panels[0], page_looks(report)
    expected = {m.name: looks[m.group][0] for m in panel.models if m.engine == "torch"}
    assert len(set(expected.values())) == len(expected)
    assert expected["CoDIR student"] == "var(--s1)"
    for figure in latency_figures(panel, "p", looks):
        for trace in figure.data:
            if trace["name"] in expected:
                assert trace["marker"]["color"] == expected[trace["name"]]
                assert (trace["marker"]["symbol"][0] == "star") == (trace["name"] == "teacher")
    assert len(set(page_looks(fakes.crowded()).values())) >= 40
    curves = training_figures(report.curves, "CoDIR student", looks)
    assert [figure.name for figure in curves] == [f"training-{number}" for number in range(4)]
    found = {trace["name"]: trace["line"]["color"] for trace in curves[-1].data}
    assert found == {name: expected[name] for name in found}
    # one colour a loss term, which no student has, and dashes for the students compared with
    students = {looks[curve.model][0] for curve in report.curves}
    lines = {trace["name"]: trace["line"] for trace in curves[0].data}
    assert not students & {line["color"] for line in lines.values()}
    task, kd = lines["task, CoDIR student"], lines["task, KD student"]
    assert task["color"] == kd["color"] != lines["crd, CoDIR student"]["color"]
    assert (task["dash"], kd["dash"]) == ("solid", "dash")


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast of two colours, from its text: (L1 + 0.05) / (L2 + 0.05)."""
    values = []
    for colour in (one, other):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        values.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(values) + 0.05) / (min(values) + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_colours_can_be_read(mode: int) -> None:
    colours = {name: pair[mode] for name, pair in COLOURS.items()}
    names = ["text", "soft", "accent", "good", "bad", "warn"]
    pairs = [(name, ground) for name in names for ground in ("paper", "card")]
    pairs += [("warn", "warn-soft"), ("text", "accent-soft"), ("soft", "accent-soft"), ("on-mark", "mark")]
    for name, ground in pairs:
        assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    for name in ("edge", *(f"s{number}" for number in range(SERIES + 1))):
        assert contrast(colours[name], colours["paper"]) >= 3, name


def test_the_ink_can_be_read_on_every_colour_of_the_scale() -> None:
    colours = [colour_at(float(part)) for part in np.linspace(0, 1, 201)]
    assert all(contrast(ink_on(colour), colour) >= 4.5 for colour in colours)
    brightness = [contrast(colour, "#000000") for colour in colours]
    assert brightness == sorted(brightness)  # from dark to light: it can be read in grey, too


def test_dots_of_all_seeds_and_the_constant_answer() -> None:
    panel = fakes.study().panels[0]
    figure = score_figure(panel, "p", page_looks(fakes.study()))
    assert figure is not None
    assert len(figure.data[0]["x"]) == sum(len(each.scores) for each in panel.models)
    assert figure.data[1]["x"] == [100 * (each.score or 0.0) for each in panel.models]
    assert 100 * (panel.constant or 0.0) in [shape["x0"] for shape in figure.layout["shapes"]]
    assert score_figure(Panel("t", "f1", [model("a", None, None)]), "p", {}) is None


def test_only_differences_that_are_shown_are_filled() -> None:
    differences = fakes.study().differences
    figure = forest_figure(differences, "mrpc", "p")
    assert figure is not None
    dots = {trace["name"]: trace for trace in figure.data if trace["mode"] == "markers"}
    rows = [item for item in differences if item.task == "mrpc"]
    shown = [100 * item.mean for item in rows if item.shown]
    assert dots["shown beyond noise"]["x"] == shown != []
    assert dots["not shown"]["marker"]["color"] == "var(--paper)"
    assert f"{len(shown)} of {len(rows)}" in figure.takeaway
    assert forest_figure(differences, "no such task", "p") is None


def test_the_most_frequent_mistake_is_named_and_a_class_without_examples_divides_by_nothing() -> None:
    figure = confusion_figure("m", ("a", "b"), np.array([[0, 0], [1, 3]]), 0)
    assert np.isfinite(figure.data[0]["z"]).all()
    assert "3 of 4 right" in figure.takeaway
    assert "of b are taken for a" in figure.takeaway
    assert figure.data[1]["text"][2:] == ["1<br>25 %", "3<br>75 %"]


def test_clouds_are_told_apart_by_shape_and_classes_by_colour() -> None:
    (figure,) = fakes.clouds(fakes.CLASSES, 150)
    for trace in figure.data:
        cloud, group = trace["meta"]
        assert trace["marker"]["symbol"] == figure.switches[0][cloud][1]
        assert trace["marker"]["color"] == figure.switches[1][group][1]
        assert trace["type"] == "scatter"
    assert sum(len(trace["x"]) for trace in figure.data) == 150 + 150 + 300
    (many,) = fakes.crowded().clouds
    assert [name for name, _ in many.switches[1]][-1] == OTHERS
    assert len(many.switches[1]) == SERIES
    assert {trace["type"] for trace in many.data} == {"scattergl"}
    embedded = json.loads(many.json())["data"][0]["x"]  # four bytes a number
    assert embedded["dtype"] == "f4"
    assert np.frombuffer(base64.b64decode(embedded["bdata"]), np.float32).tolist() == many.data[0]["x"].tolist()


def test_the_table_leaves_out_what_nobody_has_and_marks_the_best_student() -> None:
    table = model_table(fakes.full().panels[0])
    assert table["headings"][:6] == ["f1", "kept", "agrees", "ms", "speed-up", "layers"]
    assert table["headings"][6:] == ["parameters", "embedding", "on disk", "accuracy"]
    asked = replace(fakes.models()[0], requests={1: (5.0, 9.0), 32: (50.0, 700.0)})
    wide = model_table(Panel("t", "f1", [asked, fakes.models()[1]]))
    place = wide["headings"].index("one text, ms")
    cells = [line["cells"][place] for line in wide["lines"]]
    assert [(cell["text"], cell["note"]) for cell in cells] == [("5", "95 % in 9"), ("–", "")]
    panel = fakes.study().panels[0]
    study = model_table(panel)
    assert study["headings"] == ["f1", "kept"]
    best = max((each for each in panel.models if each.role != "teacher"), key=lambda each: each.score or 0.0)
    assert [line["name"] for line in study["lines"] if line["cells"][0]["best"]] == [best.name]
    assert study["lines"][1]["cells"][0]["note"] == f"± {100 * np.std(panel.models[1].scores, ddof=1):.1f}"
    odd = model_table(Panel("t", "f1", [model("a", float("nan"), None), model("b", 0.5, None)]))
    assert (odd["lines"][0]["cells"][0]["text"], odd["lines"][0]["cells"][0]["key"]) == ("–", None)


def test_an_export_or_a_stranger_is_no_trained_student() -> None:
    models = [
        model("kd", 0.7, None, role="kd"),
        model("stranger", 0.9, None, role="other"),
        model("kd (onnxruntime int8)", 0.95, None, role="kd", engine="onnxruntime"),
    ]
    found = tiles(Report("study", "study", panels=[Panel("t", "accuracy", models)]))
    assert [(tile["value"], tile["name"], tile["note"]) for tile in found] == [
        ("70.0", "best accuracy on t", "kd"),
        ("1", "trained student", "1 task"),
    ]
    assert [tile["value"] for tile in tiles(fakes.full())][1:3] == ["11.9×", "17.4\u202fM"]


@pytest.mark.parametrize("text", fakes.HOSTILE, ids=range(len(fakes.HOSTILE)))
def test_texts_end_no_script_and_are_no_markup_for_plotly(text: str) -> None:
    written = for_script({"t": [clean(text)]})
    assert not set(written) & set("<>&\u2028\u2029\x00")
    assert json.loads(written.encode("utf-8")) == {"t": [clean(text)]}
    for label in (for_plotly(text), for_hover(text).replace("<br>", "")):
        assert not set(label) & set("<>\u202e")
        label.encode("utf-8")
    assert len(shortened(text, 40)) <= 40


def test_texts_are_cut_and_broken_where_they_may_be() -> None:
    assert for_plotly("<" * 100, 40) == "&lt;" * 39 + "…"
    assert clean("a\x00b\x07\x7f\ud800\n") == "a␀b␇␡\ufffd\n"
    assert list(map(len, for_hover("word " * 60, 180, 60).split("<br>"))) == [59, 59, 60]


def test_numbers_have_few_digits() -> None:
    said = [points(0.81534), points(-0.05), points(None), points(0.012, "+.1f")]
    assert said == ["81.5", "−5.0", "–", "+1.2"]
    assert [share(0.954), size(69_568_832)] == ["95.4\u202f%", "69.6\u202fMB"]
    assert [count(17_390_594), count(6), count(1234)] == ["17.4\u202fM", "6", "1.23\u202fk"]
    assert [times(1.9998), times(11.94)] == ["2.00×", "11.9×"]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_every_figure_is_written_in_both_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    report = replace(fakes.hostile(), curves=fakes.hostile().curves[:1], clouds=[], similarities=[])
    files = write_images(report, tmp_path / "pictures")
    assert len(set(files)) == len(files) > 6
    for file in files:
        start = file.read_bytes()[:200]
        assert start.startswith(b"\x89PNG" if file.suffix == ".png" else b"<?xml")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"file.*--images"):
        write_images(report, tmp_path / "file")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"codir\[plots\]"):
        write_images(report, tmp_path)
