"""A training whose driver, workers and nodes are killed at random moments.

    python -m benchmarks.faults.train_kills --kills 20

Each of two workers has a node of its own. The driver is killed with SIGKILL and begun again with
the same command, and so is one that gives up with 3. Where a training completes before all kills
are spent, another one begins. Weights and history of each must equal an undisturbed run's to the
bit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tyro

from benchmarks.faults import annotating
from benchmarks.faults.annotating import Ended, unless
from benchmarks.faults.kills import MAX_RUNS, Killer, judge, planned_kills
from benchmarks.faults.ray_nodes import NUM_WORKER_NODES, TRAINS, ray_nodes
from benchmarks.faults.verdict import Verdict, conclude, room
from fattr.datasets import synthetic
from fattr.train.tracking import HISTORY

BATCH_SIZE, IMAGE_PX = 16, 96
TRAIN_SHARE = 0.8  # of the synthetic faces
TIMES = ("seconds", "data_wait_share")  # the figures of an epoch that no two runs share


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    steps: int = 300
    """How many the training takes, about."""
    faces: int = 400
    """How many drawn faces there are."""
    backbone: str = "mobilenet_v2"
    """What is trained."""
    checkpoint_every: int = 5
    """Steps between checkpoints."""
    kills: int = 20
    """How many kills, a third each of driver, worker and node, in random order."""
    spread_s: float = 40.0
    """A kill comes 0 to this many seconds after the one before, or after the driver's start."""
    seed: int = 0
    report: str = ""
    """File for the verdict as JSON."""
    folder: str = ""
    """Where to work; empty: a temporary folder."""


def command(settings: Settings, data: Path, output: Path) -> list[str]:
    """The command line of the training."""
    steps_an_epoch = int(settings.faces * TRAIN_SHARE) // BATCH_SIZE
    flags = {
        "preset": "tiny",
        "backbone": settings.backbone,
        "data": f"synthetic:{data}",
        "output": output,
        "workers": NUM_WORKER_NODES,
        "batch-size": BATCH_SIZE,
        "epochs": max(1, round(settings.steps / steps_an_epoch)),
        "checkpoint-every": settings.checkpoint_every,
        "input-processes": 0,
    }
    script = str(annotating.ROOT / "jobs" / "train.py")
    return [sys.executable, script, *(str(w) for k, v in flags.items() for w in (f"--{k}", v))]


def drill(settings: Settings, folder: Path) -> Verdict:
    """Run it in ``folder``."""
    verdict = Verdict("train kills")
    data, calm = folder / "faces", folder / "calm"
    synthetic.write(data, settings.faces, seed=settings.seed, image_px=IMAGE_PX)
    with ray_nodes(cpus_per_node=1, actor_word=TRAINS) as nodes:
        environment = os.environ | {"RAY_ADDRESS": nodes.address}
        ended = annotating.run(command(settings, data, calm), folder / "calm.log", environment)
        verdict.check("a calm run ends with 0", *unless(0, ended))
        verdict.figures["seconds_calm"] = round(ended.seconds, 1)
        rng = np.random.default_rng(settings.seed)
        killer = Killer(nodes, rng, planned_kills(settings.kills, rng), settings.spread_s)
        runs = list(_runs(killer, settings, environment, folder))
    judge(verdict, killer, [ended for _, ended in runs])
    outputs = sorted({output for output, _ in runs})
    for output in outputs:
        verdict.check(f"{output.name} equals the calm run", *differences(output, calm))
    verdict.figures["trainings"] = len(outputs)
    return verdict


def _runs(
    killer: Killer, settings: Settings, environment: dict[str, str], folder: Path
) -> Iterator[tuple[Path, Ended]]:
    """Begin trainings, each until it has ended with 0, until every kill is spent."""
    number = 0
    for attempt in range(MAX_RUNS):
        output = folder / f"run-{number}"
        argv = command(settings, folder / "faces", output)
        process = annotating.start(argv, folder / f"attempt-{attempt}.log", environment)
        killer.watch(process)
        ended = process.wait()
        yield output, ended
        number += ended.code == 0
        if ended.code == 0 and not killer.planned:
            return


def differences(output: Path, calm: Path) -> list[str]:
    """What is other than in an undisturbed run; empty when nothing is."""
    files = [f / name for f in (output, calm) for name in ("bundle/model.safetensors", HISTORY)]
    if missing := [str(path) for path in files if not path.exists()]:
        return [f"no {', '.join(missing)}"]
    weights, history, calm_weights, calm_history = files
    found = [] if weights.read_bytes() == calm_weights.read_bytes() else ["other weights"]
    one, other = (pq.read_table(path).drop_columns(TIMES) for path in (history, calm_history))
    return found + [
        f"other {name} in the history"
        for name in one.column_names
        if not one[name].equals(other[name])
    ]


def main(settings: Settings) -> int:
    """The whole drill."""
    with room(settings.folder) as folder:
        return conclude(drill(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
