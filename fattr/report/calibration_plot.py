"""Reliability diagrams before and after a calibration, as PNG bytes. They show figures, no face."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

MAX_COLUMNS, MIN_COLUMNS = 6, 4  # fewer columns leave the title no room
PANEL_INCHES = 1.75
HEAD_INCHES = 0.9
MAX_NAME = 25  # characters
DPI = 120
INK, FAINT, LINE = "#1c2128", "#69717c", "#e4e7eb"
COLORS = {"before": "#8a929d", "after": "#0072B2"}
MARKERS = {"before": "s", "after": "o"}
TITLE = "Do probabilities come true? On the diagonal they do."
NOTE = "A point: a tenth of the faces. After: each face by a calibration fitted without it."


def calibration_png(rows: Mapping[str, Mapping[str, Any]]) -> bytes:
    """A panel an attribute: share that came true against promised probability, in tenths of faces.

    ``rows`` maps each attribute to what ``recalibrate`` reports of it. What is after is that of
    held-out faces: on its own, an isotonic fit always looks perfect.
    """
    columns = min(MAX_COLUMNS, max(MIN_COLUMNS, len(rows)))
    height = math.ceil(max(1, len(rows)) / columns)
    figure = Figure(
        figsize=(columns * PANEL_INCHES, height * (PANEL_INCHES + 0.2) + HEAD_INCHES),
        dpi=DPI,
        facecolor="white",
    )
    top = 1 - HEAD_INCHES / figure.get_figheight()
    figure.set_layout_engine(
        ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05, rect=(0, 0, 1, top))  # below the head
    )
    panels = figure.subplots(height, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    for axes, (name, row) in zip(panels, rows.items(), strict=False):
        _panel(axes, name, row)
    for axes in panels[max(0, len(rows) - columns) : len(rows)]:  # nothing is below these
        axes.tick_params(labelbottom=True)
    figure.supxlabel("Probability", fontsize=8.5, color=FAINT)
    figure.supylabel("Share that came true", y=top / 2, fontsize=8.5, color=FAINT)
    _head(figure, panels[0])
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _head(figure: Figure, first: Axes) -> None:
    """Title, note and legend, each on a line of its own."""
    inch = 1 / figure.get_figheight()
    left = 0.1 / figure.get_figwidth()
    figure.text(left, 1 - 0.12 * inch, TITLE, va="top", fontsize=12, color=INK)
    figure.text(left, 1 - 0.38 * inch, NOTE, va="top", fontsize=8.5, color=FAINT)
    figure.legend(
        *first.get_legend_handles_labels(),
        loc="upper left",
        bbox_to_anchor=(0, 1 - 0.55 * inch),
        ncols=3,
        frameon=False,
        fontsize=8.5,
    )


def _panel(axes: Axes, name: str, row: Mapping[str, Any]) -> None:
    held_out: Mapping[str, Any] = row["held_out"] or {}
    curves = {"before": row["reliability"]["before"], "after": held_out.get("reliability", ())}
    axes.plot([0, 1], [0, 1], color="#c4cad2", linewidth=1, label="perfect")
    for when, points in curves.items():
        axes.plot(
            [p["prob"] for p in points],
            [p["frac"] for p in points],
            color=COLORS[when],
            marker=MARKERS[when],
            markersize=3,
            linewidth=1,
            label=when,
        )
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.set_xticklabels(["0", "0.5", "1"])
    axes.set_yticklabels(["0", "0.5", "1"])
    axes.set_aspect("equal")
    axes.tick_params(length=0, labelsize=7, labelcolor=FAINT)
    for spine in axes.spines.values():
        spine.set_color(LINE)
    errors = [row["ece"]["before"], held_out.get("ece")]
    said = " to ".join("-" if error is None else f"{error:.3f}" for error in errors)
    second = f"ECE {said}" if held_out else f"kept: {row['status']}"
    axes.set_title(f"{_fitting(name)}\n{second}", fontsize=7.5, color=INK, loc="left")


def _fitting(name: str) -> str:
    """An attribute's name, cut to what a panel is wide."""
    words = name.replace("_", " ")
    return words if len(words) <= MAX_NAME else words[: MAX_NAME - 1].rstrip() + "\u2026"
