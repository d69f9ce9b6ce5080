"""What Ray Train costs a step: one worker on Ray and the same loop without, in turns.

    python -m benchmarks.train_overhead

Each turn is a process of its own with the same settings of the memory allocator and as many
threads. Of each epoch the loop's own clock is read, checkpoint and report included; the first
epoch, which warms up, does not count.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import tyro

from benchmarks import training

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    backbone: str = "mobilenet_v2"
    """What is trained."""
    crop_px: int = 64
    """Sides of the crops."""
    batch_size: int = 32
    """Samples a step."""
    steps: int = 25
    """In each epoch."""
    epochs: int = 4
    """In each turn; all but the first count."""
    turns: int = 3
    """Of each of the two, one after the other."""
    report: str = ""
    """File for the figures as JSON."""
    engine: Literal["both", "ray", "local"] = "both"
    """One of them alone, for a single turn: prints seconds a step of each epoch."""


def turn(settings: Settings) -> list[float]:
    """Seconds a step of each epoch that counts, as the wall clock has it between two reports."""
    plan = training.plan(
        settings.backbone,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        checkpoint_every=None,
    )
    train = training.faces(settings.batch_size * settings.steps, settings.crop_px, 0)
    valid = training.faces(training.NUM_VALID, settings.crop_px, 1)
    with TemporaryDirectory() as folder:
        on_ray = settings.engine == "ray"
        ends = _on_ray(plan, train, valid, folder) if on_ray else _local(plan, train, valid, folder)
    return [(end - start) / settings.steps for start, end in itertools.pairwise(ends)]


def _local(plan, train, valid, folder):  # noqa: ANN001, ANN202 -- as ``_on_ray``
    from fattr.train.context import LocalContext
    from fattr.train.loop import fit

    ends: list[float] = []

    class Clocked(LocalContext):
        def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
            super().report(metrics, checkpoint)
            ends.append(time.monotonic())

    fit(Clocked(Path(folder)), plan, train, valid)
    return ends


def _on_ray(plan, train, valid, folder):  # noqa: ANN001, ANN202 -- when each epoch ended
    from fattr.on_ray.mailbox import mailbox
    from fattr.on_ray.session import ray_session
    from fattr.on_ray.train import Workers, run_loop
    from fattr.on_ray.train_context import RayContext
    from fattr.train.loop import fit

    def loop(context: RayContext) -> None:
        report = context.report

        def clocked(metrics: Mapping[str, float], checkpoint: Path | None) -> None:
            report(metrics, checkpoint)
            context.tell(time.monotonic())

        context.report = clocked  # type: ignore[method-assign]
        fit(context, plan, train, valid)

    ends: list[float] = []

    def on_item(item: object) -> None:
        if isinstance(item, float):
            ends.append(item)

    with ray_session(), mailbox(on_item) as sender:
        run_loop(
            loop, sender, workers=Workers(least=1, most=1), store=training.store_of(folder + "/c")
        )
    return ends


def measure(settings: Settings) -> dict[str, list[float]]:
    """Seconds a step of each engine, turn by turn."""
    from fattr.on_ray.train import KEEP_FREED_MEMORY

    found: dict[str, list[float]] = {"local": [], "ray": []}
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in asdict(settings).items()
        if name not in ("engine", "turns", "report")
    ]
    for _ in range(settings.turns):
        for engine, seconds in found.items():
            argv = [sys.executable, "-W", "ignore", "-m", "benchmarks.train_overhead", *flags]
            done = subprocess.run(
                [*argv, f"--engine={engine}"],
                cwd=ROOT,
                env=os.environ | (KEEP_FREED_MEMORY if engine == "local" else {}),
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            seconds.extend(json.loads(done.stdout.splitlines()[-1]))
    return found


def main(settings: Settings) -> None:
    """Measure, or be one turn of it."""
    if settings.engine != "both":
        print(json.dumps(turn(settings)))
        return
    found = measure(settings)
    medians = {engine: float(np.median(seconds)) for engine, seconds in found.items()}
    print(f"{'engine':8}{'ms a step, median':>20}{'fastest':>10}{'slowest':>10}")
    for engine, seconds in found.items():
        row = [medians[engine], min(seconds), max(seconds)]
        print(f"{engine:8}{row[0] * 1e3:20.1f}{row[1] * 1e3:10.1f}{row[2] * 1e3:10.1f}")
    ratio = medians["ray"] / medians["local"]
    print(f"Ray Train over the same loop without Ray: {ratio:.3f}")
    if settings.report:
        machine = f"{os.cpu_count()} cores, {platform.machine()}"
        content = {"settings": asdict(settings), "machine": machine, "seconds_a_step": found}
        Path(settings.report).write_text(json.dumps(content | {"ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
