"""The card's text from known figures; its pictures by what can be seen in them."""

import copy
import io
import re

import numpy as np
import pytest
from PIL import Image

from fattr.datasets.check import CONFLICT, LABEL, LEAK, LISTED_TWICE
from fattr.records import Status
from fattr.report.data_card import PROBLEMS, data_card
from fattr.report.data_plots import coverage_plot, facts_plot, phi_plot, shares_plot, sizes_plot
from fattr.report.markdown import table


def share(count, n):
    return {"count": count, "share": count / n, "low": count / n - 0.01, "high": count / n + 0.01}


UNKNOWN = {"count": 0, "share": None, "low": None, "high": None}
QUANTILES = {"p05": 1.0, "p25": 2.0, "p50": 3.25, "p75": 4.0, "p95": 5.0}
DATA = {
    "data": "drawn",
    "licence": "for tests",
    "research_only": False,
    "command": "fattr describe-data --data drawn:DIR --output DIR",
    "made": "2026-11-24",
    "splits": {
        "train": {"images": 100, "status": {"ok": 100}, "copies": 2, "size_bytes": 1_500_000},
        "test": {
            "images": 50,
            "status": {"ok": 47, "missing": 2, "unreadable": 1},
            "copies": 0,
            "size_bytes": 0,
        },
    },
    "absent_splits": {"valid": "no label file"},
    "problems": [],
    "attributes": {
        "smiling": {
            "kind": "binary",
            "sensitive": False,
            "splits": {
                "train": {"n": 90, "missing": 10, "classes": {"true": share(45, 90)}},
                "test": {"n": 0, "missing": 50, "classes": {"true": UNKNOWN}},
            },
        },
        "age": {
            "kind": "age",
            "sensitive": True,
            "splits": {
                "train": {
                    "n": 100,
                    "missing": 0,
                    "classes": {"0-2": share(25, 100), "3-9": share(75, 100)},
                },
                "test": {
                    "n": 50,
                    "missing": 0,
                    "classes": {"0-2": share(5, 50), "3-9": share(45, 50)},
                },
            },
        },
    },
    "phi": {
        "labels": ["smiling", "bald", "hat"],
        "values": [[1.0, 0.1, -0.9], [0.1, 1.0, None], [-0.9, None, 1.0]],
    },
    "coverage": {
        "columns": {"head": ["hat", "hair"], "age": ["0-2", "3-9"]},
        "left_out": ["photo_id"],
        "thin_below": 30,
        "splits": {"train": [[30, 29], [41, 0]], "test": [[1, 2], [3, 4]]},
    },
    "facts": {"train": dict.fromkeys(("width", "brightness"), QUANTILES)},
    "sizes": {
        "train": {"distinct": 4, "most_frequent": [{"width": 9, "height": 8, "images": 60}]},
    },
}


def changed(**parts):
    return copy.deepcopy(DATA) | parts


def section(card: str, title: str) -> str:
    return card.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_splits_statuses_and_absent_splits_are_told():
    images = section(data_card(DATA, []), "Images")
    assert "| train | 100 | 100 | 0 | 2 | 1.5 |" in images
    assert "| test | 50 | 47 | 2 missing, 1 unreadable | 0 | 0.0 |" in images
    assert "No split valid: no label file" in images


@pytest.mark.parametrize(("research_only", "shown"), [(True, True), (False, False)])
def test_licence_and_its_restriction_come_first(research_only, shown):
    card = data_card(changed(research_only=research_only), [])
    head = card.split("## Images")[0]
    assert "for tests" in head
    assert ("**Research only.**" in head) is shown


def test_labels_have_shares_with_intervals_and_missing_ones_are_counted():
    labels = section(data_card(DATA, []), "Labels")
    assert "| smiling | 10 | 50 |" in labels
    assert "| age |" not in labels  # none of its labels is missing
    assert "| `smiling` | 50.0 (49.0-51.0) | - |" in labels
    assert "| `age` = 3-9 | 75.0 (74.0-76.0) | 90.0 (89.0-91.0) |" in labels
    assert "Sensitive: `age`." in labels


def test_where_no_label_is_missing_that_is_said():
    attributes = {"age": DATA["attributes"]["age"]}
    card = data_card(changed(attributes=attributes), [])
    assert "Attributes: 1; no label is missing." in card


