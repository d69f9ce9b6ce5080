"""The picture of a search: the score of each trial over each setting."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Point = tuple[bool | int | float | str, float, str]  # setting, score, state of the trial

COLUMNS = 3
ROOM_FOR_WORDS = 35  # letters side by side below a panel
COLOURS = {"finished": "#0072b2", "stopped": "#999999", "running": "#e69f00", "failed": "#d55e00"}


def search_picture(
    points: Mapping[str, Sequence[Point]], *, logarithmic: Collection[str], score: str
) -> bytes:
    """A PNG with one panel a setting: what was tried, and the best score of each trial.

    Args:
        points: Of each setting: value, score and state, one a trial, in one order.
        logarithmic: Settings whose axis is.
        score: What the score is called.
    """
    rows = math.ceil(len(points) / COLUMNS)
    columns = min(COLUMNS, len(points))
    figure = Figure(figsize=(1 + 3.6 * columns, 0.6 + 3 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for number, axes in enumerate(panels.flat):
        if number >= len(points):
            axes.set_axis_off()
            continue
        name = list(points)[number]
        _panel(axes, points[name], is_log=name in logarithmic)
        axes.set_xlabel(name)
        if number % columns == 0:
            axes.set_ylabel(score)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
    png = io.BytesIO()
    figure.savefig(png)
    return png.getvalue()


def _panel(axes: Axes, points: Sequence[Point], *, is_log: bool) -> None:
    """One setting; its words, if it has any, stand at whole numbers."""
    words = sorted({str(x) for x, _, _ in points if isinstance(x, bool | str)})
    places = {word: place for place, word in enumerate(words)}
    for state, colour in COLOURS.items():
        of_state = [(x, y) for x, y, its in points if its == state]
        if of_state:
            xs = [places[str(x)] if words else x for x, _ in of_state]
            axes.scatter(xs, [y for _, y in of_state], s=28, color=colour, alpha=0.8, label=state)
    if words:
        axes.set_xticks(range(len(words)), words)
        axes.tick_params(axis="x", rotation=20 if sum(map(len, words)) > ROOM_FOR_WORDS else 0)
        axes.set_xlim(-0.5, len(words) - 0.5)
    if is_log:
        axes.set_xscale("log")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
