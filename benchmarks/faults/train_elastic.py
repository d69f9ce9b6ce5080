"""A training that loses one of its two workers, goes on with the other, and gets another one.

    python -m benchmarks.faults.train_elastic --picture elastic.png

Each worker has a node of its own. After a third of the epochs a node is killed (SIGKILL to its
raylet), after two thirds another one is added. The loss of every epoch is compared with that of a
training with two workers that nothing happens to, and both are drawn. Worker 0 puts down every step
that it takes, so that those taken again are counted: after the kill they must be no more than
those since the newest checkpoint that was complete at that moment.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

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

if TYPE_CHECKING:
    from torch import Tensor

    from fattr.train.loop import Trainer

POLL_S = 0.2
WAIT_S = 600.0
STARTED, EPOCH = re.compile(r"workers: (\d+)"), re.compile(r"epoch (\d+): ")
CHECKPOINT = re.compile(r"epoch-(\d+)-position-(\d+)")
STEPS = "steps.txt"
COUNTED = "from benchmarks.faults.train_elastic import counted; counted()"

Step = tuple[int, int]  # epoch, and position in it


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
        python, _, *flags = train_kills.command(settings, data, folder / "elastic")
        argv = [python, "-c", COUNTED, str(folder / STEPS), *flags, "--freeze-batch-norm"]
        argv[argv.index("--workers") + 1] = f"1:{NUM_WORKER_NODES}"
        log = folder / "elastic.log"
        process = annotating.start(argv, log, environment)
        kept = _disturb(process, nodes, log, folder / "elastic" / "checkpoints", _epochs(argv))
        verdict.check("the elastic run ends with 0", *unless(0, process.wait()))
    groups = _groups(log.read_text())
    workers = [count for count, _ in groups]
    verdict.check("2, 1 and 2 workers", "" if workers == [2, 1, 2] else f"{workers}")
    _compare(verdict, folder, settings.tolerance)
    _count(verdict, steps_of_groups((folder / STEPS).read_text().splitlines()), kept)
    verdict.figures |= {"groups": groups}
    if settings.picture:
        _draw(folder, groups, Path(settings.picture))
    return verdict


def _epochs(argv: list[str]) -> int:
    return int(argv[argv.index("--epochs") + 1])


def counted() -> None:
    """``jobs/train.py`` whose worker 0 puts down each step in the file named first.

    To be run by ``python -c``.
    """
    from fattr.cli import run_job
    from fattr.on_ray import train as on_ray
    from fattr.train.loop import Trainer, fit

    file, take = Path(sys.argv[1]), Trainer.step

    def noted(trainer: Trainer, crops: Tensor, targets: Tensor, share: float) -> Tensor:
        at = f"{os.getpid()} {trainer.epoch} {trainer.position}\n"
        loss = take(trainer, crops, targets, share)
        if trainer.context.rank == 0:
            with file.open("a") as steps:
                steps.write(at)
        return loss

    def noting(*arguments: object, **options: object) -> None:  # in the worker
        with mock.patch.object(Trainer, "step", noted):
            fit(*arguments, **options)  # type: ignore[arg-type]

    with mock.patch.object(on_ray, "fit", noting):
        sys.exit(run_job("train", sys.argv[2:]))


def steps_of_groups(lines: Sequence[str]) -> list[list[Step]]:
    """What the first worker of each group did, group by group, of ``process epoch position``."""
    groups = itertools.groupby((line.split() for line in lines), key=lambda words: words[0])
    return [[(int(epoch), int(at)) for _, epoch, at in group] for _, group in groups]


def redone(groups: Sequence[Sequence[Step]]) -> list[int]:
    """How many steps each group but the first did that one before it had done."""
    return [
        len(set(group).intersection(itertools.chain(*groups[:number])))
        for number, group in enumerate(groups[1:], 1)
    ]


def _count(verdict: Verdict, groups: Sequence[Sequence[Step]], kept: Step) -> None:
    """Check how many steps the group after the kill did again: those after ``kept`` at most."""
    if len(groups) != 3:
        verdict.check("three groups took steps", f"{len(groups)}")
        return
    after_loss, after_addition = redone(groups)
    at_most = sum(step >= kept for step in groups[0])
    verdict.check(
        "no more redone than since the newest checkpoint",
        "" if after_loss <= at_most else f"{after_loss} steps, not {at_most}",
    )
    verdict.check("no step left out", *_left_out(groups))
    verdict.figures |= {
        "steps_since_the_newest_checkpoint": at_most,
        "steps_redone_after_the_loss": after_loss,
        "steps_redone_after_the_addition": after_addition,
    }


def _left_out(groups: Sequence[Sequence[Step]]) -> list[str]:
    """Steps that none did, of epochs that are all alike."""
    done = set(itertools.chain.from_iterable(groups))
    epochs, positions = ({step[part] for step in done} for part in (0, 1))
    missing = set(itertools.product(range(max(epochs) + 1), positions)) - done
    return [f"{len(missing)} steps"] if missing else []


def _disturb(process: Process, nodes: Nodes, log: Path, checkpoints: Path, epochs: int) -> Step:
    """Lose a node, add one; where the newest checkpoint was taken before the node was lost."""
    _wait_for(process, log, f"epoch {epochs // 3}:")
    kept = max(CHECKPOINT.findall(" ".join(map(str, checkpoints.glob("*/state.json")))))
    nodes.lose_node(0)
    _wait_for(process, log, "workers: 1")
    _wait_for(process, log, f"epoch {2 * epochs // 3}:")
    nodes.add_node()
    return int(kept[0]), int(kept[1])


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
