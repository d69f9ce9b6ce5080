"""What happened when in a run, short however long the run is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

MAX_SAMPLES = 256
MAX_EVENTS = 256


class Timeline:
    """Events, and how many images were done after how many seconds.

    When ``max_samples`` are held, every other is let go, and from then on they lie twice as far
    apart; the newest is always held. Of more than ``MAX_EVENTS`` events, as of a run that was
    continued time and again, the first half and the newest are held.
    """

    def __init__(self, *, max_samples: int = MAX_SAMPLES) -> None:
        self._max_samples = max_samples
        self._events: list[dict[str, Any]] = []
        self._samples: list[tuple[float, int]] = []
        self._apart_s = 0.0

    @classmethod
    def from_json(
        cls, content: Mapping[str, Any] | None, *, max_samples: int = MAX_SAMPLES
    ) -> Timeline:
        """The timeline that ``to_json`` told, to go on with; None starts an empty one."""
        timeline = cls(max_samples=max_samples)
        if content is not None:
            timeline._events = [dict(event) for event in content["events"]]
            timeline._samples = [(float(s), int(n)) for s, n in content["throughput"]]
            timeline._apart_s = float(content["apart_s"])
        return timeline

    def to_json(self) -> dict[str, Any]:
        """``events``, ``throughput`` as pairs of seconds and images done, and their distance."""
        return {
            "events": [dict(event) for event in self._events],
            "throughput": [[seconds, done] for seconds, done in self._samples],
            "apart_s": self._apart_s,
        }

    def event(self, name: str, at: datetime, **details: Any) -> None:  # noqa: ANN401 -- JSON
        """Something happened at a time, which knows its zone."""
        self._events.append({"at": at.isoformat(timespec="seconds"), "event": name, **details})
        if len(self._events) > MAX_EVENTS:
            del self._events[MAX_EVENTS // 2]

    def sample(self, seconds: float, num_done: int) -> None:
        """``num_done`` images are done, ``seconds`` into the run."""
        newest = (round(seconds, 1), num_done)
        if len(self._samples) > 1 and newest[0] - self._samples[-2][0] < self._apart_s:
            self._samples[-1] = newest
            return
        self._samples.append(newest)
        if len(self._samples) > self._max_samples:
            self._thin_out()

    def _thin_out(self) -> None:
        *older, newest = self._samples
        self._samples = [*older[::2], newest]
        spans = self._samples[-1][0] - self._samples[0][0]
        self._apart_s = max(2 * self._apart_s, 2 * spans / self._max_samples)
