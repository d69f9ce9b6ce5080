"""A small training on Ray alone, without detector and bundle. Also a script to kill."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fattr import storage
from fattr.attributes import attribute
from fattr.errors import RunError, StorageError
from fattr.labelled_crops import Cut, LabelledCrops
from fattr.records import UInt8Array
from fattr.runs.checkpoints import CheckpointStore
from fattr.train import checkpoint
from fattr.train.plan import Recipe, TrainPlan

if TYPE_CHECKING:
    from fattr.on_ray.train_context import RayContext

EPOCHS, NUM_SAMPLES, BATCH_SIZE = 6, 320, 16

PLAN = TrainPlan(
    backbone="tiny",
    attributes=(attribute("smiling"), attribute("bald")),
    seed=3,
    init_weights=None,
    recipe=Recipe(
        augmentation="photo",
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        learning_rate=1e-2,
        dropout=0.2,
        mixup_alpha=0.2,
        checkpoint_every=5,
        freeze_batch_norm=True,
    ),
)


def say(line: str) -> None:
    """To the test; ``main`` has Ray's words of its nodes go elsewhere."""
    print(line, file=sys.__stdout__, flush=True)


def plan_of(epochs: int) -> TrainPlan:
    return replace(PLAN, recipe=replace(PLAN.recipe, epochs=epochs))


def faces(num_samples: int, seed: int) -> LabelledCrops:
    """Noise; there is nothing to be learnt, but everything to be repeated."""
    rng = np.random.default_rng(seed)
    crops = rng.integers(0, 256, (num_samples, 64, 48, 3), np.uint8)
    targets = rng.integers(0, 2, (num_samples, 2))
    found = np.ones(num_samples, bool)
    return LabelledCrops(crops, targets, found, found.astype(np.float32), {})


def data() -> tuple[LabelledCrops, LabelledCrops]:
    return faces(NUM_SAMPLES, 0), faces(40, 1)


class Slow(LabelledCrops):
    """Takes its time for every sample, so that others can do something meanwhile."""

    def source(self, index: int) -> UInt8Array | Cut:
        time.sleep(float(self.groups["wait_s"][0]))
        return super().source(index)


def slowed(crops: LabelledCrops, wait_s: float) -> LabelledCrops:
    waits = {"wait_s": (str(wait_s),) * len(crops)}
    return Slow(crops.crops, crops.targets, crops.found, crops.face_px, waits)


def store_of(uri: str) -> CheckpointStore:
    return CheckpointStore(uri, num_best=1, metric="valid_score", lower_is_better=False)


def last_state(uri: str) -> checkpoint.TrainState:
    state = checkpoint.newest(store_of(uri).folders())
    assert state is not None
    return state


def differences(one: checkpoint.TrainState, other: checkpoint.TrainState) -> list[str]:
    """Tensors and figures that differ in any bit, times aside."""
    found = [
        f"{part}/{name}"
        for part in ("model", "ema", "best_weights")
        for name, tensor in getattr(one, part).items()
        if not torch.equal(tensor, getattr(other, part)[name])
    ]
    rows = zip(one.history, other.history, strict=True)
    return found + [
        f"history/{name}"
        for mine, theirs in rows
        for name in mine.keys() - {"seconds", "data_wait_share"}
        if mine[name] != theirs[name]
    ]


def losses(state: checkpoint.TrainState) -> list[float]:
    """On training and on validation, epoch by epoch."""
    return [row[name] for row in state.history for name in ("train_loss", "valid_loss")]


def raising(context: RayContext, *, error: str, rank: int = 0) -> None:
    """A bug in one worker; the others wait for it."""
    if context.rank == rank:
        context.tell("started")
        raise {"bug": ValueError, "own": RunError}[error]("a bug")
    context.total(torch.zeros(1))


def small(position: int) -> Path:
    """A checkpoint without a state."""
    folder = Path(tempfile.mkdtemp(prefix="fattr-checkpoint-"))
    (folder / "state.json").write_text(json.dumps({"epoch": 0, "position": position}))
    return folder


def reporting(context: RayContext, *, count: int = 0) -> None:
    """So many checkpoints within an epoch, faster than they are stored, and one after it."""
    is_first = context.rank == 0
    for position in range(count):
        if context.has_room():
            context.report({}, small(position) if is_first else None)
    if is_first:
        Path(storage.local_path(context.store.uri), "go-on").touch()
    context.report({"valid_score": 0.5}, small(count) if is_first else None)


class Waiting(CheckpointStore):
    """Stores nothing before it may; deletes nothing."""

    def put(self, name: str, folder: Path, metrics: Mapping[str, float]) -> None:
        while not Path(storage.local_path(self.uri), "go-on").exists():
            time.sleep(0.05)
        self._put(storage.join(self.uri, name), folder, metrics)


class Full(CheckpointStore):
    """Has no room."""

    def _put(self, uri: str, folder: Path, metrics: Mapping[str, float]) -> None:
        raise StorageError("unavailable", uri, "No space left on device")


LOOPS = {
    "raise": (raising, CheckpointStore),
    "report": (reporting, Waiting),
    "report-in-vain": (reporting, Full),
}


def repeat(what: str, uri: str, *, num_workers: int = 1, **asked: object) -> None:
    """One of the loops, without a model."""
    from fattr.on_ray.mailbox import mailbox
    from fattr.on_ray.train import Workers, run_loop

    function, kind = LOOPS[what]
    store = kind(uri, num_best=1, metric="valid_score", lower_is_better=False)
    workers = Workers(least=num_workers, most=num_workers)
    with mailbox(say) as sender:
        run_loop(functools.partial(function, **asked), sender, workers=workers, store=store)


def learn(
    uri: str,
    *,
    workers: tuple[int, int],
    epochs: int = EPOCHS,
    wait_s: float = 0.0,
    refused: int | None = None,
    use_gpu: bool = False,
) -> None:
    """Train; from the ``refused`` epoch on the driver cannot put any down."""
    from fattr.on_ray.train import Workers, fit_on_ray

    def on_epoch(metrics: Mapping[str, float]) -> None:
        say(f"epoch {metrics['epoch']:.0f}")
        if metrics["epoch"] == refused:
            raise RunError("the lease was lost")

    train, valid = data()
    fit_on_ray(
        plan_of(epochs),
        slowed(train, wait_s),
        valid,
        workers=Workers(
            least=workers[0],
            most=workers[1],
            use_gpu=use_gpu,
            num_processes=0,
            resize_every_s=2,
        ),
        store=store_of(uri),
        on_start=lambda count: say(f"workers {count}"),
        on_epoch=on_epoch,
    )


def main() -> None:
    """A driver of its own: what, where, and JSON that says how."""
    from fattr.on_ray.session import ray_session

    what, uri, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    sys.stdout = sys.stderr
    logging.basicConfig(stream=sys.__stdout__, format="%(message)s", force=True)
    with ray_session():
        try:
            if what == "learn":
                learn(uri, **asked)
            else:
                repeat(what, uri, **asked)
        except RunError as error:
            say(f"RunError: {error}")
            sys.exit(3)
    say("done")


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    main()
