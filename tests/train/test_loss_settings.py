import dataclasses

import pytest

from fattr.errors import UsageError
from fattr.train.loss_settings import LossSettings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"binary": "hinge"}, "binary loss: bce, focal or asymmetric expected: hinge"),
        ({"focal_gamma": -1.0}, "focal_gamma must be 0 or more: -1.0"),
        ({"asymmetric_gamma_pos": -0.5}, "asymmetric_gamma_pos must be 0 or more: -0.5"),
        ({"asymmetric_gamma_neg": -0.5}, "asymmetric_gamma_neg must be 0 or more: -0.5"),
        ({"age_sigma": float("nan")}, "age_sigma must be 0 or more: nan"),
        ({"asymmetric_clip": 1.0}, "asymmetric_clip must be in [0, 1): 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be in [0, 1): -0.1"),
        ({"focal_alpha": 1.5}, "focal_alpha must be in [0, 1]: 1.5"),
        ({"max_positive_weight": 0.5}, "max_positive_weight must be 1 or more: 0.5"),
    ],
)
def test_a_wrong_setting_is_named(fields, message):
    with pytest.raises(UsageError) as caught:
        LossSettings(**fields)
    assert str(caught.value) == message


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LossSettings().binary = "focal"
