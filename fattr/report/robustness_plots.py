"""The picture of what worse pictures do to the labels, as PNG bytes: a panel a corruption, no face.

Lines differ in marker as well as in colour (Okabe and Ito's).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from fattr.report.data_plots import (
    FAINT,
    INK,
    legend_above,
    plain_axes,
    png_bytes,
    titled_figure,
)

TITLE = "What worse pictures do to the labels"
NUM_COLUMNS = 4
PANEL_WH = (3.0, 2.75)  # inches
MAX_TICKS = 7
STYLES = {  # figure of a point -> name, colour, marker, line
    "accuracy": ("accuracy of faces found", "#0072B2", "o", "-"),
    "detection_recall": ("share of faces found", "#D55E00", "s", "-"),
    "abstained_frac": ("share without a label", "#009E73", "^", "--"),
}


def robustness_png(robustness: Mapping[str, Mapping[str, Any]], *, title: str = TITLE) -> bytes:
    """Accuracy, faces found and abstention against how much worse the pictures were made.

    ``robustness`` is that of metrics.json, one or more corruptions. Bands are 95 % intervals; a
    dotted line is the accuracy of the pictures as they are. Where too few faces were found, the
    accuracy has a gap; a value that too few faces have is left out. The size gate is marked in the
    panel that has one.
    """
    columns = min(NUM_COLUMNS, len(robustness))
    rows = math.ceil(len(robustness) / columns)
    width = max(PANEL_WH[0] * columns, 0.11 * len(title) + 6)  # the legend stands beside it
    figure = titled_figure(width, PANEL_WH[1] * rows + 0.5, title)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    panels = grid.ravel()
    for axes, one in zip(panels, robustness.values(), strict=False):
        _panel(axes, one)
    for axes in panels[len(robustness) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("%", color=FAINT)
    legend_above(figure, panels[0])
    return png_bytes(figure)


def _panel(axes: Axes, one: Mapping[str, Any]) -> None:
    points = [point for point in one["points"] if point["detection_recall"] is not None]
    for figure in STYLES:
        _line(axes, points, figure)
    if not points:
        axes.text(0.5, 0.5, "too few faces", transform=axes.transAxes, ha="center", color=FAINT)
    if (as_is := one["as_is"]["accuracy"]) is not None:
        axes.axhline(100 * as_is, color=STYLES["accuracy"][1], linewidth=1, linestyle=":")
    if one["is_log"]:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    ticks = _ticks([point["value"] for point in points])
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
    plain_axes(axes, grid="y")
    if "gate" in one:
        _mark_gate(axes, one["gate"])
    axes.set_title(one["label"], loc="left", fontsize=10, color=INK)
    axes.set_xlabel(one["unit"], color=FAINT, fontsize=9)


def _line(axes: Axes, points: Sequence[Mapping[str, Any]], figure: str) -> None:
    """One figure in per cent with its interval, if it has one; a gap where it is undefined."""
    name, color, marker, line = STYLES[figure]
    values = [point["value"] for point in points]
    shares = np.array([point[figure] for point in points], np.float64)  # None is NaN
    ends = [point["intervals"].get(figure, (np.nan, np.nan)) for point in points]
    low, high = 100 * np.array(ends, np.float64).reshape(-1, 2).T
    axes.fill_between(values, low, high, color=color, alpha=0.16, linewidth=0)
    style: dict[str, Any] = {"color": color, "marker": marker, "linestyle": line, "label": name}
    axes.plot(values, 100 * shares, markersize=4, linewidth=1.6, **style)


def _ticks(values: Sequence[float]) -> list[float]:
    """All values, or every other one where they are many; the last is always there."""
    step = max(1, math.ceil(len(values) / MAX_TICKS))
    return list(values[::-1][::step])[::-1]


def _mark_gate(axes: Axes, gate: Mapping[str, Any]) -> None:
    """The size below which labels are null, and the one suggested where it is another."""
    marks = {
        gate["suggested_px"]: ("suggested", FAINT, "--"),
        gate["min_face_px"]: ("gate", INK, "-"),
    }
    sizes = sorted(size for size in marks if size)  # 0 is no gate, None no suggestion
    for size_px in sizes:
        words, color, line = marks[size_px]
        axes.axvline(size_px, color=color, linewidth=1, linestyle=line)
        is_left = size_px == sizes[0]
        axes.annotate(
            f"{words} {size_px:g}",
            (size_px, 0.4),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if is_left else 4, 0),
            textcoords="offset points",
            ha="right" if is_left else "left",
            fontsize=8,
            color=color,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
