"""Several workers of one training run, as processes of this machine; what they do is in here too.

Another process imports what it is to run by name, which test modules do not have.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import distributed as dist

from fattr.labelled_crops import LabelledCrops
from fattr.train import checkpoint
from fattr.train.batches import partners
from fattr.train.context import LocalContext
from fattr.train.loop import Trainer, fit
from fattr.train.plan import TrainPlan
from fattr.train.validate import Measured

TIMEOUT_S = 60


def in_group(rank, world_size, meeting, function, arguments):
    """``function(rank, world_size, *arguments)`` within a gloo group of these workers."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    try:
        result = function(rank, world_size, *arguments)
        dist.barrier()  # one that leaves before another has arrived is waited for in vain
        return result
    finally:
        dist.destroy_process_group()


class Workers:
    """Processes that wait for work; a worker of a group blocks one, so each gets its own."""

    def __init__(self, pool):
        self._pool = pool

    def run(self, world_size, function, *arguments):
        """What the function returned in each worker, by rank."""
        with TemporaryDirectory() as folder:
            meeting = Path(folder) / "meeting"
            waiting = [
                self._pool.submit(in_group, rank, world_size, meeting, function, arguments)
                for rank in range(world_size)
            ]
            return [one.result(timeout=TIMEOUT_S) for one in waiting]


@contextmanager
def workers(most: int) -> Iterator[Workers]:
    """Up to so many of a group; what they import is imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fattr.train.loop"])
    with ProcessPoolExecutor(most, context) as pool:
        yield Workers(pool)


class StoppedError(Exception):
    pass


class StoppedContext(LocalContext):
    """Fails at the report of this number, from 1: just before or after it is kept."""

    def stop_at(self, number, *, kept):
        self.number, self.kept = number, kept
        return self

    def report(self, metrics, checkpoint):
        self.number -= 1
        if self.number == 0 and not self.kept:
            raise StoppedError
        super().report(metrics, checkpoint)
        if self.number == 0:
            raise StoppedError


class Watched(LabelledCrops):
    """Notes which samples were drawn, one after another."""

    drawn: list[int] = []  # noqa: RUF012  # of this process, emptied by who reads it

    def source(self, index):
        self.drawn.append(index)
        return super().source(index)


def trained(rank, world_size, plan, train, valid, folder, stops=(), device="cpu"):
    """Train, stopped after the reports of these numbers; the last state."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what repeatable runs on a GPU need
    place = folder, rank, world_size, torch.device(device)
    for stop in stops:
        try:
            fit(StoppedContext(*place).stop_at(stop, kept=True), plan, train, valid)
        except StoppedError:
            continue
        raise AssertionError(f"there was no report {stop}")
    fit(LocalContext(*place), plan, train, valid)
    return checkpoint.newest(LocalContext(folder).checkpoints())


def drawn_until(rank, world_size, plan, train, valid, folder, stop):
    """The samples that a worker was given up to a report."""
    watched = Watched(train.crops, train.targets, train.found, train.face_px, train.groups)
    Watched.drawn.clear()
    context = StoppedContext(folder, rank, world_size).stop_at(stop, kept=True)
    try:
        fit(context, plan, watched, valid)
    except StoppedError:
        return list(Watched.drawn)
    raise AssertionError("was not stopped")


def steps(rank, world_size, plan, crops, targets, num_steps, device="cpu"):
    """The weights after some steps on one batch, and the losses, of each worker."""
    context = LocalContext(Path(), rank, world_size, torch.device(device))
    trainer = Trainer(context, plan, targets.numpy())
    trainer._set_modes()
    crops, targets = (part[rank::world_size].to(device) for part in (crops, targets))
    losses = [float(trainer.step(crops, targets, (1.0, 0.8)[n % 2])) for n in range(num_steps)]
    return {n: tensor.cpu() for n, tensor in trainer.training.state_dict().items()}, losses


def communicate(rank, world_size):
    """What the methods of a context that need the others give."""
    context = LocalContext(Path(), rank, world_size)
    rows = np.arange(rank, 7, world_size, dtype=np.float32)[:, None]
    return {
        "agreed": [context.agreed(rank == 0), context.agreed(rank == 1)],
        "total": context.total(torch.tensor([rank, 10.0])).tolist(),
        "gathered": context.gathered(rows),
    }


def mates(rank, world_size, batch_size):
    """A worker's rows of a batch of numbers, and the rows these are mixed with."""
    own = torch.arange(rank, batch_size, world_size, dtype=torch.uint8)
    context = LocalContext(Path(), rank, world_size)
    return own.tolist(), partners(context, batch_size, own).tolist()


def measured(rank, world_size, network, data, chosen, attributes):
    """The figures of some samples, as each worker has them."""
    context = LocalContext(Path(), rank, world_size)
    return Measured(context, data, chosen).figures(network, attributes)


def distance(one, other):
    """Between two state dicts."""
    squares = [((one[n].double() - other[n].double()) ** 2).sum() for n in one]
    return float(torch.stack(squares).sum().sqrt())


def without_statistics(plan: TrainPlan, **changes: object) -> TrainPlan:
    """A plan whose results do not depend on which samples share a worker."""
    return replace(plan, recipe=replace(plan.recipe, freeze_batch_norm=True, **changes))
