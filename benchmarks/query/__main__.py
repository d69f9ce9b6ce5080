"""How long typical questions to ten million faces take in DuckDB, over published files.

    python -m benchmarks.query --faces 10_000_000 [--folder DIR] [--report FILE.json]

Writes a made-up OUTPUT (``made_up``; 300 bytes a face, so 30 GB for a hundred million), and asks
five questions by ``fattr.open_tables``, by its ``views.sql`` and over a plain glob. "Cold" has none
of the files in the page cache and includes opening; "warm" is the median of the turns that follow
on the same connection, and "CPU" their seconds of all threads, which neighbours on the machine
hardly change. Goal: every question below 2 s, warm, on two cores.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import tyro

from benchmarks.faults.verdict import Verdict, conclude, room
from benchmarks.query.made_up import make_output
from benchmarks.query.questions import Answer, ask_all, ways_of

GOAL_S = 2.0
HEADER = f"{'way':12} {'question':28} " + " ".join(
    f"{name:>8}" for name in ("cold s", "warm s", "CPU s", "MiB read", "rows")
)


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    faces: int = 10_000_000
    """About how many faces."""
    runs: int = 10
    """Nights over which they are spread; each does a hundredth of the earlier images again."""
    turns: int = 3
    """How often a question is asked warm."""
    threads: int = 2
    """Of DuckDB and of Arrow."""
    memory_limit: str = "4GB"
    """Of DuckDB."""
    folder: str = ""
    """Where the OUTPUT is written, or lies already; empty: a temporary folder."""
    report: str = ""
    """File for the figures as JSON."""


def measure(settings: Settings, output: Path) -> Verdict:
    """Write the OUTPUT where there is none, ask everything, and print a table."""
    pa.set_cpu_count(settings.threads)
    verdict = Verdict("query")
    verdict.figures |= {"duckdb": duckdb.__version__, "pyarrow": pa.__version__}
    verdict.figures |= {name: getattr(settings, name) for name in ("threads", "memory_limit")}
    if not (output / "views.sql").exists():
        verdict.figures["seconds_to_write"] = write(settings, output)
    sizes = [path.stat().st_size for path in (output / "faces").rglob("*.parquet")]
    verdict.figures |= {"files_of_faces": len(sizes), "mib_of_faces": round(sum(sizes) / 2**20)}
    print(HEADER)
    answers = []
    for way in ways_of(output, threads=settings.threads, memory_limit=settings.memory_limit):
        for answer in ask_all(output, way, settings.turns):
            print(line_of(answer), flush=True)
            answers.append(answer)
    check(verdict, answers)
    verdict.figures["answers"] = [answer.figures for answer in answers]
    return verdict


def check(verdict: Verdict, answers: Sequence[Answer]) -> None:
    """Every way is fast enough, and the two that show the newest rows say the same."""
    by_way = {
        way: [answer for answer in answers if answer.way == way]
        for way in dict.fromkeys(answer.way for answer in answers)
    }
    for way, found in by_way.items():
        slow = [f"{a.question} {a.warm.wall:.2f} s" for a in found if a.warm.wall > GOAL_S]
        verdict.check(f"{way} answers within {GOAL_S:.0f} s", *slow)
    pairs = zip(by_way["open_tables"], by_way["views.sql"], strict=True)
    differing = [one.question for one, other in pairs if not one.equals(other)]
    verdict.check("open_tables and views.sql answer alike", *differing)


def write(settings: Settings, output: Path) -> float:
    """Make the OUTPUT where the disk has room; seconds."""
    needed, free = settings.faces * 320, shutil.disk_usage(output).free
    if needed > free:
        raise SystemExit(f"{output} has {free >> 30} GiB free: about {needed >> 30} are needed")
    started = time.monotonic()
    make_output(
        output,
        num_faces=settings.faces,
        num_runs=settings.runs,
        num_threads=settings.threads,
    )
    return round(time.monotonic() - started, 1)


def line_of(answer: Answer) -> str:
    """One line of the printed table."""
    cold, warm = answer.cold, answer.warm
    return (
        f"{answer.way:12} {answer.question:28} {cold.wall:8.2f} {warm.wall:8.2f} {warm.cpu:8.2f}"
        f" {answer.mib_read:8.1f} {len(answer.rows):8}"
    )


def main(settings: Settings) -> int:
    """Measure and conclude."""
    with room(settings.folder) as folder:
        verdict = measure(settings, folder)
    if settings.report:
        verdict.write(Path(settings.report))
    del verdict.figures["answers"]
    return conclude(verdict, "")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
