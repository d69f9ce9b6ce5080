"""The other side of ``benchmarks.train_input``: an epoch as a Ray Data set.

A module of its own, so that Ray's workers import it by name.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray.data  # noqa: TID251

from fattr.labelled_crops import Cut, LabelledCrops
from fattr.records import CropRule
from fattr.train.batches import Change, Drawn, Samples
from fattr.train.plan import TrainPlan


def ray_dataset(data: LabelledCrops, plan: TrainPlan) -> ray.data.Dataset:
    """An epoch of streamed faces: rows of what to cut, mapped to changed crops."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    samples, size = Samples(data, plan), plan.recipe.batch_size
    rows = [row_of(samples.drawn(0, position), position) for position in range(len(data))]
    make = functools.partial(made, change=samples.change, rule=data.crops.rule)
    blocks = ray.data.from_items(rows).repartition(target_num_rows_per_block=size)
    return blocks.map_batches(make, batch_size=size)


def made(batch: dict[str, Any], change: Change, rule: CropRule) -> dict[str, Any]:
    """Rows to crops, in a task."""
    samples = [change(drawn, drawn.crop()) for drawn in drawn_of(batch, rule)]
    return {
        "crops": np.stack([crop.numpy() for crop, _ in samples]),
        "targets": np.stack([targets.numpy() for _, targets in samples]),
        "position": batch["position"],
    }


def row_of(drawn: Drawn, position: int) -> dict[str, Any]:
    """A sample as a row."""
    cut = drawn.source
    return {
        "position": position,
        "image_uri": cut.image_uri,
        "landmarks": cut.landmarks.ravel().tolist(),
        "targets": drawn.targets.tolist(),
        "seed": drawn.seed,
    }


def drawn_of(batch: dict[str, Any], rule: CropRule) -> Iterator[Drawn]:
    """The samples of rows."""
    columns = (batch[name] for name in ("image_uri", "landmarks", "targets", "seed"))
    for uri, points, targets, seed in zip(*columns, strict=True):
        landmarks = np.asarray(points, np.float32).reshape(5, 2)
        yield Drawn(Cut(uri, landmarks, rule), np.asarray(targets), int(seed))
