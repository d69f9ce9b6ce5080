"""The robustness picture, read back by its colours and places."""

import io

import numpy as np
import pytest
from PIL import Image

from fattr.report.robustness_plots import robustness_png

BLUE, ORANGE, GREEN, INK, WHITE = "#0072B2", "#D55E00", "#009E73", "#1c2128", "#ffffff"


def point(value, accuracy=0.9, recall=0.99, abstained=0.0, n=300, spread=0.02):
    known = accuracy is not None
    intervals = {"accuracy": [accuracy - spread, accuracy + spread]} if known else {}
    if n:
        intervals["detection_recall"] = [recall, recall]
    return {
        "value": value,
        "n": n,
        "accuracy": accuracy,
        "detection_recall": recall if n else None,
        "abstained_frac": abstained if known else None,
        "intervals": intervals,
    }


def panel(*points, as_is=0.9, is_log=False, gate=None, label="Blur"):
    found = {
        "label": label,
        "unit": "sigma",
        "reference": 0,
        "is_log": is_log,
        "as_is": {"accuracy": as_is},
        "points": list(points),
    }
    if gate:
        keys = ("min_face_px", "suggested_px", "max_drop", "min_recall")
        found["gate"] = dict(zip(keys, (*gate, 0.02, 0.95), strict=True))
    return found


