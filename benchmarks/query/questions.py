"""Five questions of the usual kinds, asked in several ways, with seconds and bytes read."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

import fattr
from benchmarks.increment import Seconds
from benchmarks.query.made_up import ATTRIBUTES
from fattr.attributes import Kind

Rows = list[tuple[object, ...]]
Ask = Callable[[str], Rows]

# A quarter less work for DuckDB than avg(label::INT), with the same result.
_SHARES = ", ".join(
    f"count_if({a.name}) / count({a.name}) AS {a.name}" for a in ATTRIBUTES if a.kind is Kind.BINARY
)
QUESTIONS = {
    "shares of all attributes": f"SELECT {_SHARES} FROM faces",
    "ages by day": """
        SELECT dt, floor(age / 10)::INT * 10 AS decade, count(*) AS num_faces
        FROM faces GROUP BY ALL ORDER BY ALL""",
    "three attributes together": """
        SELECT perceived_gender_presentation, smiling, eyeglasses, count(*) AS num_faces
        FROM faces GROUP BY ALL ORDER BY ALL""",
    "top 20 by probability": """
        SELECT image_uri, face_index, smiling_prob
        FROM faces ORDER BY smiling_prob DESC, image_uri, face_index LIMIT 20""",
    "faces with their images": """
        SELECT width, least(num_faces, 5) AS people, count(*) AS faces,
               avg(smiling::INT) AS smiling_share
        FROM faces JOIN images USING (image_id) GROUP BY ALL ORDER BY ALL""",
}


@dataclass(frozen=True, slots=True)
class Way:
    """How tables are opened: ``open`` gives what answers a query."""

    name: str
    open: Callable[[], Ask]


@dataclass(slots=True)
class Answer:
    """What one question took in one way."""

    way: str
    question: str
    cold: Seconds
    mib_read: float
    rows: Rows
    turns: list[Seconds] = field(default_factory=list)

    @property
    def warm(self) -> Seconds:
        """The medians of the turns."""
        wall, cpu = ([getattr(s, name) for s in self.turns] for name in ("wall", "cpu"))
        return Seconds(statistics.median(wall), statistics.median(cpu))

    @property
    def figures(self) -> dict[str, object]:
        """For a report."""
        times = {"cold": self.cold, "warm": self.warm}
        return {
            "way": self.way,
            "question": self.question,
            **{f"{name}_s": round(s.wall, 3) for name, s in times.items()},
            **{f"{name}_cpu_s": round(s.cpu, 3) for name, s in times.items()},
            "mib_read": round(self.mib_read, 1),
            "rows": len(self.rows),
        }

    def equals(self, other: Answer) -> bool:
        """Whether the rows are the same; sums of floats may be added up in another order."""
        return _rounded(self.rows) == _rounded(other.rows)


def _rounded(rows: Rows) -> list[list[object]]:
    return [[round(v, 6) if isinstance(v, float) else v for v in row] for row in rows]


def ways_of(output: Path, *, threads: int, memory_limit: str) -> list[Way]:
    """``open_tables``, ``views.sql`` in DuckDB, and a plain glob over the files."""
    settings = [f"SET threads = {threads}", f"SET memory_limit = '{memory_limit}'"]

    def by_open_tables() -> Ask:
        tables = fattr.open_tables(str(output))
        for setting in settings:
            tables.sql(setting)
        return lambda query: tables.sql(query).fetchall()

    def by_script(script: str) -> Ask:
        connection = duckdb.connect()
        for setting in settings:
            connection.execute(setting)
        connection.execute(script)
        return lambda query: connection.execute(query).fetchall()

    views = (output / "views.sql").read_text()
    globs = "".join(
        f"CREATE VIEW {table} AS SELECT * FROM"
        f" read_parquet('{output}/{table}/*/*/*.parquet', hive_partitioning = true);"
        for table in ("images", "faces")
    )
    return [
        Way("open_tables", by_open_tables),
        Way("views.sql", lambda: by_script(views)),
        Way("plain glob", lambda: by_script(globs)),
    ]


def ask_all(output: Path, way: Way, turns: int) -> Iterator[Answer]:
    """Every question: once with nothing of the files in memory, then ``turns`` times more.

    The cold time includes opening the tables; the warm ones are of the same connection, with the
    files in the page cache.
    """
    for name, query in QUESTIONS.items():
        evict(output)
        before, cold = bytes_read(), Seconds()
        with cold.count():
            ask = way.open()
            rows = ask(query)
        answer = Answer(way.name, name, cold, (bytes_read() - before) / 2**20, rows)
        for _ in range(turns):
            answer.turns.append(Seconds())
            with answer.turns[-1].count():
                ask(query)
        yield answer


def evict(folder: Path) -> None:
    """Have the kernel forget a folder's files, so that they are read from the disk again."""
    for path in folder.rglob("*.parquet"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def bytes_read() -> int:
    """What this process has asked files for, in the page cache or not."""
    io = Path("/proc/self/io").read_text()
    (line,) = [line for line in io.splitlines() if line.startswith("rchar")]
    return int(line.split()[1])
