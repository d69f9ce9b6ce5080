"""The picture of a search is read back as pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from fattr.report.tuning import search_picture

FINISHED, RUNNING = (0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)
LEGEND_PX = 45  # at the top


def pixels(points, logarithmic=()):
    return np.asarray(
        Image.open(
            io.BytesIO(search_picture(points, logarithmic=logarithmic, score="valid score"))
        ).convert("RGB")
    ).astype(int)


def near(picture, colour):
    """Where a colour, drawn a little transparent on white, is."""
    seen = 0.8 * np.array(colour) + 0.2 * 255
    return np.abs(picture - seen).max(axis=2) < 6


def test_each_trial_is_a_dot_in_each_panel():
    states = ["finished", "running", "running"]
    points = {
        name: [(x, y, s) for x, y, s in zip(xs, (0.9, 0.5, 0.1), states, strict=True)]
        for name, xs in {
            "learning_rate": (1e-4, 1e-2, 1.0),
            "binary": ("bce", "focal", "bce"),
            "epochs": (1, 2, 3),
            "dropout": (0.1, 0.2, 0.3),
        }.items()
    }
    picture = pixels(points, {"learning_rate"})
    one = pixels({"dropout": points["dropout"]})
    assert near(one, FINISHED).any()
    assert near(picture, FINISHED).sum() > 3 * near(one, FINISHED).sum() / 2
    assert near(picture, RUNNING).any()


@pytest.mark.parametrize("is_log", [False, True])
def test_a_logarithmic_axis_spreads_decades_evenly(is_log):
    points = {
        "learning_rate": [(1e-4, 0.1, "finished"), (1e-2, 0.5, "running"), (1.0, 0.9, "finished")]
    }
    picture = pixels(points, {"learning_rate"} if is_log else ())
    below = picture[LEGEND_PX:]
    columns = np.flatnonzero(near(below, FINISHED).any(axis=0))
    middle = np.flatnonzero(near(below, RUNNING).any(axis=0)).mean()
    share = (middle - columns.min()) / (columns.max() - columns.min())
    assert share == pytest.approx(0.5 if is_log else 0.03, abs=0.05)
