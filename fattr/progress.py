"""Long work on show: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)

T = TypeVar("T")
LOG_EVERY_S = 20.0


class Bar:
    """A count of ``total`` things done with a note beside it."""

    def __init__(self, what: str, total: int) -> None:
        console = Console(stderr=True)
        self._what, self._total, self._done = what, total, 0
        self._logged = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=total, note="")
        self._is_terminal = console.is_terminal

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, count: int, note: str = "") -> None:
        """``count`` more are done."""
        self._done += count
        self._bar.update(self._task, advance=count, note=note)
        now = time.monotonic()
        if not self._is_terminal and now - self._logged >= LOG_EVERY_S:
            self._logged = now
            log.info("%s: %d of %d %s", self._what, self._done, self._total, note)


class AnnotateBar:
    """Images done, with images/s, faces/s and counts by status."""

    def __init__(self, num_images: int) -> None:
        self._bar = Bar("annotating", num_images)
        self._counts: Counter[str] = Counter()
        self._started = time.monotonic()

    def __enter__(self) -> AnnotateBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def add(self, counts: Counter[str]) -> None:
        """These many more images by status, and ``faces``."""
        self._counts.update(counts)
        faces = self._counts["faces"]
        done = self._counts.total() - faces
        seconds = max(time.monotonic() - self._started, 1e-9)
        statuses = " ".join(f"{k} {n}" for k, n in self._counts.most_common() if k != "faces")
        note = f"{done / seconds:.1f} images/s, {faces / seconds:.1f} faces/s; {statuses}"
        self._bar.advance(counts.total() - counts["faces"], note)


def track(items: Iterator[T], *, what: str, total: int) -> Iterator[T]:
    """The same items, counted on show."""
    with Bar(what, total) as bar:
        for item in items:
            yield item
            bar.advance(1)
