"""A family of processes seen from outside: CPU seconds over time, and peak memory by kind.

Read from /proc twice a second. What a short-lived process did after it was last seen is lost. Peak
memory is VmHWM, shared pages included.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np

from benchmarks.memory import descendants
from fattr.build import cpu_count

EVERY_S = 0.5
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Watch:
    """Watches while it is entered; ``kind`` names a process by its command line."""

    def __init__(self, *pids: int, kind: Callable[[str], str]) -> None:
        self._pids, self._kind = pids, kind
        self._cpu_s: dict[int, float] = {}
        self._samples: list[tuple[float, float, float]] = []  # monotonic, own CPU s, all CPU s
        self.peak_mb: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._sample()

    def busy(self, start: float, end: float) -> tuple[float, float]:
        """Shares of all cores that the family, and that all others used, between two times.

        Times are ``time.monotonic``'s.
        """
        at, own, everyone = np.array(self._samples).T
        mine, total = (np.diff(np.interp([start, end], at, used))[0] for used in (own, everyone))
        room = max(end - start, 1e-9) * cpu_count()
        return float(mine / room), float(max(0.0, total - mine) / room)

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self._sample()

    def _sample(self) -> None:
        for pid in {found for root in self._pids for found in descendants(root)}:
            try:
                self._look(pid, Path(f"/proc/{pid}"))
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
        self._samples.append((time.monotonic(), sum(self._cpu_s.values()), machine_cpu_s()))

    def _look(self, pid: int, folder: Path) -> None:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        self._cpu_s[pid] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1")
        status = (folder / "status").read_text()
        if title and "VmHWM:" in status:  # otherwise it has ended and nobody has waited for it
            kind = self._kind(title)
            mb = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
            self.peak_mb[kind] = round(max(mb, self.peak_mb.get(kind, 0.0)), 1)


def machine_cpu_s() -> float:
    """CPU seconds used by all processes since the machine was started."""
    user, nice, system, _idle, _wait, irq, soft = Path("/proc/stat").read_text().split()[1:8]
    return sum(map(int, (user, nice, system, irq, soft))) / TICKS_PER_S
