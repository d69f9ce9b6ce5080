"""The pictures of a data card, as PNG bytes. They show figures, never a face.

Colours are Okabe and Ito's, viridis and RdBu: all can be told apart by colour-blind readers, and
splits differ in marker too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

SPLIT_COLORS = {"train": "#0072B2", "valid": "#D55E00", "test": "#009E73"}
SPLIT_MARKERS = {"train": "o", "valid": "s", "test": "^"}
INK, FAINT, GRID, THIN = "#1c2128", "#69717c", "#e4e7eb", "#b02a30"
DPI = 130
NUM_BINS = 40

FACT_TITLES = {
    "brightness": ("Brightness", "mean luma, 0 to 255"),
    "contrast": ("Contrast", "standard deviation of luma"),
    "sharpness": ("Sharpness", "variance of the Laplacian; low is blurred"),
}


def words(name: str) -> str:
    """A column's name as people read it."""
    return name.replace("_", " ")


# Pieces that other pictures share


def titled_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure, sides in inches, its title at the top left."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    return figure


def png_bytes(figure: Figure) -> bytes:
    """The picture as a file."""
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def plain_axes(axes: Axes, *, grid: Literal["x", "y", "both"] | None = None) -> None:
    """Thin grey axes; grid lines along one axis at most."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(GRID)
    axes.tick_params(which="both", colors=FAINT, labelcolor=INK, labelsize=9, length=0)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)


def legend_above(figure: Figure, axes: Axes) -> None:
    """What the lines of ``axes`` are, at the top right of the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="upper right", ncols=3, frameon=False, fontsize=9, labelcolor=INK
    )


# Labels


def shares_plot(panels: Mapping[str, Mapping[str, Mapping[str, Any]]], *, title: str) -> bytes:
    """Dots with 95 % intervals, one row a class, a colour a split.

    ``panels`` maps a panel's heading to rows, top first; a row maps splits to what
    ``metrics.labels.prevalence`` says of a class. A split that labels none has no dot.
    """
    num_rows = [len(rows) for rows in panels.values()]
    figure = titled_figure(8.5, 1.3 + 0.25 * sum(num_rows) + 0.5 * len(panels), title)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=num_rows)
    for axes, (heading, rows) in zip(grid[:, 0], panels.items(), strict=True):
        _share_rows(axes, rows)
        axes.set_title(heading, loc="left", fontsize=10, color=INK)
    grid[-1, 0].set_xlabel("share of labelled images, %; bars: 95 % Wilson interval", color=FAINT)
    legend_above(figure, grid[0, 0])
    return png_bytes(figure)


