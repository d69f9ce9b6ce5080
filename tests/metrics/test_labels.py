import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from sklearn.metrics import matthews_corrcoef

from fattr.attributes import AGE, attribute
from fattr.metrics.labels import (
    angular_order,
    cell_counts,
    phi_matrix,
    prevalence,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("count", "n"), [(0, 1), (1, 1), (0, 30), (15, 30), (3, 800), (6400, 6400)]
)
def test_wilson_interval_is_scipys(count, n):
    theirs = scipy.stats.binomtest(count, n).proportion_ci(method="wilson")
    assert wilson_interval(count, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_prevalence_of_yes_is_over_the_known_labels():
    found = prevalence(attribute("smiling"), [1, 0, -1, 1, 1, -1])
    low, high = wilson_interval(3, 4)
    assert found == {
        "n": 4,
        "missing": 2,
        "classes": {"true": {"count": 3, "share": 0.75, "low": low, "high": high}},
    }


def test_prevalence_of_classes_keeps_their_order_and_the_empty_ones():
    found = prevalence(AGE, [8, 3, 3, -1])
    assert list(found["classes"]) == list(AGE.classes)
    assert [one["count"] for one in found["classes"].values()] == [0, 0, 0, 2, 0, 0, 0, 0, 1]
    assert found["classes"]["0-2"]["share"] == 0


def test_prevalence_without_labels_is_undefined_not_zero():
    found = prevalence(attribute("bald"), [-1, -1])
    nothing = {"count": 0, "share": None, "low": None, "high": None}
    assert found == {"n": 0, "missing": 2, "classes": {"true": nothing}}


def test_phi_is_the_correlation_over_images_that_label_both():
    targets = np.random.default_rng(0).choice([-1, 0, 1], (200, 6), p=[0.3, 0.4, 0.3])
    targets[:, 5] = np.where(targets[:, 0] >= 0, 1 - targets[:, 0], -1)
    phi = phi_matrix(targets)
    for i in range(6):
        for j in range(6):
            a, b = targets[(targets[:, [i, j]] >= 0).all(1)][:, [i, j]].T
            assert phi[i, j] == pytest.approx(matthews_corrcoef(a, b), abs=1e-9)
    assert phi[0, 5] == pytest.approx(-1)


def test_phi_is_undefined_where_a_label_never_varies_or_no_image_has_both():
    targets = np.array([[1, 1, -1, 0], [0, 1, -1, 1], [-1, 1, 1, -1], [-1, 0, 0, -1]])
    phi = phi_matrix(targets)
    assert np.isnan(phi[0, 1])  # where the first is known, the second is always yes
    assert np.isnan(phi[0, 2])  # no image has both
    assert phi[0, 3] == pytest.approx(-1)
    assert phi_matrix(np.zeros((0, 2), int)).shape == (2, 2)


def test_angular_order_puts_related_labels_side_by_side():
    rng = np.random.default_rng(1)
    sources = rng.random((4000, 3)) < 0.5
    noisy = [sources[:, i % 3] ^ (rng.random(4000) < 0.1) for i in range(9)]
    order = angular_order(phi_matrix(np.array(noisy).T.astype(int)))
    assert sorted(order) == list(range(9))
    families = [i % 3 for i in order]
    assert sum(a != b for a, b in itertools.pairwise(families)) == 2


def test_angular_order_leaves_undefined_labels_to_the_end():
    targets = np.random.default_rng(2).integers(0, 2, (50, 5))
    targets[:, 1] = 1
    assert angular_order(phi_matrix(targets))[-1] == 1
    assert angular_order(np.full((2, 2), np.nan)) == [0, 1]
    assert angular_order(np.zeros((0, 0))) == []


def test_cell_counts_are_those_of_pandas():
    rng = np.random.default_rng(3)
    values = {"race": ["a", "b", "c"], "age": ["young", "old"], "head": ["hat", "hair"]}
    columns = {name: rng.choice([*own, ""], 300).tolist() for name, own in values.items()}
    counts = cell_counts(columns, values)
    frame = pd.DataFrame(columns)
    known = frame[(frame != "").all(axis=1)]
    theirs = known.value_counts()
    assert counts.shape == (3, 2, 2)
    assert counts.sum() == len(known) < 300
    for (i, j, k), count in np.ndenumerate(counts):
        key = (values["race"][i], values["age"][j], values["head"][k])
        assert count == theirs.get(key, 0)


def test_cell_counts_of_nothing_are_zero():
    assert cell_counts({"a": [], "b": []}, {"a": ["x"], "b": ["y", "z"]}).tolist() == [[0, 0]]
