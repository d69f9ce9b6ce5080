"""Processes that all train and of which one at a time is let run: their seconds a step.

A shared machine's speed drifts by a tenth within a minute, which turns of a minute would measure.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WARM_UP = 2  # steps of each slice, the first of which was begun in the slice before
START_S = 240.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Runner:
    """A training that has its own process, and others below it."""

    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path  # gets the machine's monotonic clock at the end of each step, a line each


def family(pid: int) -> list[int]:
    """A process and all below it, from the top."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for member in found:
        found.extend(children.get(member, ()))
    return found


def signal_all(pid: int, number: signal.Signals) -> None:
    """To a process and all below it."""
    for member in family(pid):
        try:
            os.kill(member, number)
        except ProcessLookupError:
            continue


def ends_of_steps(log: Path) -> Floats:
    """When steps ended so far."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    return np.array([float(line) for line in lines if line.endswith("\n")])


@contextmanager
def stopped(runner: Runner) -> Iterator[int]:
    """The id of a process that trains, stopped once it has begun; killed at the block's end."""
    process = subprocess.Popen(runner.command, env=os.environ | runner.environment)
    try:
        give_up = time.monotonic() + START_S
        while len(ends_of_steps(runner.log)) < 3 * WARM_UP:
            if process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"did not begin: {' '.join(runner.command)}")
            time.sleep(0.5)
        signal_all(process.pid, signal.SIGSTOP)
        yield process.pid
    finally:
        signal_all(process.pid, signal.SIGKILL)
        process.wait()


def measure(
    runners: Mapping[str, Runner], *, num_turns: int, slice_s: float
) -> dict[str, list[float]]:
    """Mean seconds a step of each runner, slice by slice; in each turn every one has a slice."""
    slices: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    with ExitStack() as stack:
        pids = {name: stack.enter_context(stopped(each)) for name, each in runners.items()}
        for _ in range(num_turns):
            for name, pid in pids.items():
                begin = time.monotonic()
                signal_all(pid, signal.SIGCONT)
                time.sleep(slice_s)
                signal_all(pid, signal.SIGSTOP)
                slices[name].append((begin, time.monotonic()))
        ends = {name: ends_of_steps(each.log) for name, each in runners.items()}
    return {
        name: [seconds_a_step(ends[name], *times) for times in slices[name]] for name in runners
    }


def seconds_a_step(ends: Floats, begin: float, end: float) -> float:
    """Mean of the steps that lie within a slice as a whole, its first ones left out."""
    within = ends[(ends > begin) & (ends < end)][WARM_UP:]
    if len(within) < 2:
        raise SystemExit(f"hardly a step in {end - begin:.1f} s: take a longer --slice-s")
    return float(np.diff(within).mean())


def speeds_beside(seconds: Sequence[float], base: Sequence[float]) -> Floats:
    """Speed as a share of another runner's, whose slices came before: one figure a turn but one.

    Each slice is compared with the mean of the other's before and after it: drift cancels out.
    """
    before = np.asarray(base)
    shares: Floats = (before[:-1] + before[1:]) / 2 / np.asarray(seconds)[:-1]
    return shares
