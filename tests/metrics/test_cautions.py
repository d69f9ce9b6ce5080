import pytest

from fattr.metrics.cautions import cautions

TRAINED = "figures flatter: the model was trained on this split"
CHOSEN = "figures flatter: its calibration and its best epoch were chosen on this split"
CALIBRATED = "figures flatter: the model was calibrated on this split"
DATA = [{"name": "fairface", "images": 9}, {"name": "celeba", "images": 9}]


def calibrated_on(*data):
    return {"data": [{"name": name, "split": split, "images": 9} for name, split in data]}


@pytest.mark.parametrize(
    ("training", "data", "split", "wanted"),
    [
        pytest.param({"data": DATA}, "celeba", "train", [TRAINED], id="trained"),
        pytest.param({"data": DATA}, "fairface", "valid", [CHOSEN], id="chosen"),
        pytest.param({"data": DATA}, "fairface", "test", [], id="held-out"),
        pytest.param({"data": DATA}, "lfwa", "train", [], id="train-of-other-data"),
        pytest.param({"data": DATA}, "lfwa", "valid", [], id="valid-of-other-data"),
        pytest.param({}, "fairface", "train", [], id="nothing-known"),
        pytest.param(
            {"calibration": calibrated_on(("celeba", "valid"), ("lfwa", "test"))},
            "lfwa",
            "test",
            [CALIBRATED],
            id="calibrated",
        ),
        pytest.param(
            {"calibration": calibrated_on(("lfwa", "valid"))}, "lfwa", "test", [], id="other-split"
        ),
        pytest.param(
            {"calibration": calibrated_on(("lfwa", "test"))}, "utkface", "test", [], id="other-data"
        ),
        pytest.param(
            {"data": DATA, "calibration": calibrated_on(("celeba", "train"))},
            "celeba",
            "train",
            [TRAINED, CALIBRATED],
            id="both",
        ),
        pytest.param(
            {"data": DATA, "calibration": calibrated_on(("celeba", "valid"))},
            "celeba",
            "valid",
            [CHOSEN],
            id="said-once",
        ),
    ],
)
def test_what_the_model_has_seen_is_said(training, data, split, wanted):
    assert cautions(training, data, split) == wanted
