"""When each step of a worker began and how long it took, as a trace that Chrome and Perfetto open.

Bounded however long a run is: of each thread only the first steps are told, and of all threads only
so many are held. A span names no image.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

MAX_STEPS = 2_000  # of a thread: about 700 images
MAX_SPANS = 200_000  # of a run: 100 such threads; about 20 MB of JSON
MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Span:
    """One step of a worker, such as detect, on one image or a few."""

    step: str
    started_s: float  # since the epoch, by the clock of its host
    seconds: float
    host: str
    process: int
    thread: int  # no other of the host has the same while it lives


Took: TypeAlias = Callable[[str, float], float]
OnSpans: TypeAlias = Callable[[list[Span]], None]


def seconds_since(step: str, started: float) -> float:
    """Seconds since ``started``, of ``time.perf_counter``; nobody is told of the step."""
    return time.perf_counter() - started


class Recorder:
    """Puts down the first ``max_steps`` steps of each thread of this process.

    Args:
        on_spans: Gets them, some at a time, where ``tell`` is called.
        max_steps: Of a thread.
    """

    def __init__(self, on_spans: OnSpans, *, max_steps: int = MAX_STEPS) -> None:
        self._on_spans, self._max_steps = on_spans, max_steps
        self._epoch_s = time.time() - time.perf_counter()  # once: a clock may be set meanwhile
        self._where = socket.gethostname(), os.getpid()
        self._num_steps = Counter[int]()
        self._spans: list[Span] = []

    def took(self, step: str, started: float) -> float:
        """A step ends that began at ``started``, of ``time.perf_counter``; its seconds."""
        seconds, thread = time.perf_counter() - started, threading.get_native_id()
        if self._num_steps[thread] < self._max_steps:
            self._num_steps[thread] += 1
            began_s = self._epoch_s + started
            self._spans.append(Span(step, began_s, seconds, *self._where, thread))
        return seconds

    def tell(self) -> None:
        """Hand on what was put down since; to be called when no step is under way."""
        spans, self._spans = self._spans, []
        if spans:
            self._on_spans(spans)


class Trace:
    """The spans of a run, the first ``max_spans`` that come."""

    def __init__(self, *, max_spans: int = MAX_SPANS) -> None:
        self._max_spans = max_spans
        self.spans: list[Span] = []

    def add(self, spans: Iterable[Span]) -> None:
        """These too, as long as there is room."""
        self.spans += list(spans)[: self._max_spans - len(self.spans)]

    def to_json(self) -> bytes:
        """Chrome's trace event format: a process for each host, a track for each thread."""
        hosts = {host: n for n, host in enumerate(sorted({s.host for s in self.spans}), start=1)}
        tracks = {(s.host, s.process, s.thread) for s in self.spans}
        events = [
            *(_name("process_name", f"host {host}", pid=pid) for host, pid in hosts.items()),
            *(
                _name("thread_name", f"process {process}", pid=hosts[host], tid=thread)
                for host, process, thread in sorted(tracks)
            ),
            *_steps(self.spans, hosts),
        ]
        trace = {"displayTimeUnit": "ms", "traceEvents": events}
        return json.dumps(trace, separators=(",", ":")).encode()


def _name(kind: str, name: str, **track: int) -> dict[str, Any]:
    return {"name": kind, "ph": "M", **track, "args": {"name": name}}


def _steps(spans: Iterable[Span], hosts: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Complete events; both ends are rounded, so that what follows a step never overlaps it."""
    for span in spans:
        begin = round(span.started_s * MICROSECONDS)
        end = round((span.started_s + span.seconds) * MICROSECONDS)
        yield {
            "name": span.step,
            "ph": "X",
            "ts": begin,
            "dur": end - begin,
            "pid": hosts[span.host],
            "tid": span.thread,
        }
