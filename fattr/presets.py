"""Named training recipes, as values."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from fattr.errors import UsageError
from fattr.train.plan import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPreset:
    """What to predict from which crop, with which network, and how to train it."""

    backbone: str
    init: str  # "imagenet" or "none"
    attributes: tuple[str, ...]  # empty: all that the data sets label
    crop_rule: str
    crop_size_hw: tuple[int, int]
    recipe: Recipe


PRESETS = {
    "celeba40": TrainPreset(
        backbone="mobilenet_v2",
        init="imagenet",
        attributes=(),
        crop_rule="celeba",
        crop_size_hw=(128, 104),
        recipe=Recipe(
            augmentation="photo",
            epochs=20,
            batch_size=64,
            learning_rate=1e-3,
            mixup_alpha=0.4,
        ),
    ),
    "demographics": TrainPreset(
        backbone="mobilenet_v2",
        init="imagenet",
        attributes=("age", "perceived_gender_presentation"),
        crop_rule="fairface",
        crop_size_hw=(112, 112),
        recipe=Recipe(augmentation="tight_photo", epochs=10, batch_size=64, learning_rate=1e-3),
    ),
    "tiny": TrainPreset(
        backbone="tiny",
        init="none",
        attributes=(),
        crop_rule="celeba",
        crop_size_hw=(64, 52),
        recipe=Recipe(
            augmentation="none",
            epochs=6,
            batch_size=16,
            learning_rate=1e-2,
            dropout=0.0,
            ema_decay=0.8,
        ),
    ),
}


def train_preset(name: str) -> TrainPreset:
    """The recipe called ``name``.

    Raises:
        UsageError: there is none; the message suggests the closest.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        known = f"one of {', '.join(sorted(PRESETS))}, or a .toml file, expected"
        hint = f"did you mean {close[0]!r}?" if close else known
        raise UsageError(f"unknown preset {name!r}: {hint}")
    return PRESETS[name]
