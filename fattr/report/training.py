"""Pictures of a training run: what the network saw, and how it learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from fattr.records import UInt8Array

GAP_PX = 2
TRAIN_COLOUR, VALID_COLOUR = "#0072b2", "#d55e00"  # told apart by most people


def crops_grid(crops: UInt8Array, path: Path) -> None:
    """Crops (rows, columns, h, w, 3) as one PNG, a white line between them."""
    rows, columns, height, width = crops.shape[:4]
    step_h, step_w = height + GAP_PX, width + GAP_PX
    page = np.full((rows * step_h - GAP_PX, columns * step_w - GAP_PX, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            y, x = row * step_h, column * step_w
            page[y : y + height, x : x + width] = crops[row, column]
    Image.fromarray(page).save(path)


def training_curves(
    history: Sequence[Mapping[str, float]], *, best_epoch: int, title: str, path: Path
) -> None:
    """Score and loss on training and validation faces, side by side, as a PNG.

    All four curves are of the averaged weights without augmentation.
    """
    figure = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _pair(left, history, ("train_score", "valid_score"), "score: mean accuracy")
    _pair(right, history, ("train_clean_loss", "valid_loss"), "log loss")
    for axes in (left, right):
        axes.axvline(best_epoch, color="0.6", linestyle=":", linewidth=1)
        axes.annotate(
            f"kept: {best_epoch}",
            (best_epoch, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-3, -4),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8,
            color="0.4",
        )
    figure.suptitle(title, fontsize=9, wrap=True)
    figure.savefig(path)


def _pair(
    axes: Axes, history: Sequence[Mapping[str, float]], names: tuple[str, str], label: str
) -> None:
    epochs = [row["epoch"] for row in history]
    for name, colour, who in zip(
        names, (TRAIN_COLOUR, VALID_COLOUR), ("training", "validation"), strict=True
    ):
        values = [row[name] for row in history]
        axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=who)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
