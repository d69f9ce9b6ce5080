"""The picture of a calibration, read back from its pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from fattr.report.calibration_plot import (
    COLORS,
    DPI,
    HEAD_INCHES,
    MAX_COLUMNS,
    calibration_png,
)

KEPT = 2  # the attribute of which nothing was fitted


def curve(share: float) -> list[dict[str, float]]:
    points = np.linspace(0.1, 0.9, 10)
    return [{"n": 80, "prob": p, "frac": 0.5 + share * (p - 0.5)} for p in points.tolist()]


def reported(count: int) -> dict[str, dict]:
    rows = {}
    for n in range(count):
        rows[f"attribute_number_{n}_with_a_long_name"] = {
            "status": "fitted",
            "reliability": {"before": curve(0.5), "after": curve(1)},
            "ece": {"before": 0.2, "after": 0.0},
            "held_out": {"reliability": curve(0.9), "ece": 0.02},
        }
    if count > KEPT:
        kept = rows[list(rows)[KEPT]]
        kept |= {"status": "no labels", "held_out": None, "ece": {"before": None, "after": None}}
        kept["reliability"] = {"before": [], "after": []}
    return rows


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def has_color(pixels: np.ndarray, color: str) -> bool:
    wanted = np.array(to_rgb(color)) * 255
    return bool((np.abs(pixels - wanted).max(axis=-1) < 3).any())


@pytest.mark.parametrize("count", [1, 3, 6, 7, 40])
def test_each_fitted_attribute_has_both_curves_in_its_panel(count):
    pixels = pixels_of(calibration_png(reported(count)))
    panels = pixels[int(HEAD_INCHES * DPI) :]
    columns = min(MAX_COLUMNS, max(4, count))
    height, width = panels.shape[0] / -(-count // columns), panels.shape[1] / columns
    seen = {color: [] for color in COLORS.values()}
    for n in range(-(-count // columns) * columns):
        top, left = (n // columns + 0.25) * height, (n % columns + 0.3) * width
        cell = panels[int(top) : int(top + height / 2), int(left) : int(left + width * 0.6)]
        for color, found in seen.items():
            found.append(has_color(cell, color))
    expected = [n < count and not (n == KEPT < count) for n in range(len(seen[COLORS["after"]]))]
    assert seen == dict.fromkeys(COLORS.values(), expected)


def test_nothing_touches_the_edges():
    pixels = pixels_of(calibration_png(reported(40)))
    for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        assert (edge == 255).all()


def test_no_attribute_is_no_error():
    assert calibration_png({}).startswith(b"\x89PNG")
