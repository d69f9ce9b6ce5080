"""Charts: where marks stand, read back from the drawing."""

import re

import pytest
from report.evaluation.page_tree import parse

from fattr.report.evaluation.plots import (
    Frame,
    coverage_plot,
    curves_plot,
    interval_bar,
    legend,
    reliability_plot,
)

BINS = [{"n": 5, "prob": 0.1, "frac": 0.0}, {"n": 5, "prob": 0.6, "frac": 0.5}]
BINS.append({"n": 5, "prob": 0.9, "frac": 1.0})


def drawn(chart):
    return parse(chart)


def points(element, frame):
    """Data of a polyline, by inverting the frame."""
    found = []
    for x, y in re.findall(r"([\d.-]+),([\d.-]+)", element.attributes["points"]):
        across = (float(x) - frame.left) / (frame.width - frame.left - frame.right)
        up = (frame.height - frame.bottom - float(y)) / (frame.height - frame.top - frame.bottom)
        spans = [(frame.x, across), (frame.y, up)]
        found.append(tuple(low + share * (high - low) for (low, high), share in spans))
    return found


def lines(chart, style):
    return [e for e in drawn(chart).all("polyline") if e.attributes["class"] == style]


def test_reliability_stands_where_its_bins_are():
    chart = reliability_plot(BINS, "smiling")
    frame = Frame((0, 1), (0, 1))
    (line,) = lines(chart, "s0")
    wanted = [value for one in BINS for value in (one["prob"], one["frac"])]
    found = [value for point in points(line, frame) for value in point]
    assert found == pytest.approx(wanted, abs=1e-3)
    (ideal,) = lines(chart, "ideal")
    assert points(ideal, frame)[0] == pytest.approx((0, 0), abs=1e-3)
    assert points(ideal, frame)[1] == pytest.approx((1, 1), abs=1e-3)
    assert len(drawn(chart).all("circle")) == 3
    label = drawn(chart).all("svg")[0].attributes["aria-label"]
    assert label.startswith("Reliability of smiling: 0.10 said, 0.00 right; 0.60 said, 0.50 right")


@pytest.mark.parametrize(
    ("value", "ends", "limits", "wanted"),
    [
        pytest.param(0.5, [0.25, 0.75], (0, 1), (0.5, 0.25, 0.75), id="inside"),
        pytest.param(0.75, [0.4, 0.9], (0.5, 1), (0.5, 0, 0.8), id="cut-off-below"),
        pytest.param(0.2, [0.1, 0.3], (0.5, 1), (0, 0, None), id="all-below"),
    ],
)
def test_an_interval_bar_spans_its_interval(value, ends, limits, wanted):
    bar = drawn(interval_bar(value, ends, limits=limits))
    width = float(bar.all("svg")[0].attributes["width"])
    paths = {e.attributes["class"]: e.attributes["d"] for e in bar.all("path")}

    def share(number):
        return (float(number) - 2) / (width - 4)

    at, low, high = wanted
    assert share(re.match(r"M([\d.]+)", paths["at"])[1]) == pytest.approx(at, abs=1e-2)
    ends_px = re.match(r"M([\d.]+) [\d.]+H([\d.]+)", paths["ci"])
    assert share(ends_px[1]) == pytest.approx(low, abs=1e-2)
    if high is not None:
        assert share(ends_px[2]) == pytest.approx(high, abs=1e-2)
    assert bar.all("svg")[0].attributes["aria-hidden"] == "true"


@pytest.mark.parametrize(("value", "ends"), [(None, [0, 1]), (0.5, None)])
def test_without_a_figure_or_an_interval_there_is_no_bar(value, ends):
    assert interval_bar(value, ends) == ""


def test_the_coverage_curve_rises_to_the_left_and_is_ringed_at_the_bands():
    curve = [{"coverage": 1 - i / 10, "accuracy": 0.85 + i / 50} for i in range(6)]
    chart = coverage_plot(curve, "bald", {"coverage": 0.7, "accuracy": 0.91})
    frame = Frame((0.5, 1), (0.8, 1))
    (line,) = lines(chart, "s0")
    found = sorted(points(line, frame), reverse=True)
    assert [x for x, _ in found] == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5], abs=1e-3)
    assert [y for _, y in found] == pytest.approx([p["accuracy"] for p in curve], abs=2e-3)
    ring = drawn(chart).one("circle", **{"class": "ring"}).attributes
    assert float(ring["cx"]) == pytest.approx(frame.px(0.7), abs=0.1)
    assert float(ring["cy"]) == pytest.approx(frame.py(0.91), abs=0.1)
    assert {e.text for e in drawn(chart).all("text")} >= {"50 %", "100 %", "0.8", "0.9", "1"}


def test_an_empty_curve_is_no_chart():
    assert coverage_plot([], "bald") == ""
    assert coverage_plot([{"coverage": 1.0, "accuracy": None}], "bald") == ""


def test_curves_are_cut_where_there_is_no_figure():
    series = {"accuracy": [None, 0.8, 0.9, None, 0.95], "abstained_frac": [0.3, 0.2, 0.1, 0.1, 0]}
    chart = curves_plot([15, 20, 24, 32, 48], series, "face size", "px")
    frame = Frame((0, 4), (0, 1), width=300)
    accuracy = [points(line, frame) for line in lines(chart, "s0")]
    assert [len(run) for run in accuracy] == [2, 1]
    assert accuracy[0][1] == pytest.approx((2, 0.9), abs=1e-2)
    (abstained,) = lines(chart, "s1")
    assert [y for _, y in points(abstained, frame)] == pytest.approx(
        series["abstained_frac"], abs=1e-2
    )
    label = drawn(chart).all("svg")[0].attributes["aria-label"]
    assert label == (
        "face size from 15 to 48 px: accuracy from 0.800 to 0.950; abstained from 0.300 to 0.000"
    )


def test_the_legend_names_each_line_by_its_style():
    items = parse(legend(["accuracy", "faces found"])).all("li")
    assert [item.text.strip() for item in items] == ["accuracy", "faces found"]
    styles = [item.all("path")[0].attributes["class"] for item in items]
    assert len(set(styles)) == 2


def test_names_are_text():
    chart = reliability_plot(BINS, '"><script>')
    assert not drawn(chart).all("script")
    assert (
        drawn(chart).all("svg")[0].attributes["aria-label"].startswith('Reliability of "><script>')
    )
