"""How long training stands still while its checkpoints go to a slow bucket.

    python -m benchmarks.train_upload --megabytes-per-s 5

``rclone serve s3`` behind a proxy that lets so many bytes of all requests together through each
second. The same training on one worker of Ray, in turns: without checkpoints within its epochs,
with them in the background, as ever, and with the loop waiting for each upload. Standing still is
the time from where the loop stops for a checkpoint until it goes on: with making and saving its
content, and at an epoch's end with waiting for those on their way. What the upload takes from the
loop besides is the wall clock's surplus.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import tyro

from benchmarks import training
from benchmarks.faults.rclone import s3_environment, s3_of_folder
from benchmarks.faults.s3_proxy import Plan, fault_proxy
from benchmarks.faults.verdict import room
from fattr.runs.checkpoints import CheckpointStore

WAYS = ("none", "background", "waited for")


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    backbone: str = "efficientnet_b0"
    """What is trained."""
    model_mb: float = 20.0
    """Of its weights, to which a large head fills them up; a checkpoint is five times that."""
    crop_px: int = 64
    """Sides of the crops."""
    batch_size: int = 16
    """Samples a step."""
    steps: int = 200
    """In an epoch."""
    epochs: int = 2
    """How many; each ends with a checkpoint."""
    checkpoint_every: int = 20
    """Steps between checkpoints."""
    megabytes_per_s: float = 5.0
    """Of all requests' bodies together."""
    turns: int = 3
    """Of each way, one after the other."""
    ways: tuple[str, ...] = WAYS
    """Which of them; what waits for uploads takes many times longer."""
    report: str = ""
    """File for the figures as JSON."""
    folder: str = ""
    """Where to work; empty: a temporary folder."""


class Counted(CheckpointStore):
    """Knows how many checkpoints were put into it."""

    num_put = 0

    def put(self, name: str, folder: Path, metrics: Mapping[str, float]) -> None:
        super().put(name, folder, metrics)
        self.num_put += 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One training: seconds from its first step to its last report's end, and how many stood still.

    ``uploaded`` is how many checkpoints were there by then.
    """

    seconds: float
    standing: float
    uploaded: int


def turn(settings: Settings, way: str, uri: str) -> Turn:
    """Train once."""
    from fattr.on_ray.mailbox import mailbox
    from fattr.on_ray.train import Workers, run_loop
    from fattr.on_ray.train_context import RayContext
    from fattr.train.loop import Trainer, fit

    every = None if way == "none" else settings.checkpoint_every
    attributes = training.filled_up(settings.backbone, settings.model_mb)
    plan = training.plan(
        settings.backbone,
        attributes,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        checkpoint_every=every,
    )
    train = training.faces(attributes, settings.batch_size * settings.steps, settings.crop_px, 0)
    valid = training.faces(attributes, training.NUM_VALID, settings.crop_px, 1)

    store = Counted(uri, num_best=1, metric="valid_score", lower_is_better=False)

    def loop(context: RayContext) -> None:
        report, in_report = Trainer.report, [0.0]
        its_store: Counted = context.store  # as it came to this process

        def clocked(trainer: Trainer, metrics: Mapping[str, float]) -> None:
            start, before = time.monotonic(), its_store.num_put
            report(trainer, metrics)
            while way == "waited for" and its_store.num_put == before:
                time.sleep(0.01)
            in_report[0] += time.monotonic() - start

        with mock.patch.object(Trainer, "report", clocked):
            started = time.monotonic()
            fit(context, plan, train, valid)
            context.tell((time.monotonic() - started, in_report[0], its_store.num_put))

    told: list[object] = []
    with mailbox(told.append) as sender:
        run_loop(loop, sender, workers=Workers(least=1, most=1), store=store)
    (found,) = (item for item in told if isinstance(item, tuple))
    return Turn(*found)


def measure(settings: Settings, folder: Path) -> dict[str, list[Turn]]:
    """The turns of each way."""
    from fattr.on_ray.session import ray_session

    (folder / "bucket").mkdir(parents=True)
    found: dict[str, list[Turn]] = {way: [] for way in settings.ways}
    plan = Plan(bytes_per_s=settings.megabytes_per_s * 1e6)
    with s3_of_folder(folder) as upstream, fault_proxy(upstream, plan) as proxy:
        os.environ.update(s3_environment(proxy.url))
        with ray_session():
            for number in range(settings.turns):
                for way, turns in found.items():
                    uri = f"s3://bucket/{way.replace(' ', '-')}-{number}"
                    turns.append(turn(settings, way, uri))
    return found


def main(settings: Settings) -> int:
    """Measure and tell."""
    with room(settings.folder) as folder:
        found = measure(settings, folder)
    calm = float(np.median([one.seconds for one in found[settings.ways[0]]]))
    print(f"{'checkpoints':14}{'run, s':>10}{'standing':>11}{'over first':>11}{'uploads':>9}")
    for way, turns in found.items():
        seconds, standing, sent = np.median([list(asdict(one).values()) for one in turns], axis=0)
        print(
            f"{way:14}{seconds:10.1f}{standing / seconds:11.2%}{seconds / calm - 1:11.1%}"
            f"{sent:9.0f}"
        )
    if settings.report:
        turns = {way: [asdict(one) for one in turns] for way, turns in found.items()}
        machine = f"{os.cpu_count()} cores, {platform.machine()}"
        content = {"settings": asdict(settings), "machine": machine, "turns": turns}
        Path(settings.report).write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
