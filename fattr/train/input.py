"""Feeds the training loop: crops are read, cut and augmented in processes beside it.

What a sample is made of travels to them with each batch: the crop, or where it is cut. So no
process holds the data set, wherever its memory lies, and what it makes depends on the position in
the epoch alone, never on which process made it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fattr.errors import FattrError, RunError
from fattr.labelled_crops import Cut, LabelledCrops
from fattr.records import UInt8Array
from fattr.train.batches import Change, Drawn, Samples, batch_positions
from fattr.train.plan import TrainPlan

BATCHES_AHEAD = 2  # of each process
MOST_PROCESSES = 16  # beside one GPU
CPUS_PER_PROCESS = 4  # where the network computes on CPUs
READ_AT_ONCE = 4  # images of a batch, by one process: storage may be far away

Batch = tuple[Tensor, Tensor]  # crops (n, h, w, 3) uint8, targets (n, A) int64


class Feed:
    """This worker's part of each whole global batch, made ahead of the loop that asks for it.

    The same batches for every number of processes; with 0 they are made here, when asked for. To
    be left as a context manager, which ends the processes.

    Args:
        data: All samples, held or streamed.
        plan: Order, batch size and augmentation.
        num_processes: How many make batches; see ``default_processes``.
        pin: Batches lie in pinned memory, from where they go to a GPU unawaited.
    """

    def __init__(
        self, data: LabelledCrops, plan: TrainPlan, *, num_processes: int, pin: bool = False
    ) -> None:
        samples = Samples(data, plan)
        self._batches = _Batches(samples, len(data), plan.recipe.batch_size)
        options = _process_options(num_processes) if num_processes else {}
        self._loader = DataLoader(
            _Make(samples.change),
            sampler=self._batches,
            batch_size=None,  # what the sampler yields is a whole batch
            pin_memory=pin,
            generator=torch.Generator(),  # it draws a seed from one at every epoch: not the loop's
            **options,
        )
        self._iterator: Any = None  # of the epoch, once its first batch was asked for
        self.waited_s = 0.0  # since the epoch began, for batches that were not ready

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        if self._loader._iterator is not None:  # else they live as long as a traceback refers to it
            self._loader._iterator._shutdown_workers()  # type: ignore[attr-defined]

    def epoch(self, epoch: int, first_position: int, rank: int, world_size: int) -> Iterator[Batch]:
        """Batches of an epoch from a position on; an epoch that was left early is left for good.

        Raises:
            UsageError: an image is missing or cannot be decoded.
            StorageError: the storage failed, perhaps only for now.
            RunError: a process ended.
        """
        self.waited_s, self._iterator = 0.0, None
        self._batches.begin(epoch, first_position, rank, world_size)
        return iter(self._next, None)

    def _next(self) -> Batch | None:
        started = time.monotonic()
        made = self._made()
        self.waited_s += time.monotonic() - started
        if isinstance(made, FattrError):
            raise made
        return made

    def _made(self) -> Batch | FattrError | None:
        try:
            if self._iterator is None:
                self._iterator = iter(self._loader)
            made: Batch | FattrError | None = next(self._iterator, None)
        # torch's own words; or, where the process ended while it handed over a batch, a socket's.
        except (RuntimeError, OSError, EOFError) as err:
            if self._loader.num_workers == 0:
                raise
            said = (str(err).splitlines() or [type(err).__name__])[0]
            raise RunError(
                f"a process that makes batches failed ({said}), perhaps for"
                " want of memory or of room in /dev/shm: run the same command again, with fewer"
                " --input-processes"
            ) from err
        return made


def default_processes(num_cpus: int, *, on_gpu: bool) -> int:
    """How many processes feed one worker that has so many CPUs to itself.

    A network on CPUs takes several times as long for a crop as making it, and needs the CPUs.
    """
    return min(MOST_PROCESSES, max(1, num_cpus - 1)) if on_gpu else num_cpus // CPUS_PER_PROCESS


class _Batches(Sampler[list[Drawn]]):
    """The batches of the epoch begun last, each as what it is made of."""

    def __init__(self, samples: Samples, num_samples: int, batch_size: int) -> None:
        self._samples, self._num_samples, self._batch_size = samples, num_samples, batch_size
        self.begin(0, 0, 0, 1)

    def begin(self, epoch: int, first_position: int, rank: int, world_size: int) -> None:
        """Yield these from the next iteration on."""
        self._epoch, self._first = epoch, first_position
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[list[Drawn]]:
        for positions in batch_positions(
            self._num_samples,
            self._batch_size,
            first_position=self._first,
            rank=self._rank,
            world_size=self._world_size,
        ):
            yield [self._samples.drawn(self._epoch, position) for position in positions]


class _Make(Dataset[Batch | FattrError]):
    """Batches of what they are made of, wherever this runs."""

    def __init__(self, change: Change) -> None:
        self._change = change

    def __getitem__(self, batch: list[Drawn]) -> Batch | FattrError:
        """The batch, or why there is none: an exception would arrive as a traceback's text."""
        try:
            read = _read(batch)
        except FattrError as err:
            return err
        with _one_thread():
            crops, targets = zip(*map(self._change, batch, read), strict=True)
            return torch.stack(crops), torch.stack(targets)


def _read(batch: Sequence[Drawn]) -> list[UInt8Array]:
    """The crops of a batch, several at once where they have to be fetched."""
    if not any(isinstance(drawn.source, Cut) for drawn in batch):
        return [drawn.crop() for drawn in batch]
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        return list(pool.map(Drawn.crop, batch))


@contextmanager
def _one_thread() -> Iterator[None]:
    """More would share out a crop's few pixels, and wait for one another.

    On two busy cores an augmentation took 1.5 ms of CPU time with one thread, 18 to 65 with two.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _process_options(num_processes: int) -> dict[str, Any]:
    """Processes of a server that has imported all this and started no thread.

    A fork of this process itself could inherit a lock that one of its threads holds (Ray's,
    torch's, boto3's) and would keep a copy of what it is about to change.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return {
        "num_workers": num_processes,
        "persistent_workers": True,
        "prefetch_factor": BATCHES_AHEAD,
        "multiprocessing_context": context,
        "worker_init_fn": _end_with_parent,
    }


def _end_with_parent(_: int) -> None:
    """A killed parent takes this process along: torch looks only at who forked it, the server."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
