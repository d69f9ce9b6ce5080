"""One training that goes on and on, on one of the engines, and notes when each step ended.

As a process of its own: ``python -m benchmarks.train.engines ENGINE FOLDER TRAINING``, the training
as JSON; ``draw`` has put the faces into the folder.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from fattr.attributes import VOCABULARY, Kind
from fattr.crop import named_rule
from fattr.datasets import synthetic
from fattr.labelled_crops import LabelledCrops, labelled_crops
from fattr.runs.checkpoints import CheckpointStore
from fattr.train.plan import Recipe, TrainPlan

if TYPE_CHECKING:
    from fattr.train.context import TrainContext

ATTRIBUTES = tuple(a for a in VOCABULARY.values() if a.kind is Kind.BINARY)
NUM_DRAWN, NUM_VALID = 200, 16
MANY_EPOCHS = 100_000
FACES = "faces.npz"


@dataclass(frozen=True, slots=True)
class Training:
    """What all engines do alike."""

    backbone: str = "mobilenet_v2"
    """What is trained, with a head for each binary attribute."""
    crop_px: int = 64
    """Sides of the crops."""
    batch: int = 32
    """Samples a step."""
    steps: int = 100
    """In each epoch, after which fattr's loop validates and keeps a checkpoint."""
    augmentation: str = "photo"
    """What is done to the crops besides mirroring; "none": neither."""
    processes: int = 0
    """That make batches beside the one that trains, which makes them itself with 0."""
    threads: int = 0
    """Of torch; 0: one for each core."""


def plan(training: Training) -> TrainPlan:
    """The same for fattr's loop; what is not named here are a recipe's defaults."""
    recipe = Recipe(
        augmentation=training.augmentation,
        epochs=MANY_EPOCHS,
        batch_size=training.batch,
        learning_rate=1e-3,
    )
    return TrainPlan(
        backbone=training.backbone,
        attributes=ATTRIBUTES,
        recipe=recipe,
        seed=0,
        init_weights=None,
    )


# The faces


def draw(folder: Path, crop_px: int) -> None:
    """Drawn faces, decoded once and for all; attributes that they do not show have no label."""
    synthetic.write(folder / "drawn", NUM_DRAWN * 5 // 4, seed=0, image_px=crop_px)
    samples = synthetic.read(str(folder / "drawn"), "train").samples
    rule = named_rule("celeba", (crop_px, crop_px))
    cut = labelled_crops(
        samples, ATTRIBUTES, rule, detector=None, num_threads=1, progress=lambda items: items
    )
    np.savez(folder / FACES, crops=cut.crops, targets=cut.targets)


def faces(folder: Path, num_samples: int) -> LabelledCrops:
    """So many of the drawn ones, which come round again."""
    drawn = np.load(folder / FACES)
    chosen = np.arange(num_samples) % len(drawn["targets"])
    found = np.ones(num_samples, bool)
    return LabelledCrops(
        drawn["crops"][chosen], drawn["targets"][chosen], found, found.astype(np.float32), {}
    )


# The engines


def train_minimal(training: Training, folder: Path, begin: Callable[[], None]) -> None:
    """Without fattr's loop."""
    from benchmarks.train import minimal

    begin()
    wanted, data = plan(training), faces(folder, training.batch * training.steps)
    held = minimal.Faces(np.asarray(data.crops), data.targets, training.augmentation)
    minimal.train(
        minimal.build(training.backbone, ATTRIBUTES, dropout=wanted.recipe.dropout),
        minimal.loader(held, batch_size=training.batch, processes=training.processes),
        epochs=MANY_EPOCHS,
        learning_rate=wanted.recipe.learning_rate,
    )


def train_local(training: Training, folder: Path, begin: Callable[[], None]) -> None:
    """fattr's loop without Ray."""
    from fattr.train.context import LocalContext

    with TemporaryDirectory() as checkpoints:
        fattrs_loop(training, folder, begin)(LocalContext(Path(checkpoints)))


def train_on_ray(training: Training, folder: Path, begin: Callable[[], None]) -> None:
    """fattr's loop on one worker of Ray Train."""
    from fattr.on_ray.mailbox import mailbox
    from fattr.on_ray.session import ray_session
    from fattr.on_ray.train import Workers, run_loop

    with TemporaryDirectory() as checkpoints, ray_session(), mailbox(lambda _: None) as sender:
        store = CheckpointStore(
            checkpoints + "/c", num_best=1, metric="valid_score", lower_is_better=False
        )
        run_loop(
            fattrs_loop(training, folder, begin),
            sender,
            workers=Workers(least=1, most=1),
            store=store,
        )


def fattrs_loop(
    training: Training, folder: Path, begin: Callable[[], None]
) -> Callable[[TrainContext], None]:
    """What a worker runs, wherever it is."""
    wanted, processes = plan(training), training.processes
    data = faces(folder, training.batch * training.steps)
    valid = faces(folder, NUM_VALID)

    def loop(context: TrainContext) -> None:
        from fattr.train.loop import fit

        begin()
        fit(context, wanted, data, valid, num_processes=processes)

    return loop


ENGINES = {"minimal": train_minimal, "local": train_local, "ray": train_on_ray}


def clocked(log: Path, threads: int) -> Callable[[], None]:
    """To be called by the process that trains: each step's end is noted, by the machine's clock."""

    def begin() -> None:
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        torch.set_num_threads(threads or torch.get_num_threads())
        file = log.open("a", buffering=1)
        register_optimizer_step_post_hook(lambda *_: file.write(f"{time.monotonic()}\n"))

    return begin


def log_of(folder: Path, engine: str) -> Path:
    """Where an engine notes its steps."""
    return folder / f"{engine}.log"


if __name__ == "__main__":
    name, where, how = sys.argv[1], Path(sys.argv[2]), Training(**json.loads(sys.argv[3]))
    ENGINES[name](how, where, clocked(log_of(where, name), how.threads))