def test_pairs_come_by_the_strength_of_their_relation():
    pairs = re.findall(r"^\| (\w+, \w+) \| ([+-]\S+) \|$", data_card(DATA, []), re.MULTILINE)
    assert pairs == [("smiling, hat", "-0.90"), ("smiling, bald", "+0.10")]
    nothing = {"labels": [], "values": []}
    assert "go together" not in data_card(changed(phi=nothing), [])


def test_thin_cells_are_bold_and_counted():
    coverage = section(data_card(DATA, []), "Coverage")
    assert "fewer than 30 images" in coverage
    assert "train: 2 of 4 cells are thin, 1 empty." in coverage
    assert "| head by age | 0-2 | 3-9 | all |" in coverage
    assert "| hat | 30 | **29** | 59 |" in coverage
    assert "| hair | 41 | **0** | 41 |" in coverage
    assert "test: 4 of 4 cells are thin, 0 empty." in coverage
    assert "| hair | **3** | **4** | **7** |" in coverage
    assert "Without photo id." in coverage


def test_three_columns_are_crossed_row_by_row():
    coverage = {
        "columns": {"head": ["hat", "hair"], "race": ["a", "b"], "age": ["0-2"]},
        "left_out": [],
        "thin_below": 3,
        "splits": {"train": [[[5], [1]], [[7], [8]]]},
    }
    text = section(data_card(changed(coverage=coverage), []), "Coverage")
    assert "| head, race by age | 0-2 | all |" in text
    assert "| hat, b | **1** | **1** |\n| hair, a | 7 | 7 |" in text
    assert "Without" not in text


def test_one_column_is_one_row():
    coverage = DATA["coverage"] | {
        "columns": {"head": ["hat", "hair"]},
        "splits": {"train": [40, 2]},
    }
    text = section(data_card(changed(coverage=coverage), []), "Coverage")
    assert "| head | hat | hair | all |" in text
    assert "| images | 40 | **2** | 42 |" in text


def test_without_columns_there_is_no_coverage():
    assert "## Coverage" not in data_card(changed(coverage={"columns": {}, "thin_below": 30}), [])


def test_problems_are_gathered_by_kind_and_cut_short():
    found = [{"kind": "missing", "text": f"{i}.jpg of train: gone"} for i in range(30)]
    found[3:3] = [{"kind": "unreadable", "text": "x.jpg of test: damaged"}]
    problems = section(data_card(changed(problems=found), []), "Problems")
    assert problems.count("Images that are missing: 30") == 1
    assert "- 24.jpg of train: gone\n- and 5 more, in `data.json`" in problems
    assert "Images that cannot be decoded: 1\n\n- x.jpg of test: damaged" in problems
    assert "and 0 more" not in problems


def test_every_kind_of_problem_has_a_heading():
    statuses = {Status.MISSING, Status.DENIED, Status.UNREADABLE, Status.TOO_LARGE}
    assert set(PROBLEMS) == {LABEL, LISTED_TWICE, CONFLICT, LEAK, *statuses}


def test_no_problem_is_said_to_be_none():
    assert section(data_card(DATA, []), "Problems").startswith("\nNone: every image is there")


def test_pictures_are_linked_where_there_are_any():
    names = ("prevalence", "classes", "phi", "coverage", "facts", "sizes")
    plots = [f"{name}.png" for name in names]
    linked = re.findall(r"^!\[[^]]+\]\((.+)\)$", data_card(DATA, plots), re.MULTILINE)
    assert linked == plots
    assert "](" not in data_card(DATA, [])


def test_figures_of_pictures():
    pictures = section(data_card(DATA, []), "Pictures")
    assert "| split | width, px | brightness |" in pictures
    assert "| train | 3.25 (1-5) | 3.25 (1-5) |" in pictures
    assert "| train | 4 | 9 x 8 (60) |" in pictures
    nothing = section(data_card(changed(facts={}, sizes={}), []), "Pictures")
    assert nothing.strip() == "No image could be decoded."


def test_a_cell_cannot_break_a_table():
    assert list(table(["a", "b"], [["x|y", "1"]])) == ["| a | b |", "|---|--:|", "| x, y | 1 |"]


# Pictures


