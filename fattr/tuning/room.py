"""How many trials run at once, and what each holds of the machines. Pure: knows no Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fattr.errors import UsageError
from fattr.sizing import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Trials at once, and what one of them holds; CPUs and GPUs are Ray's, which only count."""

    num_trials: int
    cpus: float
    gpus: float
    num_threads: int


def room_for(resources: Resources, *, at_once: int | None, gpus_per_trial: float) -> Room:
    """As many trials as asked for, or as there are cores, or parts of GPUs.

    Raises:
        UsageError: there is no GPU, or not enough for one trial.
    """
    cores = resources.usable_cpus if resources.is_local else max(1, int(resources.cpus))
    most = cores
    if gpus_per_trial:
        most = int(resources.gpus) * math.floor(1 / gpus_per_trial)
        if not most:
            raise UsageError(
                f"--gpus-per-trial {gpus_per_trial:g}: the cluster has no GPU; leave it out to"
                " train on CPUs"
            )
    num_trials = min(at_once or most, most) if gpus_per_trial else at_once or most
    return Room(
        num_trials=num_trials,
        cpus=min(1.0, math.floor(1000 * resources.cpus / num_trials) / 1000),
        gpus=gpus_per_trial,
        # A trial's threads are all on one node, though the trials' cores are those of all nodes.
        num_threads=max(1, cores // max(num_trials, resources.nodes)),
    )
