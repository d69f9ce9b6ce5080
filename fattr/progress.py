"""Long work on show: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TextIO, TypeVar

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.text import Text

log = logging.getLogger(__name__)

T = TypeVar("T")
Clock = Callable[[], float]
LOG_EVERY_S = 20.0
RATE_WINDOW_S = 60.0
SHOW_EVERY_S = 0.1
_STEPS = 60  # of a window: its memory does not grow with the speed
_BAR_WIDTH = 24  # leaves room for counts of a hundred million on 80 columns
_SECONDS = "_s"


class Rate:
    """How many a second, over the last minute: a resumed or a stalled run shows its speed now."""

    def __init__(self, *, window_s: float = RATE_WINDOW_S, clock: Clock = time.monotonic) -> None:
        self._window_s, self._clock = window_s, clock
        self._first = clock()
        self._recent: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def add(self, count: float) -> None:
        """``count`` more, now."""
        now = self._clock()
        if self._recent and now - self._recent[-1][0] < self._window_s / _STEPS:
            self._recent[-1] = (self._recent[-1][0], self._recent[-1][1] + count)
        else:
            self._recent.append((now, count))
        self._sum += count

    def per_second(self) -> float:
        """Things a second; 0 where nothing came within the window."""
        now = self._clock()
        while self._recent and self._recent[0][0] < now - self._window_s:
            self._sum -= self._recent.popleft()[1]
        if not self._recent:
            self._sum = 0.0  # what rounding left of floats
        return self._sum / max(min(now - self._first, self._window_s), 1e-9)


class _Shown(Progress):
    """One task, and below it a line of its own for the note, as wide as the terminal."""

    note = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.note:
            yield Text(self.note, style="dim")


class _OnShow:
    """A display that is live on a terminal, and says a log line every ``LOG_EVERY_S`` elsewhere."""

    def __init__(
        self, *columns: ProgressColumn, what: str, total: float | None, initial: int, clock: Clock
    ) -> None:
        console = Console(stderr=True)
        self._is_terminal, self._clock = console.is_terminal, clock
        self._logged = self._updated = clock()
        self._shown = _Shown(
            TextColumn("{task.description}"),
            *columns,
            TextColumn("{task.fields[counts]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._shown.add_task(what, total=total, completed=initial, counts="")

    def is_due(self) -> bool:
        """Whether it is worth the time to say what is new."""
        return self._clock() - self._updated >= SHOW_EVERY_S

    def start(self) -> None:
        """Show it; lines that are logged meanwhile stand above it."""
        plain = sys.stderr
        self._shown.start()
        _move_log(plain, sys.stderr)

    def stop(self) -> None:
        """Leave it as it is."""
        above = sys.stderr
        self._shown.stop()
        _move_log(above, sys.stderr)

    def update(self, done: int, counts: str, note: str, line: str) -> None:
        self._updated = self._clock()
        self._shown.note = note
        self._shown.update(self._task, completed=done, counts=counts)
        if not self._is_terminal and self._clock() - self._logged >= LOG_EVERY_S:
            self._logged = self._clock()
            log.info("%s", line)


class Bar:
    """A count of ``total`` things done, how fast, the time left, and a note below.

    Args:
        what: What is done, as in ``annotating``.
        total: How many things there are; 0 is fine.
        unit: What they are, as in ``images``.
        initial: How many of them were done before; they count for the bar, not for the speed.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        what: str,
        total: int,
        *,
        unit: str = "",
        initial: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._what, self._total, self._unit, self.done = what, total, unit, initial
        self._rate, self._note = Rate(clock=clock), ""
        self._display = _OnShow(
            BarColumn(_BAR_WIDTH), what=what, total=total, initial=initial, clock=clock
        )

    def __enter__(self) -> Bar:
        self._update()
        self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._update()
        self._display.stop()

    def advance(self, count: int, note: str = "") -> None:
        """``count`` more are done."""
        self._rate.add(count)
        self.done, self._note = self.done + count, note
        if self._display.is_due():
            self._update()

    def _update(self) -> None:
        per_second = self._rate.per_second()
        speed = f"{per_second:,.1f} {self._unit}/s".replace(" /s", "/s") if per_second else ""
        left = time_left(self._total - self.done, per_second)
        line = f"{self._what}: {self.done:,} of {self._total:,}{_percent(self.done, self._total)}"
        self._display.update(
            self.done,
            _listed(f"{self.done:,}/{self._total:,}", speed, left),
            self._note,
            _listed(line, speed, left, self._note),
        )


