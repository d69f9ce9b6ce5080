import json

import numpy as np
import pandas as pd
import pytest

from fattr.metrics.by_group import figures, group_members
from fattr.metrics.coverage import coverage_gaps, measure_coverage
from fattr.metrics.intervals import wilson_interval

MIN_PX = 24.0


def drawn_faces(n=500, num_attributes=3, seed=0):
    """A table of faces, what was abstained from, and which labels are known."""
    rng = np.random.default_rng(seed)
    race = rng.choice(["Black", "Indian", "White", ""], n)
    found = rng.random(n) < np.where(race == "Black", 0.7, 0.95)
    face_px = np.where(found, rng.uniform(10, 100, n), np.nan).astype(np.float32)
    abstained = rng.random((n, num_attributes)) < [0.1, 0.3, 0.5]
    labelled = rng.random((n, num_attributes)) < 0.7
    return race, found, face_px, abstained, labelled


def coverage_of(race, **columns):
    members = group_members({"race": list(race)})
    return measure_coverage(members, min_face_px=MIN_PX, **columns)["race"]


def test_shares_equal_those_of_pandas():
    race, found, face_px, abstained, _ = drawn_faces()
    got = coverage_of(race, found=found, face_px=face_px, abstained=abstained)
    frame = pd.DataFrame({"race": race, "found": found, "px": face_px, "mean": abstained.mean(1)})
    groups = frame[frame.race != ""].groupby("race")
    small = (
        frame[frame.found & (frame.race != "")]
        .groupby("race")
        .px.apply(lambda px: (px < MIN_PX).mean())
    )
    assert list(got) == ["Black", "Indian", "White"]
    for value, cell in got.items():
        metrics = cell.metrics
        assert (metrics["n"], metrics["status"]) == (len(groups.get_group(value)), "ok")
        assert metrics["detection_recall"] == pytest.approx(groups.found.mean()[value])
        assert metrics["too_small_frac"] == pytest.approx(small[value])
        assert metrics["abstained_frac"] == pytest.approx(groups["mean"].mean()[value])


def test_abstention_is_the_mean_over_attributes_of_labelled_faces():
    race, found, face_px, abstained, labelled = drawn_faces()
    labelled[:, 1] = False  # an attribute that nobody labelled says nothing
    got = coverage_of(race, found=found, face_px=face_px, abstained=abstained, labelled=labelled)
    for value, cell in got.items():
        own = race == value
        shares = [abstained[own & labelled[:, a], a].mean() for a in (0, 2)]
        assert cell.metrics["abstained_frac"] == pytest.approx(np.mean(shares))


def test_shares_have_wilsons_interval():
    race, found, face_px, abstained, _ = drawn_faces()
    got = coverage_of(race, found=found, face_px=face_px, abstained=abstained[:, 1])
    for value, cell in got.items():
        own = race == value
        num_found = int((own & found).sum())
        counts = {
            "detection_recall": (num_found, own.sum()),
            "too_small_frac": ((own & found & (face_px < MIN_PX)).sum(), num_found),
            "abstained_frac": (abstained[own, 1].sum(), own.sum()),
        }
        assert cell.metrics["intervals"] == {
            name: pytest.approx(wilson_interval(int(count), int(n)))
            for name, (count, n) in counts.items()
        }


def test_abstention_from_several_attributes_varies_with_the_faces():
    race, found, face_px, abstained, _ = drawn_faces()
    # A face that is abstained from is so in all attributes: three labels say no more than one.
    abstained[:] = abstained[:, 1:2]
    several = coverage_of(race, found=found, face_px=face_px, abstained=abstained)
    one = coverage_of(race, found=found, face_px=face_px, abstained=abstained[:, 0])
    for value in several:
        interval = several[value].metrics["intervals"]["abstained_frac"]
        assert interval == pytest.approx(
            one[value].metrics["intervals"]["abstained_frac"], abs=0.02
        )


def test_intervals_of_abstention_are_those_of_faces_drawn_again():
    race, found, face_px, abstained, labelled = drawn_faces()
    got = coverage_of(race, found=found, face_px=face_px, abstained=abstained, labelled=labelled)
    own, rng, drawn = np.flatnonzero(race == "White"), np.random.default_rng(1), []
    for _ in range(1000):
        faces = rng.choice(own, len(own))
        counted = labelled[faces]
        drawn.append(((abstained[faces] & counted).sum(0) / counted.sum(0)).mean())
    interval = got["White"].metrics["intervals"]["abstained_frac"]
    assert interval == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.3 * np.std(drawn))


def test_too_few_and_not_estimable_are_said():
    race = np.array(["Black"] * 29 + ["Indian"] * 30 + ["White"] * 30)
    found, face_px = race == "White", np.where(race == "White", 50, np.nan)
    got = figures({"race": coverage_of(race, found=found, face_px=face_px)})["race"]
    assert got["Black"] == {"n": 29, "status": "too few"}
    assert got["Indian"] == {
        "n": 30,
        "status": "ok",
        "not_estimable": ["too_small_frac"],
        "detection_recall": 0.0,
        "too_small_frac": None,
        "abstained_frac": None,
        "intervals": {"detection_recall": pytest.approx(wilson_interval(0, 30))},
    }
    assert got["White"]["too_small_frac"] == 0.0
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_where_no_face_was_looked_for_none_is_missed():
    race, _, face_px, abstained, _ = drawn_faces()
    got = coverage_of(race, found=None, face_px=face_px, abstained=abstained)
    for cell in got.values():
        assert cell.metrics["detection_recall"] is cell.metrics["too_small_frac"] is None
        assert cell.metrics["not_estimable"] == []
        assert cell.metrics["intervals"].keys() == {"abstained_frac"}


def test_nothing_looked_at_is_nothing_said():
    got = coverage_of(["White"] * 30, found=None, face_px=np.zeros(30))
    nothing = dict.fromkeys(("detection_recall", "too_small_frac", "abstained_frac"))
    said = {"n": 30, "status": "ok", "not_estimable": [], "intervals": {}}
    assert got["White"].metrics == said | nothing


def test_gaps_name_the_group_that_goes_without():
    race, found, face_px, abstained, _ = drawn_faces()
    got = coverage_of(race, found=found, face_px=face_px, abstained=abstained)
    gaps = coverage_gaps(got)
    for name in ("detection_recall", "too_small_frac", "abstained_frac"):
        values = {value: cell.metrics[name] for value, cell in got.items()}
        worst = (min if name == "detection_recall" else max)(values, key=values.get)
        assert gaps[name]["worst_group"] == worst
        assert gaps[name]["difference"] == pytest.approx(
            max(values.values()) - min(values.values())
        )
        low, high = gaps[name]["difference_interval"]
        assert low < gaps[name]["difference"] < high
    assert gaps["detection_recall"]["worst_group"] == "Black"
    assert gaps["detection_recall"]["difference"] > gaps["detection_recall"]["difference_by_chance"]
