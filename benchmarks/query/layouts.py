"""What another layout of the files of ``faces`` would do to their size and to questions.

    python -m benchmarks.query.layouts --faces 3_000_000 [--folder DIR] [--report FILE.json]

Writes the same rows in each layout and asks DuckDB over a plain glob, in turns over all layouts.
Of every question the seconds of CPU, all threads together, are told: the median of its turns.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from benchmarks.faults.verdict import Verdict, conclude, room
from benchmarks.increment import Seconds
from benchmarks.query.made_up import ATTRIBUTES, make_output
from benchmarks.query.questions import QUESTIONS
from fattr import tables
from fattr.published import publish
from fattr.published.publish import ROWS_PER_FILE, ROWS_PER_GROUP

FOLDER = "s3://bucket/photos/2026/00000/IMG_000001"  # of 10,000 images; names rise
EXTRA = {
    "one folder": f"""
        SELECT count(*), avg(smiling::INT) FROM faces
        WHERE image_uri BETWEEN '{FOLDER}' AND '{FOLDER}~'""",
    "one age": "SELECT count(*), avg(smiling::INT) FROM faces WHERE age BETWEEN 20 AND 21",
}
ASKED = {n: q for n, q in QUESTIONS.items() if "images" not in n} | EXTRA


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How a file is written; ``changes`` are arguments of ``pq.write_table``."""

    name: str
    rows_per_file: int = ROWS_PER_FILE
    sort_by: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)


SCHEMA = tables.faces_schema(ATTRIBUTES)
FEW = ["perceived_gender_presentation", "face_index", "model_id"]
FLOATS = [f.name for f in SCHEMA if pa.types.is_float32(f.type)]
LAYOUTS = (
    Layout("published"),
    Layout("groups of 8,192", changes={"row_group_size": 8_192}),
    Layout("groups of 32,768", changes={"row_group_size": 32_768}),
    Layout("1,000,000 a file", rows_per_file=1_000_000),
    Layout("1,000,000 a file and group", 1_000_000, changes={"row_group_size": 1_000_000}),
    Layout("snappy", changes={"compression": "snappy"}),
    Layout("zstd 9", changes={"compression_level": 9}),
    Layout("not compressed", changes={"compression": "none"}),
    Layout("dictionaries for all", changes={"use_dictionary": True}),
    Layout("no dictionaries", changes={"use_dictionary": False}),
    Layout("floats by byte stream", changes={"use_byte_stream_split": FLOATS}),
    Layout("sorted by age in a file", sort_by="age", changes={"sorting_columns": None}),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    faces: int = 3_000_000
    """About how many faces."""
    turns: int = 3
    """How often a question is asked."""
    threads: int = 2
    """Of DuckDB."""
    folder: str = ""
    """Where to work, 300 bytes a face for each layout; those that lie there are not written again
    (0 s). Empty: a temporary folder."""
    report: str = ""
    """File for the figures as JSON."""


def measure(settings: Settings, folder: Path) -> Verdict:
    """Write every layout and ask."""
    verdict = Verdict("query_layouts")
    output = folder / "output"
    if not output.exists():
        make_output(output, num_faces=settings.faces, num_runs=4, num_threads=settings.threads)
    places = {layout: folder / layout.name.replace(" ", "_") for layout in LAYOUTS}
    written = {layout: Seconds() for layout in LAYOUTS}
    for layout, place in places.items():
        if not place.exists():
            with written[layout].count():
                rewrite(output / "faces", place, layout)
    is_same = same_as_published(output / "faces")
    verdict.check("the first layout is the published one", "" if is_same else "files differ")
    asked = ask(places, settings)
    print(f"{'layout':28} {'MiB':>6} {'written':>8} " + " ".join(f"{n[:12]:>12}" for n in ASKED))
    for layout, place in places.items():
        size = sum(path.stat().st_size for path in place.iterdir()) / 2**20
        cpu = {name: statistics.median(asked[layout, name]) for name in ASKED}
        seconds = " ".join(f"{s:12.3f}" for s in cpu.values())
        print(f"{layout.name:28} {size:6.0f} {written[layout].cpu:8.1f} {seconds}")
        figures = {"mib": round(size), "written_cpu_s": round(written[layout].cpu, 1)}
        verdict.figures[layout.name] = figures | {n: round(s, 3) for n, s in cpu.items()}
    return verdict


def ask(
    places: Mapping[Layout, Path], settings: Settings
) -> Mapping[tuple[Layout, str], list[float]]:
    """CPU seconds of every turn, layout after layout in each turn; the first is not counted."""
    asked: dict[tuple[Layout, str], list[float]] = defaultdict(list)
    for turn in range(settings.turns + 1):
        for layout, place in places.items():
            for name, query in ASKED.items():
                took = Seconds()
                with duckdb.connect() as connection:
                    connection.execute(f"SET threads = {settings.threads}")
                    connection.execute(view_of(place))
                    with took.count():
                        connection.execute(query).fetchall()
                if turn:
                    asked[layout, name].append(took.cpu)
    return asked


def view_of(place: Path) -> str:
    """SQL of the view ``faces``; ``dt`` is made up from the file's name."""
    return (
        "CREATE VIEW faces AS SELECT * EXCLUDE (filename), right(filename, 9)[1:1] AS dt"
        f" FROM read_parquet('{place}/*.parquet', filename = true)"
    )


def rewrite(faces: Path, place: Path, layout: Layout) -> None:
    """Write all rows in a layout."""
    place.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(tables_of(faces, layout.rows_per_file)):
        ordered = rows.sort_by(layout.sort_by) if layout.sort_by else rows
        data = encode(ordered, layout.changes)
        (place / f"part-{number:05d}.parquet").write_bytes(data)


def tables_of(faces: Path, num_rows: int) -> Iterator[pa.Table]:
    """All rows in the order of the files, so many at a time."""
    paths = sorted(faces.rglob("*.parquet"))
    held: list[pa.Table] = []
    for path in paths:
        held.append(pq.read_table(path, partitioning=None))
        joined = pa.concat_tables(held).replace_schema_metadata(held[0].schema.metadata)
        while joined.num_rows >= num_rows:
            yield joined.slice(0, num_rows)
            joined = joined.slice(num_rows)
        held = [joined]
    if held and held[0].num_rows:
        yield held[0]


def encode(rows: pa.Table, changes: Mapping[str, Any]) -> pa.Buffer:
    """A file's bytes: as ``publish.encode`` writes it, but for the changes."""
    order = [("image_uri", "ascending"), ("face_index", "ascending")]
    options: dict[str, Any] = {
        "row_group_size": ROWS_PER_GROUP,
        "compression": "zstd",
        "use_dictionary": FEW,
        "write_statistics": [f.name for f in rows.schema if not pa.types.is_nested(f.type)],
        "sorting_columns": pq.SortingColumn.from_ordering(rows.schema, order),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, **(options | dict(changes)))
    return sink.getvalue()


def same_as_published(faces: Path) -> bool:
    """Whether ``encode`` without changes writes what the product writes."""
    rows = next(tables_of(faces, ROWS_PER_FILE))
    return bytes(encode(rows, {})) == publish.encode(rows)


def main(settings: Settings) -> int:
    """Measure and conclude."""
    with room(settings.folder) as folder:
        verdict = measure(settings, folder)
    return conclude(verdict, settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
