"""Why figures may be too good: what the model has seen of the faces that it is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TRAINED = "figures flatter: the model was trained on this split"
CHOSEN = "figures flatter: its calibration and its best epoch were chosen on this split"
CALIBRATED = "figures flatter: the model was calibrated on this split"


def cautions(training: Mapping[str, Any], data: str, split: str) -> list[str]:
    """A sentence for each use that was made of ``split`` of the data set named ``data``.

    ``training`` is what a bundle says of its making. Data sets are known by name alone: another one
    of the same name counts as the same.
    """
    learned = any(one["name"] == data for one in training.get("data", ()))
    fitted = training.get("calibration", {}).get("data", ())
    calibrated = any((one["name"], one["split"]) == (data, split) for one in fitted)
    used = {
        TRAINED: learned and split == "train",
        CHOSEN: learned and split == "valid",
        CALIBRATED: calibrated and not (learned and split == "valid"),  # else it is said already
    }
    return [sentence for sentence, is_so in used.items() if is_so]