def pixels_of(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB")).astype(int)


def near(pixels: np.ndarray, color: str, tolerance: int = 12) -> np.ndarray:
    """Where (H, W) the picture has a colour."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(pixels - rgb) <= tolerance).all(axis=2)


BLUE, ORANGE, RED = "#0072B2", "#D55E00", "#b02a30"


def test_a_larger_share_is_further_right():
    def middle(first, second):
        rows = {"smiling": {"train": share(first, 100), "valid": share(second, 100)}}
        pixels = pixels_of(shares_plot({"": rows}, title="shares"))[80:]  # below the legend
        return [np.nonzero(near(pixels, color))[1].mean() for color in (BLUE, ORANGE)]

    blue, orange = middle(20, 70)
    assert blue + 100 < orange
    blue, orange = middle(70, 20)
    assert orange + 100 < blue


def test_a_split_without_labels_has_no_dot():
    rows = {
        "smiling": {"train": share(3, 10), "test": UNKNOWN},
        "bald": {"train": UNKNOWN, "test": UNKNOWN},
    }
    pixels = pixels_of(shares_plot({"": rows}, title="shares"))[80:]
    assert near(pixels, BLUE).any()
    assert not near(pixels, "#009E73").any()


def test_forty_labels_do_not_run_into_each_other():
    rows = {f"label {i}": {"train": share(i, 100)} for i in range(40)}
    few = pixels_of(shares_plot({"": dict(list(rows.items())[:4])}, title="shares"))
    many = pixels_of(shares_plot({"": rows}, title="shares"))
    assert many.shape[0] - few.shape[0] > 36 * 25


def test_phi_shows_the_lower_half_in_the_colour_of_its_sign():
    names = ["a", "b", "c"]

    def left(*values):  # without the colour bar, which has every colour
        pixels = pixels_of(phi_plot(names, symmetric(*values)))
        return pixels[:, : int(0.7 * pixels.shape[1])]

    def symmetric(ab, ac, bc):
        return np.array([[1, ab, ac], [ab, 1, bc], [ac, bc, 1]])

    darkest_red, darkest_blue, grey = "#67001f", "#053061", "#d7d7d7"
    assert not near(left(0.1, 0.1, 0.1), darkest_red).any()  # the diagonal is not there
    assert near(left(1, 0.1, 0.1), darkest_red).mean() > 0.01
    assert near(left(0.1, -1, 0.1), darkest_blue).mean() > 0.01
    assert not near(left(0.1, -1, 0.1), darkest_red).any()
    undefined = near(left(0.1, 0.1, np.nan), grey, 3).mean()
    assert undefined > near(left(0.1, 0.1, 0.1), grey, 3).mean() + 0.01


def test_thin_cells_are_red_and_full_ones_are_not():
    values = {"head": ["hat", "hair"], "age": ["0-2", "3-9"]}

    def red(cells):
        png = coverage_plot({"train": np.array(cells)}, values, thin_below=30)
        return near(pixels_of(png), RED, 40).sum()

    assert red([[30, 31], [500, 90]]) == 0
    assert 0 < red([[29, 31], [500, 90]]) < red([[29, 1], [0, 90]])


@pytest.mark.parametrize("num_columns", [1, 2, 3])
def test_coverage_of_up_to_three_columns(num_columns):
    values = {f"column_{i}": ["x", "a long value", "z"][: i + 1] for i in range(num_columns)}
    counts = np.arange(np.prod([len(own) for own in values.values()]))
    cells = counts.reshape([len(own) for own in values.values()]) * 20
    one = pixels_of(coverage_plot({"train": cells}, values, thin_below=30))
    two = pixels_of(coverage_plot({"train": cells, "test": 0 * cells}, values, thin_below=30))
    assert two.shape[0] > one.shape[0]
    assert near(two, RED, 40).sum() > near(one, RED, 40).sum()


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([90.0], id="one-image"),
        pytest.param([0.0, 0.0, 0.0], id="no-detail-at-all"),
        pytest.param([0.0, 1.0, 2000.0], id="wide"),
    ],
)
def test_histograms_of_odd_values(values):
    facts = {name: np.array(values) for name in ("brightness", "contrast", "sharpness")}
    pixels = pixels_of(facts_plot({"train": facts, "valid": facts}))
    assert near(pixels, "#408abf", 60).sum() > 200  # the fill, somewhat transparent
    assert near(pixels, "#e08340", 60).sum() > 200


def test_a_frequent_size_is_a_large_dot():
    def area(sizes):
        pixels = pixels_of(sizes_plot({"train": sizes}))
        return near(pixels[120:], "#7fb8d8", 10).sum()  # below the legend

    assert area({(100, 90): 1, (300, 200): 50}) < 0.8 * area({(100, 90): 50, (300, 200): 50})