def _share_rows(axes: Axes, rows: Mapping[str, Mapping[str, Any]]) -> None:
    splits = list(next(iter(rows.values())))
    for k, split in enumerate(splits):
        known = [
            (i, row[split])
            for i, row in enumerate(rows.values())
            if row[split]["share"] is not None
        ]
        shares = 100 * np.array([one["share"] for _, one in known])
        ends = 100 * np.array([[one["low"], one["high"]] for _, one in known]).reshape(-1, 2)
        axes.errorbar(
            shares,
            [i + 0.24 * (k - (len(splits) - 1) / 2) for i, _ in known],
            xerr=np.abs(ends.T - shares).reshape(2, -1),
            fmt=SPLIT_MARKERS[split],
            color=SPLIT_COLORS[split],
            markersize=4,
            elinewidth=1.2,
            label=split,
        )
    axes.set_yticks(range(len(rows)), [words(name) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    plain_axes(axes, grid="both")


def phi_plot(names: Sequence[str], phi: NDArray[np.float64]) -> bytes:
    """A heat map of phi (A, A), its lower half; undefined pairs are grey."""
    n = len(names)
    side = 3.0 + 0.21 * n
    figure = titled_figure(
        side + 0.6, side - 0.4, "Which labels go together: phi coefficient, all splits"
    )
    axes = figure.subplots()
    shown = np.ma.masked_array(phi, np.triu(np.ones_like(phi, bool)))
    axes.imshow(np.where(np.tri(n, k=-1, dtype=bool), 0.0, np.nan), cmap="Greys", vmin=-1, vmax=3)
    picture = axes.imshow(np.ma.masked_invalid(shown), cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(n - 1), [words(name) for name in names[:-1]], rotation=90)
    axes.set_yticks(range(1, n), [words(name) for name in names[1:]])
    axes.set_xlim(-0.5, n - 1.5)
    axes.set_ylim(n - 0.5, 0.5)
    plain_axes(axes)
    bar = figure.colorbar(picture, ax=axes, shrink=0.5, aspect=30, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=INK)
    bar.set_label("phi; grey: undefined", color=FAINT, fontsize=9)
    bar.outline.set_visible(False)
    return png_bytes(figure)


# Files


def facts_plot(facts: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> bytes:
    """Histograms: a row a split, a column each of brightness, contrast and sharpness."""
    height = 1.4 + 1.6 * len(facts)
    figure = titled_figure(10, height, "How the pictures look, scaled to a long side of 128 pixels")
    grid = figure.subplots(len(facts), len(FACT_TITLES), squeeze=False, sharex="col", sharey="col")
    for column, (fact, (heading, unit)) in enumerate(FACT_TITLES.items()):
        edges = _edges(np.concatenate([own[fact] for own in facts.values()]), fact == "sharpness")
        for axes, (split, own) in zip(grid[:, column], facts.items(), strict=True):
            _histogram(axes, own[fact], edges, SPLIT_COLORS[split])
            axes.set_ylabel(f"{split}, % of images" if column == 0 else "", color=FAINT)
            if fact == "sharpness":
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
        grid[0, column].set_title(heading, loc="left", fontsize=10, color=INK)
        grid[-1, column].set_xlabel(unit, color=FAINT)
    return png_bytes(figure)


def _edges(values: NDArray[np.float64], is_log: bool) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    if is_log:
        low = max(low, 0.1)
        return np.geomspace(low, max(high, 2 * low), NUM_BINS + 1)
    return np.linspace(low, max(high, low + 1), NUM_BINS + 1)


def _histogram(
    axes: Axes, values: NDArray[np.float64], edges: NDArray[np.float64], color: str
) -> None:
    inside = np.clip(values, edges[0], edges[-1])
    counts, _ = np.histogram(inside, edges)
    axes.stairs(100 * counts / len(values), edges, fill=True, color=color, alpha=0.75)
    median = float(np.median(values))
    axes.axvline(max(median, edges[0]), color=INK, linewidth=1)
    axes.text(
        0.98,
        0.93,
        f"median {median:.4g}",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=8,
        color=INK,
    )
    plain_axes(axes, grid="y")


def sizes_plot(sizes: Mapping[str, Mapping[tuple[int, int], int]]) -> bytes:
    """Widths and heights, a dot a size, its area by how many images have it.

    ``sizes`` maps splits to counts by (width, height).
    """
    figure = titled_figure(7, 6.2, "Image sizes; area: images of a size")
    axes = figure.subplots()
    most = max(count for own in sizes.values() for count in own.values())
    for split, own in sizes.items():
        width, height = np.array(list(own)).T
        area = 8 + 300 * np.array(list(own.values())) / most
        style: dict[str, Any] = {"color": SPLIT_COLORS[split], "marker": SPLIT_MARKERS[split]}
        axes.scatter(width, height, s=area, alpha=0.5, linewidths=0, **style)
        axes.scatter([], [], s=30, label=split, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.4)))  # none if crowded
    axes.set_xlabel("width, pixels", color=FAINT)
    axes.set_ylabel("height, pixels", color=FAINT)
    plain_axes(axes, grid="both")
    legend_above(figure, axes)
    return png_bytes(figure)


# Coverage


def coverage_plot(
    counts: Mapping[str, NDArray[np.int64]], values: Mapping[str, Sequence[str]], *, thin_below: int
) -> bytes:
    """Images in each combination of one to three columns; a row of heat maps a split.

    ``counts`` has one axis a column of ``values``: of three, the first is a heat map each, the
    others its rows and columns. Cells below ``thin_below`` are hatched, their figures bold and red.
    """
    panels, rows, columns = [("",)] * (3 - len(values)) + [tuple(own) for own in values.values()]
    title = f"Images by {', '.join(map(words, values))}; hatched: fewer than {thin_below}"
    width = 1.8 + len(panels) * (0.5 + 0.46 * len(columns))
    figure = titled_figure(
        max(width, 0.12 * len(title)), 1.5 + len(counts) * (0.7 + 0.29 * len(rows)), title
    )
    grid = figure.subplots(len(counts), len(panels), squeeze=False, sharex=True, sharey=True)
    most = max(int(own.max()) for own in counts.values())
    for line, (split, own) in zip(grid, counts.items(), strict=True):
        cells = own.reshape(len(panels), len(rows), len(columns))
        for axes, panel, shown in zip(line, panels, cells, strict=True):
            _heat_map(axes, shown, most, thin_below)
            heading = f"{split}, {panel}" if panel else split
            axes.set_title(heading, loc="left", fontsize=10, color=INK)
            axes.set_xticks(range(len(columns)), columns, **_tilt(columns))
            axes.set_yticks(range(len(rows)), rows)
    names = [words(name) for name in values]
    figure.supxlabel(names[-1], fontsize=10, color=FAINT)
    if len(names) > 1:
        figure.supylabel(names[-2], fontsize=10, color=FAINT)
    return png_bytes(figure)


def _heat_map(axes: Axes, counts: NDArray[np.int64], most: int, thin_below: int) -> None:
    """Counts in blues, thin ones hatched on white, each with its figure."""
    low, high = 0.7 * thin_below, max(most, 2 * thin_below)  # so that no full cell is white
    shown = np.ma.masked_less(counts, thin_below)
    axes.imshow(shown, cmap="Blues", norm=LogNorm(low, high), aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        style: dict[str, Any] = {"color": "white" if count > math.sqrt(low * high) else INK}
        if count < thin_below:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", ec=GRID, lw=0))
            style = {"color": THIN, "fontweight": "bold"}
        axes.text(column, row, str(count), ha="center", va="center", fontsize=8, **style)
    plain_axes(axes)


def _tilt(labels: Sequence[str]) -> dict[str, Any]:
    """Long labels below an axis lean, so as not to run into each other."""
    is_long = max(len(label) for label in labels) > 6
    return {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