def pixels_of(*panels, title="worse pictures"):
    png = robustness_png({f"c{i}": one for i, one in enumerate(panels)}, title=title)
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def near(pixels, color, tolerance=12):
    """Where (H, W) the picture has a colour."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(pixels - rgb) <= tolerance).all(axis=2)


def plot_area(pixels):
    """Without the title and the legend."""
    return pixels[60:]


def rows_of(pixels, color):
    return np.nonzero(near(plot_area(pixels), color))[0]


FLAT = (point(0), point(1), point(2))


def test_better_accuracy_is_higher_up():
    def height(accuracy):
        pixels = pixels_of(panel(*(point(v, accuracy) for v in range(3)), as_is=None))
        return rows_of(pixels, BLUE).mean()

    high, middle, low = (height(accuracy) for accuracy in (0.9, 0.6, 0.3))
    assert high + 50 < middle
    assert middle - high == pytest.approx(low - middle, abs=2)


def test_a_falling_line_falls_to_the_right():
    falling = [point(v, recall=recall) for v, recall in enumerate((0.9, 0.6, 0.3))]
    y, x = np.nonzero(near(plot_area(pixels_of(panel(*falling))), ORANGE))
    left, right = x < np.median(x), x > np.median(x)
    assert y[left].mean() + 50 < y[right].mean()


def test_each_figure_has_its_line():
    pixels = pixels_of(panel(*(point(v, 0.7, 0.9, 0.3) for v in range(3))))
    orange, blue, green = (rows_of(pixels, color).mean() for color in (ORANGE, BLUE, GREEN))
    assert orange < blue < green


def test_a_wider_interval_is_a_wider_band():
    def band(spread):
        pixels = pixels_of(panel(*(point(v, 0.5, spread=spread) for v in range(3)), as_is=None))
        return near(plot_area(pixels), "#d6e8f3", 6).sum()

    assert band(0.2) > 3 * band(0.05) > 0


def test_the_accuracy_as_it_is_is_a_dotted_line():
    def bluish(as_is):
        pixels = plot_area(pixels_of(panel(*FLAT, as_is=as_is)))
        return (pixels[:, :, 2] - pixels[:, :, 0] > 60).sum(axis=1)

    rows = np.flatnonzero(bluish(0.4) > bluish(None) + 40)
    assert 1 <= len(rows) <= 3  # one thin line, all over the panel
    assert rows[0] < np.flatnonzero(bluish(0.2) > bluish(None) + 40)[0]


def test_a_point_without_accuracy_is_a_gap():
    """Of five points the middle one is missing, with it the line on either side."""
    whole = [point(v, 0.5) for v in range(5)]
    gap = [*whole[:2], point(2, None), *whole[3:]]
    full, holed = (
        near(plot_area(pixels_of(panel(*own, as_is=None))), BLUE).any(axis=0)
        for own in (whole, gap)
    )
    left, right = np.flatnonzero(full)[[0, -1]]
    assert full[left:right].all()
    assert 0.35 < (~holed[left:right]).mean() < 0.5
    assert holed[left + 3]
    assert holed[right - 3]


def test_sizes_that_no_face_has_are_left_out():
    def orange_columns(*points):
        pixels = plot_area(pixels_of(panel(*points, is_log=True)))
        return np.flatnonzero(near(pixels, ORANGE).any(axis=0))

    both = orange_columns(point(15), point(30), point(224, None, n=0))
    np.testing.assert_array_equal(both, orange_columns(point(15), point(30)))


@pytest.mark.parametrize("is_log", [False, True])
def test_without_enough_faces_a_panel_says_so(is_log):
    nothing = panel(point(15, None, n=0), as_is=None, is_log=is_log, gate=(24, None))
    pixels = plot_area(pixels_of(nothing, panel(*FLAT)))
    left, right = pixels[:, : pixels.shape[1] // 2], pixels[:, pixels.shape[1] // 2 :]
    assert not near(left, ORANGE).any()
    assert near(right, ORANGE).any()
    middle = slice(left.shape[0] // 4, left.shape[0] // 2)
    assert near(left[middle, left.shape[1] // 3 :], "#69717c", 60).any()  # words


def test_the_gate_is_a_line_at_its_place():
    """On a logarithmic axis from 10 to 1,000, a gate of 100 is in the middle."""
    sizes = [point(v, 0.9) for v in (10, 100, 1000)]
    pixels = plot_area(pixels_of(panel(*sizes, is_log=True, gate=(100, 100))))
    dark = near(pixels, INK, 40)
    columns = np.flatnonzero(dark.sum(axis=0) > 0.5 * pixels.shape[0])
    ends = np.flatnonzero(near(pixels, ORANGE).any(axis=0))[[0, -1]]
    assert len(columns) in (1, 2, 3)
    assert columns.mean() == pytest.approx(ends.mean(), abs=3)


def test_another_suggestion_is_a_second_line_and_no_gate_is_none():
    sizes = [point(v) for v in (10, 100, 1000)]

    def lines(*gate):
        """Darker than the grid, long and upright."""
        pixels = plot_area(pixels_of(panel(*sizes, is_log=True, gate=gate)))
        grey = (pixels.max(axis=2) < 150) & (np.ptp(pixels, axis=2) < 25)
        tall = grey.sum(axis=0) > 0.3 * pixels.shape[0]
        return int((np.diff(tall.astype(int)) == 1).sum())

    assert lines(24, 48) == 2
    assert lines(24, 24) == lines(24, None) == lines(0, 48) == 1
    assert lines(0, None) == 0


def test_panels_stand_in_rows_of_four():
    one, four, five = (pixels_of(*[panel(*FLAT)] * n) for n in (1, 4, 5))
    assert four.shape[1] > one.shape[1]
    assert five.shape[1] == four.shape[1]
    assert five.shape[0] > 1.7 * four.shape[0]
    lower_right = five[five.shape[0] * 6 // 10 :, five.shape[1] // 2 :]
    assert near(lower_right, WHITE, 2).all()  # three empty places


def test_a_long_title_has_room_beside_the_legend():
    short, long = (
        pixels_of(panel(*FLAT), title=title)
        for title in ("x", "celeba40 on celeba, test: worse pictures")
    )
    assert long.shape[1] > short.shape[1]
    letters, marks = (
        np.flatnonzero(near(long[:45], color, 60).any(axis=0)) for color in (INK, BLUE)
    )
    assert letters[letters < marks[0]].max() + 10 < marks[0]
