"""What a drill found: checks by name, figures, and one line for whoever ran it."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Verdict:
    """Filled as the drill goes."""

    drill: str
    checks: dict[str, str] = field(default_factory=dict)  # name -> what is wrong, "" where nothing
    figures: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def check(self, name: str, *problems: str) -> None:
        """Note a check; it holds where no problem is named."""
        self.checks[name] = "; ".join(problem for problem in problems if problem)

    @property
    def is_good(self) -> bool:
        """Whether something was checked and all of it holds."""
        return bool(self.checks) and not any(self.checks.values())

    @property
    def line(self) -> str:
        """The verdict in one line."""
        bad = [f"{name}: {problem}" for name, problem in self.checks.items() if problem]
        figures = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        said = "; ".join(bad) or ", ".join(self.checks)
        return f"{self.drill}: {'good' if self.is_good else 'BAD'} ({said}); {figures}"

    def write(self, path: Path) -> None:
        """Everything as JSON."""
        content = {
            "drill": self.drill,
            "is_good": self.is_good,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "python": platform.python_version(),
            "seconds": round(time.monotonic() - self.started, 1),
            "checks": {name: problem or "holds" for name, problem in self.checks.items()},
            "figures": self.figures,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, default=str) + "\n")


def conclude(verdict: Verdict, report: str) -> int:
    """Write the verdict where asked, say its line; the exit code."""
    if report:
        verdict.write(Path(report))
    print(verdict.line, flush=True)
    return 0 if verdict.is_good else 1


@contextmanager
def room(folder: str) -> Iterator[Path]:
    """The folder to work in; one of its own, deleted afterwards, where none is named."""
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="fattr-drill-") as own:
        yield Path(own)
