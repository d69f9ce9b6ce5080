"""From staged rows to the run's part of the two tables: sorted, each image once, in even files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import astuple, dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fattr import storage, tables
from fattr.attributes import Attribute
from fattr.errors import RunError
from fattr.published.parts import part_uris, read_part, reading
from fattr.published.staging import StagedRanges, find_ranges
from fattr.runs.run import TABLES, Run

ROWS_PER_FILE = 100_000
ROWS_PER_GROUP = 122_880  # DuckDB's own: a file is one row group, and one task of its scan
ROWS_PER_RANGE = 25_000  # sorted at once; 100,000 take a third more memory and a fifth less time
FILES = "files.parquet"
FILES_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # below OUTPUT
        pa.field("table", pa.string(), nullable=False),
        pa.field("num_rows", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
_KEYS = ("image_id", "image_uri")
# Of these every value is another one, or nearly: a dictionary would be as long as the column.
_NO_DICTIONARY = ("image_uri", "etag")
_FEW_NUMBERS = ("num_faces", "face_index")


def count_rows(staged: pa.Table) -> Counter[str]:
    """How many staged rows have which status, and under ``faces`` their faces."""
    counts = Counter(staged.column("status").to_pylist())
    counts["faces"] = pc.sum(staged.column("num_faces")).as_py() or 0
    return counts


def count_work(staged: pa.Table) -> Counter[str]:
    """``count_rows``, and the seconds that each stage took."""
    counts: Counter[str] = Counter(count_rows(staged))
    counts.update({n: pc.sum(staged.column(n)).as_py() or 0.0 for n in tables.STAGE_SECONDS})
    return counts


@dataclass
class Totals:
    """What a run saw."""

    by_status: Counter[str] = field(default_factory=Counter)
    num_faces: int = 0
    stage_seconds: dict[str, float] = field(  # summed over workers
        default_factory=lambda: dict.fromkeys(tables.STAGE_SECONDS, 0.0)
    )

    @property
    def num_images(self) -> int:
        """Rows of the table ``images``."""
        return self.by_status.total()

    def add(self, staged: pa.Table) -> None:
        """Count staged rows."""
        counts = count_rows(staged)
        self.num_faces += counts.pop("faces")
        self.by_status.update(counts)
        for name in tables.STAGE_SECONDS:
            self.stage_seconds[name] += pc.sum(staged.column(name)).as_py() or 0.0


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One part of a table; ``path`` is a plain path below OUTPUT."""

    path: str
    table: str
    num_rows: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Published:
    """What was published."""

    totals: Totals
    files: tuple[PublishedFile, ...]


def publish(
    run: Run,
    *,
    attributes: Sequence[Attribute],
    model_id: str,
    metadata: Mapping[str, str],
    rows_per_file: int = ROWS_PER_FILE,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Published:
    """Write the run's parts of ``images`` and ``faces``, and ``files.parquet``, which lists them.

    Both are sorted by ``image_uri``, ``faces`` also by ``face_index``; of an image that was made
    twice one row is kept. A run of images has a part of ``faces`` even where it has no face; one
    without images has no parts. Publishing again gives the same files and deletes all others. From
    the first image without a row on nothing is written, so that a process that was left behind and
    finds its staged rows gone does no harm to what was published since.

    Args:
        run: Its manifest is sorted by ``image_uri``, its staged rows are in any order.
        attributes: Of the staged rows.
        model_id: Of all faces.
        metadata: Goes into every file.
        rows_per_file: Rows of every part but the last.
        on_rows: Told the number of images that were written, as they are.

    Raises:
        RunError: The images of the staged rows are not those of the manifest.
        StorageError: Something could not be read or written.
    """
    images = _Parts(run, "images", _with_metadata(tables.IMAGES, metadata), rows_per_file)
    faces_schema = _with_metadata(tables.faces_schema(attributes), metadata)
    faces = _Parts(run, "faces", faces_schema, rows_per_file)
    totals = Totals()
    for rows in _sorted_rows(run, tables.staged_schema(attributes), rows_per_file):
        totals.add(rows)
        images.add(tables.images_table(rows).cast(images.schema))
        faces.add(tables.faces_table(rows, faces_schema, model_id))
        on_rows(rows.num_rows)
    files = (*images.finish(), *faces.finish(may_be_empty=totals.num_images > 0))
    _delete_others(run, {file.path for file in files})
    _write_files(run, files)
    return Published(totals, files)


def read_files(run: Run) -> list[PublishedFile]:
    """The files of a finished run, as ``files.parquet`` lists them.

    Raises:
        DamagedError: It is no whole Parquet file.
        StorageError: It cannot be read.
    """
    uri = run.file(FILES)
    with reading(uri):
        table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
    return [PublishedFile(**row) for row in table.select(FILES_SCHEMA.names).to_pylist()]


def _write_files(run: Run, files: Sequence[PublishedFile]) -> None:
    rows = [dict(zip(FILES_SCHEMA.names, astuple(file), strict=True)) for file in files]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, FILES_SCHEMA), sink, compression="zstd")
    storage.write_bytes(run.file(FILES), sink.getvalue().to_pybytes())


