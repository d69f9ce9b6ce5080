"""A labeller in plain processes that take a few images at a time from one list."""

from __future__ import annotations

import multiprocessing as mp
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from benchmarks.annotate.labellers import Labelled, Labeller, Models

IMAGES_AT_ONCE = 8
PATIENCE_S = 300.0

Make = Callable[[Models], Labeller]


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some images done; times are ``time.monotonic``'s, which all processes share."""

    paths: Sequence[Path]
    labelled: Labelled
    started: float
    ended: float


def chunks_of(paths: Sequence[Path]) -> list[list[Path]]:
    """In their order."""
    starts = range(0, len(paths), IMAGES_AT_ONCE)
    return [list(paths[start : start + IMAGES_AT_ONCE]) for start in starts]


def timed(label: Labeller, paths: Sequence[Path]) -> Chunk:
    """Label some images."""
    started = time.monotonic()
    labelled = label(paths)
    return Chunk(paths, labelled, started, time.monotonic())


def work(
    make: Make, models: Models, todo: Queue[list[Path] | None], done: Queue[Chunk], ready: Barrier
) -> None:
    """A process: load, wait for the others, and label until there is nothing left."""
    label = make(models)
    ready.wait(PATIENCE_S)
    while (paths := todo.get()) is not None:
        done.put(timed(label, paths))


class Crew:
    """The processes of a run."""

    def __init__(self, make: Make, models: Models, size: int) -> None:
        context = mp.get_context("spawn")
        self._todo: Queue[list[Path] | None] = context.Queue()
        self._done: Queue[Chunk] = context.Queue()
        self._ready = context.Barrier(size)
        arguments = (make, models, self._todo, self._done, self._ready)
        self._processes: list[BaseProcess] = [
            context.Process(target=work, args=arguments, daemon=True) for _ in range(size)
        ]

    def start(self, paths: Sequence[Path]) -> None:
        """Begin; work waits until all have loaded."""
        for one in [*chunks_of(paths), *([None] * len(self._processes))]:
            self._todo.put(one)
        for process in self._processes:
            process.start()

    @property
    def pids(self) -> list[int]:
        """Of those started."""
        return [process.pid for process in self._processes if process.pid]

    def results(self, count: int) -> Iterator[Chunk]:
        """As many chunks as there are, in the order in which they were done.

        Raises:
            RuntimeError: A process ended early.
        """
        while count:
            try:
                chunk = self._done.get(timeout=1)
            except queue.Empty:
                codes = [process.exitcode for process in self._processes]
                if any(codes) or None not in codes:
                    raise RuntimeError(f"a process ended early, exit codes {codes}") from None
                continue
            count -= 1
            yield chunk

    def stop(self) -> None:
        """End all that still run."""
        for process in self._processes:
            process.join(5)
            process.kill()


@contextmanager
def crew(make: Make, models: Models, size: int, paths: Sequence[Path]) -> Iterator[Crew]:
    """Processes at work, ended on leaving."""
    workers = Crew(make, models, size)
    workers.start(paths)
    try:
        yield workers
    finally:
        workers.stop()
