"""What Ray Train costs a step: one worker on Ray and the same loop without, a few seconds each.

    python -m benchmarks.train_overhead

Both train all the time, each in processes of its own, and one of them at a time is stopped with all
its processes: a shared machine's speed drifts by a tenth within a minute, which turns of a minute
each would measure. Both have the same settings of the memory allocator and as many threads. The
first steps of a slice, which begin where the last one was stopped, do not count.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import tyro

from benchmarks import training

ROOT = Path(__file__).parents[1]
ENGINES = ("local", "ray")
WARM_UP = 2  # steps of each slice
START_S = 120.0
MANY_EPOCHS = 100_000


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    backbone: str = "mobilenet_v2"
    """What is trained."""
    crop_px: int = 64
    """Sides of the crops."""
    batch_size: int = 32
    """Samples a step."""
    steps: int = 100
    """In each epoch, after which a checkpoint is kept."""
    slices: int = 40
    """Of each engine, in turns."""
    slice_s: float = 2.5
    """Seconds of a slice."""
    report: str = ""
    """File for the figures as JSON."""
    threads: int = 0
    """Of torch; 0: one for each core, as it is used."""
    engine: Literal["both", "ray", "local"] = "both"
    """One of them alone, until it is killed; needs ``log``."""
    log: str = ""
    """File that gets the clock at the end of each step."""


def train(settings: Settings) -> None:
    """Train on and on, on one of the engines."""
    plan = training.plan(
        settings.backbone,
        epochs=MANY_EPOCHS,
        batch_size=settings.batch_size,
        checkpoint_every=None,
    )
    faces = training.faces(settings.batch_size * settings.steps, settings.crop_px, 0)
    valid = training.faces(training.NUM_VALID, settings.crop_px, 1)
    log, threads = settings.log, settings.threads

    def loop(context) -> None:  # noqa: ANN001 -- either engine's
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from fattr.train.loop import fit

        torch.set_num_threads(threads or torch.get_num_threads())
        with Path(log).open("a", buffering=1) as file:
            register_optimizer_step_post_hook(lambda *_: file.write(f"{time.monotonic()}\n"))
            fit(context, plan, faces, valid)

    with TemporaryDirectory() as folder:
        if settings.engine == "local":
            from fattr.train.context import LocalContext

            loop(LocalContext(Path(folder)))
        else:
            _on_ray(loop, folder)


def _on_ray(loop, folder) -> None:  # noqa: ANN001
    from fattr.on_ray.mailbox import mailbox
    from fattr.on_ray.session import ray_session
    from fattr.on_ray.train import Workers, run_loop

    with ray_session(), mailbox(lambda _: None) as sender:
        run_loop(
            loop, sender, workers=Workers(least=1, most=1), store=training.store_of(folder + "/c")
        )


def _family(pid: int) -> list[int]:
    """A process and all below it, from the top."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        children.setdefault(parent, []).append(int(stat.parent.name))
    family = [pid]
    for member in family:
        family.extend(children.get(member, ()))
    return family


def _signal(pid: int, number: signal.Signals) -> None:
    for member in _family(pid):
        try:
            os.kill(member, number)
        except ProcessLookupError:
            continue


def _steps(log: Path) -> np.ndarray:
    """When steps ended, by the machine's monotonic clock."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return np.array([float(line) for line in lines if line.endswith("\n")])


@contextmanager
def _stopped(settings: Settings, engine: str, log: Path) -> Iterator[int]:
    """The id of a process that trains, stopped once it has begun; killed at the block's end."""
    from fattr.on_ray.train import KEEP_FREED_MEMORY

    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in (asdict(settings) | {"engine": engine, "log": str(log)}).items()
        if name != "report"
    ]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.train_overhead", *flags],
        cwd=ROOT,
        env=os.environ | (KEEP_FREED_MEMORY if engine == "local" else {}),
    )
    try:
        give_up = time.monotonic() + START_S
        while len(_steps(log)) < 3 * WARM_UP:
            if process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"the training on {engine} did not begin")
            time.sleep(0.5)
        _signal(process.pid, signal.SIGSTOP)
        yield process.pid
    finally:
        _signal(process.pid, signal.SIGKILL)
        process.wait()


def measure(settings: Settings, folder: Path) -> dict[str, list[float]]:
    """Seconds a step of each engine, slice by slice."""
    logs = {engine: folder / engine for engine in ENGINES}
    slices: dict[str, list[tuple[float, float]]] = {engine: [] for engine in ENGINES}
    with (
        _stopped(settings, "local", logs["local"]) as local,
        _stopped(settings, "ray", logs["ray"]) as ray,
    ):
        for _ in range(settings.slices):
            for engine, pid in zip(ENGINES, (local, ray), strict=True):
                begin = time.monotonic()
                _signal(pid, signal.SIGCONT)
                time.sleep(settings.slice_s)
                _signal(pid, signal.SIGSTOP)
                slices[engine].append((begin, time.monotonic()))
        return {
            engine: [_of_slice(_steps(logs[engine]), *times) for times in slices[engine]]
            for engine in ENGINES
        }


def _of_slice(ends: np.ndarray, begin: float, end: float) -> float:
    within = ends[(ends > begin) & (ends < end)][WARM_UP:]
    return float(np.diff(within).mean())


def main(settings: Settings) -> None:
    """Measure, or be one of the two."""
    if settings.engine != "both":
        train(settings)
        return
    with TemporaryDirectory() as folder:
        found = {name: np.array(s) for name, s in measure(settings, Path(folder)).items()}
    print(f"{'engine':8}{'ms a step, median':>20}{'fastest':>10}{'slowest':>10}")
    for engine, seconds in found.items():
        row = [float(np.median(seconds)), seconds.min(), seconds.max()]
        print(f"{engine:8}{row[0] * 1e3:20.1f}{row[1] * 1e3:10.1f}{row[2] * 1e3:10.1f}")
    # Each slice against the mean of the other engine's before and after it: drift cancels out.
    around = (found["local"][:-1] + found["local"][1:]) / 2
    low, ratio, high = np.percentile(found["ray"][:-1] / around, [25, 50, 75])
    print(
        f"Ray Train over the same loop without Ray: {ratio:.3f} (quartiles {low:.3f}, {high:.3f})"
    )
    if settings.report:
        machine = f"{os.cpu_count()} cores, {platform.machine()}"
        steps = {engine: seconds.tolist() for engine, seconds in found.items()}
        content = {"settings": asdict(settings), "machine": machine, "seconds_a_step": steps}
        Path(settings.report).write_text(json.dumps(content | {"ratio": ratio}, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
