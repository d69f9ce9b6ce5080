"""A training that loses one of its two workers, goes on with the other, and gets another one.

    python -m benchmarks.faults.train_elastic --picture elastic.png

Each worker has a node of its own. After a third of the epochs a node is killed (SIGKILL to its
raylet), after two thirds another one is added. The loss of every epoch is compared with that of a
training with two workers that nothing happens to, and both are drawn. What a lost worker costs is
told in steps: those since the newest checkpoint at the moment of the kill.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq
import tyro

from benchmarks.faults import annotating, train_kills
from benchmarks.faults.annotating import Process, unless
from benchmarks.faults.ray_nodes import NUM_WORKER_NODES, TRAINS, Nodes, ray_nodes
from benchmarks.faults.verdict import Verdict, conclude, room
from fattr.datasets import synthetic
from fattr.train.tracking import HISTORY

POLL_S = 0.2
WAIT_S = 600.0
STARTED, EPOCH = re.compile(r"workers: (\d+)"), re.compile(r"epoch (\d+): ")


@dataclass(frozen=True, slots=True)
class Settings(train_kills.Settings):
    """See the module."""

    steps: int = 600
    checkpoint_every: int = 5
    tolerance: float = 0.02
    """Of an epoch's training loss, against the undisturbed training's."""
    picture: str = ""
    """File for the picture."""


def drill(settings: Settings, folder: Path) -> Verdict:
    """Run it in ``folder``."""
    verdict = Verdict("train elastic")
    data = folder / "faces"
    synthetic.write(data, settings.faces, seed=settings.seed, image_px=train_kills.IMAGE_PX)
    calm = [*train_kills.command(settings, data, folder / "calm"), "--freeze-batch-norm"]
    with ray_nodes(cpus_per_node=1, actor_word=TRAINS) as nodes:
        environment = os.environ | {"RAY_ADDRESS": nodes.address}
        ended = annotating.run(calm, folder / "calm.log", environment)
        verdict.check("a calm run ends with 0", *unless(0, ended))
        argv = [*train_kills.command(settings, data, folder / "elastic"), "--freeze-batch-norm"]
        argv[argv.index("--workers") + 1] = f"1:{NUM_WORKER_NODES}"
        log = folder / "elastic.log"
        process = annotating.start(argv, log, environment)
        lost = _disturb(process, nodes, log, folder / "elastic" / "checkpoints", _epochs(argv))
        verdict.check("the elastic run ends with 0", *unless(0, process.wait()))
    groups = _groups(log.read_text())
    workers = [count for count, _ in groups]
    verdict.check("2, 1 and 2 workers", "" if workers == [2, 1, 2] else f"{workers}")
    _compare(verdict, folder, settings.tolerance)
    steps = lost / _seconds_a_step(folder / "calm", settings)
    verdict.figures |= {"steps_since_the_newest_checkpoint": round(steps, 1), "groups": groups}
    if settings.picture:
        _draw(folder, groups, Path(settings.picture))
    return verdict


def _epochs(argv: list[str]) -> int:
    return int(argv[argv.index("--epochs") + 1])


def _disturb(process: Process, nodes: Nodes, log: Path, checkpoints: Path, epochs: int) -> float:
    """Lose a node, add one; how old the newest checkpoint was when the node was lost, in s."""
    _wait_for(process, log, f"epoch {epochs // 3}:")
    nodes.lose_node(0)
    age = time.time() - max(path.stat().st_mtime for path in checkpoints.glob("*/state.json"))
    _wait_for(process, log, "workers: 1")
    _wait_for(process, log, f"epoch {2 * epochs // 3}:")
    nodes.add_node()
    return age


def _wait_for(process: Process, log: Path, words: str) -> None:
    stop = time.monotonic() + WAIT_S
    while words not in log.read_text(errors="replace"):
        if not process.is_running() or time.monotonic() > stop:
            raise SystemExit(f"the training never said: {words}; see {log}")
        time.sleep(POLL_S)


def _groups(said: str) -> list[tuple[int, int]]:
    """Of each group of workers their number, and the last epoch that was over before it."""
    groups, epoch = [], 0
    for line in said.splitlines():
        if found := EPOCH.search(line):
            epoch = int(found[1])
        elif found := STARTED.search(line):
            groups.append((int(found[1]), epoch))
    return groups


def _losses(folder: Path) -> dict[str, np.ndarray]:
    """Training loss of each epoch, of both."""
    names = ("calm", "elastic")
    return {n: pq.read_table(folder / n / HISTORY)["train_loss"].to_numpy() for n in names}


def _compare(verdict: Verdict, folder: Path, tolerance: float) -> None:
    calm, elastic = _losses(folder).values()
    apart = float(np.max(np.abs(calm - elastic) / calm))
    verdict.check("losses equal the calm run's", "" if apart <= tolerance else f"{apart:.1%} apart")
    verdict.figures |= {"epochs": len(calm), "largest_difference_of_losses": round(apart, 6)}


def _seconds_a_step(folder: Path, settings: Settings) -> float:
    seconds = pq.read_table(folder / HISTORY)["seconds"].to_numpy()
    return float(np.median(seconds)) * len(seconds) / settings.steps


def _draw(folder: Path, groups: list[tuple[int, int]], picture: Path) -> None:
    """Both losses over the epochs, the time with one worker shaded."""
    losses = _losses(folder)
    epochs = np.arange(1, 1 + len(losses["calm"]))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for (count, begin), (_, end) in itertools.pairwise([*groups, (0, len(epochs))]):
        if count == 1:
            axes.axvspan(begin + 0.5, end + 0.5, color="0.9", label="one worker")
    axes.plot(epochs, losses["calm"], label="two workers throughout", color="C1", linewidth=3)
    axes.plot(epochs, losses["elastic"], label="a node lost, another added", color="C0")
    axes.set(xlabel="epoch", ylabel="training loss")
    axes.legend()
    figure.savefig(picture, dpi=100)
    plt.close(figure)


def main(settings: Settings) -> int:
    """The whole drill."""
    with room(settings.folder) as folder:
        return conclude(drill(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