class ListingBar:
    """A count of things whose total nobody knows yet, as while a bucket is listed."""

    def __init__(
        self, what: str = "listing", unit: str = "images", *, clock: Clock = time.monotonic
    ) -> None:
        self._what, self._unit, self.done = what, unit, 0
        self._rate = Rate(clock=clock)
        self._display = _OnShow(SpinnerColumn(), what=what, total=None, initial=0, clock=clock)

    def __enter__(self) -> ListingBar:
        self._update()
        self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._update()
        self._display.stop()

    def advance(self, count: int) -> None:
        """``count`` more were seen."""
        self._rate.add(count)
        self.done += count
        if self._display.is_due():
            self._update()

    def reach(self, done: int) -> None:
        """``done`` were seen so far."""
        self.advance(done - self.done)

    def _update(self) -> None:
        per_second = self._rate.per_second()
        counts = f"{self.done:,} {self._unit}"
        speed = f"{per_second:,.0f}/s" if per_second else ""
        self._display.update(
            self.done, _listed(counts, speed), "", _listed(f"{self._what}: {counts}", speed)
        )


class AnnotateBar:
    """Images done, speed, time left, counts by status, and which stage takes how much of the work.

    Args:
        num_images: Images of the run.
        initial: How many of them an earlier attempt at the run has done.
        clock: Seconds, never going back.
    """

    def __init__(self, num_images: int, *, initial: int = 0, clock: Clock = time.monotonic) -> None:
        self._bar = Bar("annotating", num_images, unit="images", initial=initial, clock=clock)
        self._faces = Rate(clock=clock)
        self._counts: Counter[str] = Counter()
        self._stage_seconds: dict[str, float] = {}

    @property
    def done(self) -> int:
        """Images done so far, those of earlier attempts included."""
        return self._bar.done

    def __enter__(self) -> AnnotateBar:
        self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.__exit__()

    def add(self, counts: Mapping[str, float]) -> None:
        """These many more images by status; ``faces``; and seconds of work, as in ``detect_s``.

        Empty counts are a sign of life: the speed falls, and a line is logged when one is due.
        """
        images = Counter({name: int(count) for name, count in counts.items() if _is_status(name)})
        self._counts.update(images)
        self._faces.add(counts.get("faces", 0))
        for name, seconds in counts.items():
            if name.endswith(_SECONDS):
                self._stage_seconds[name] = self._stage_seconds.get(name, 0.0) + seconds
        self._bar.advance(images.total(), self._note())

    def _note(self) -> str:
        statuses = " ".join(f"{name} {count:,}" for name, count in self._counts.most_common())
        parts = (f"{self._faces.per_second():,.1f} faces/s", statuses, self._shares())
        return "; ".join(filter(None, parts))

    def _shares(self) -> str:
        """Of the seconds that all workers spent; empty where nobody told them."""
        total = sum(self._stage_seconds.values())
        if total <= 0:
            return ""
        shares = (
            f"{s.removesuffix(_SECONDS)} {n / total:.0%}" for s, n in self._stage_seconds.items()
        )
        return "busy: " + " ".join(shares)


def track(items: Iterator[T], *, what: str, total: int) -> Iterator[T]:
    """The same items, counted on show."""
    with Bar(what, total) as bar:
        for item in items:
            yield item
            bar.advance(1)


def time_left(num_left: int, per_second: float) -> str:
    """How long the rest takes at this speed, as in ``1 h 05 min left``; empty where unknown."""
    if per_second <= 0 or num_left <= 0:
        return ""
    seconds = num_left / per_second
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s left"
    if minutes < 60:
        return f"{minutes} min left"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min left"
    return f"{minutes / (24 * 60):.1f} days left"


def _move_log(old: TextIO, new: TextIO) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is old is not new:
            handler.setStream(new)


def _percent(done: int, total: int) -> str:
    return f" ({done / total:.1%})" if total else ""


def _listed(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _is_status(name: str) -> bool:
    return name != "faces" and not name.endswith(_SECONDS)