def _delete_others(run: Run, paths: Set[str]) -> None:
    """Delete what lies in the run's parts of the tables and is not of this publication."""
    for table in TABLES:
        for entry in storage.list_tree(run.table(table)):
            if storage.relative_path(entry.uri, run.output) not in paths:
                files, path = storage.filesystem(entry.uri)
                files.delete_file(path)


def _with_metadata(schema: pa.Schema, metadata: Mapping[str, str]) -> pa.Schema:
    return schema.with_metadata({**(schema.metadata or {}), **metadata})


# Staged rows in the order of the manifest


def _sorted_rows(run: Run, schema: pa.Schema, rows_per_file: int) -> Iterator[pa.Table]:
    """The staged row of every image of the manifest, in its order, some at a time."""
    rows_per_range = min(ROWS_PER_RANGE, rows_per_file)
    starts = [keys.column("image_uri")[0].as_py() for keys in _manifest(run, rows_per_range)]
    if not starts:
        return
    ranges = find_ranges(run.staging, schema, starts)
    num_missing = num_strange = 0
    for number, keys in enumerate(_manifest(run, rows_per_range)):
        rows, strange = _in_order(ranges, number, keys.column("image_id").combine_chunks())
        num_missing += keys.num_rows - rows.num_rows
        num_strange += strange
        if not (num_missing or num_strange):
            yield rows
    _refuse(run, num_missing, num_strange)


def _in_order(ranges: StagedRanges, number: int, image_ids: pa.Array) -> tuple[pa.Table, int]:
    """Rows of these images, in order, none twice; and how many rows there are of no such image."""
    rows = ranges.read(number)
    ids = rows.column("image_id").combine_chunks()
    first = pc.drop_null(pc.index_in(image_ids, value_set=ids))  # the first of equal ones
    strange = pc.sum(pc.is_null(pc.index_in(ids, value_set=image_ids))).as_py() or 0
    return rows.take(first), strange


def _refuse(run: Run, num_missing: int, num_strange: int) -> None:
    if num_missing:
        raise RunError(
            f"run {run.run_id}: {num_missing} images of its manifest have no row;"
            " run the same command again"
        )
    if num_strange:
        raise RunError(
            f"run {run.run_id}: {num_strange} rows are of no image of its manifest: expected one"
            " for each image; something else wrote below its folder, so start a new run"
        )


def _manifest(run: Run, rows: int) -> Iterator[pa.Table]:
    """The keys of the manifest's images, ``rows`` at a time whatever its files hold."""
    held: list[pa.Table] = []
    for uri in part_uris(run.manifest):
        for part in read_part(uri, batch_rows=rows, columns=_KEYS):
            held.append(part)
            while sum(table.num_rows for table in held) >= rows:
                joined = pa.concat_tables(held)
                yield joined.slice(0, rows)
                held = [joined.slice(rows)]
    rest = pa.concat_tables(held) if held else None
    if rest is not None and rest.num_rows:
        yield rest


# Files


class _Parts:
    """The parts of one table: all of ``rows_per_file`` rows but the last."""

    def __init__(self, run: Run, table: str, schema: pa.Schema, rows_per_file: int) -> None:
        self.schema = schema
        self._run, self._table, self._rows_per_file = run, table, rows_per_file
        self._held = schema.empty_table()
        self._files: list[PublishedFile] = []

    def add(self, rows: pa.Table) -> None:
        self._held = pa.concat_tables([self._held, rows])
        while self._held.num_rows >= self._rows_per_file:
            self._write(self._held.slice(0, self._rows_per_file))
            self._held = self._held.slice(self._rows_per_file)

    def finish(self, *, may_be_empty: bool = False) -> list[PublishedFile]:
        """Write what is left; without any row, a part only where ``may_be_empty``."""
        if self._held.num_rows or (may_be_empty and not self._files):
            self._write(self._held)
        return self._files

    def _write(self, rows: pa.Table) -> None:
        uri = storage.join(self._run.table(self._table), f"part-{len(self._files):05d}.parquet")
        data = encode(rows)
        storage.write_bytes(uri, data)
        self._files.append(
            PublishedFile(
                storage.relative_path(uri, self._run.output),
                self._table,
                rows.num_rows,
                len(data),
                hashlib.sha256(data).hexdigest(),
            )
        )


def encode(rows: pa.Table) -> bytes:
    """A part's bytes: the same for the same rows.

    Compressed by zstd. Strings that take few values are dictionary-encoded, so that a reader can
    filter them without reading them; columns that hold no lists have statistics.
    """
    sink = pa.BufferOutputStream()
    schema = rows.schema
    few = [f.name for f in schema if _has_few_values(f)]
    flat = [f.name for f in schema if not pa.types.is_nested(f.type)]
    order = [(name, "ascending") for name in ("image_uri", "face_index") if name in schema.names]
    pq.write_table(
        rows,
        sink,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        use_dictionary=few,
        write_statistics=flat,
        sorting_columns=pq.SortingColumn.from_ordering(schema, order),
    )
    return bytes(sink.getvalue().to_pybytes())


def _has_few_values(column: pa.Field) -> bool:
    if pa.types.is_string(column.type):
        return column.name not in _NO_DICTIONARY
    return column.name in _FEW_NUMBERS
