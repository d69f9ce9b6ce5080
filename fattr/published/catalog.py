"""The tables of an OUTPUT as readers see them: finished runs, the newest row of each image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from fattr import storage, tables
from fattr.errors import UsageError
from fattr.published.parts import read_part, reading
from fattr.published.publish import PublishedFile, read_files
from fattr.runs.run import TABLES, Run, finished_runs

if TYPE_CHECKING:
    import pandas as pd

REPLACED, DELETED = "replaced.parquet", "deleted.parquet"
REPLACED_SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),  # the older run
        pa.field("image_id", pa.int64(), nullable=False),
    ]
)
KNOWN_SCHEMA = pa.schema(
    [
        *(
            tables.IMAGES.field(n)
            for n in ("image_id", "image_uri", "etag", "size_bytes", "status")
        ),
        pa.field("run_id", pa.string(), nullable=False),
    ]
)
PARTITIONS = pa.schema([pa.field("dt", pa.date32()), pa.field("run", pa.string())])
VIEWS = "views.sql"
_NUM_PARALLEL = 16
_BATCH_ROWS = 65_536


# Files of finished runs


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A finished run and the files that it published."""

    run: Run
    files: tuple[PublishedFile, ...]

    def of(self, table: str) -> list[PublishedFile]:
        """Its files of one table, in order."""
        return [file for file in self.files if file.table == table]


def list_published(runs: Sequence[Run]) -> list[RunFiles]:
    """What each run published, in the order given.

    Raises:
        StorageError: A run's list of files cannot be read.
    """
    with ThreadPoolExecutor(_NUM_PARALLEL) as pool:
        files = pool.map(read_files, runs)
        return [RunFiles(run, tuple(f)) for run, f in zip(runs, files, strict=True)]


def known_images(output: str, runs: Sequence[Run]) -> pa.RecordBatchReader:
    """The rows of ``images`` of these runs, replaced ones too, run after run: ``KNOWN_SCHEMA``.

    Read as it is consumed, a batch at a time.
    """
    return pa.RecordBatchReader.from_batches(KNOWN_SCHEMA, _known_batches(output, runs))


def _known_batches(output: str, runs: Sequence[Run]) -> Iterator[pa.RecordBatch]:
    for published in list_published(runs):
        for file in published.of("images"):
            uri = storage.join(output, file.path)
            for rows in read_part(uri, batch_rows=_BATCH_ROWS, columns=KNOWN_SCHEMA.names[:-1]):
                run_ids = pa.repeat(pa.scalar(published.run.run_id), rows.num_rows)
                yield from rows.append_column("run_id", run_ids).cast(KNOWN_SCHEMA).to_batches()


def replaced_rows(runs: Sequence[Run]) -> ds.Dataset:
    """The rows that these runs replaced, as (run_id, image_id): they are no longer to be seen.

    Read lazily: after many runs over all images there are many times as many as images.
    """
    return _replaced_of(_replacing(runs))


def replaced_stream(output: str, runs: Sequence[Run]) -> Iterator[pa.RecordBatch]:
    """The same rows, read as they are consumed, a batch at a time.

    Raises:
        DamagedError: A file of them is no whole Parquet file.
        StorageError: They cannot be read.
    """
    with reading(storage.join(output, "_runs")):
        # Reading less ahead takes 100 MB less.
        yield from replaced_rows(runs).to_batches(batch_readahead=2, fragment_readahead=1)


def _replaced_of(replacing: Sequence[Run]) -> ds.Dataset:
    uris = [run.file(REPLACED) for run in replacing]
    if not uris:
        return ds.dataset(REPLACED_SCHEMA.empty_table())
    files = storage.filesystem(uris[0])[0]
    parquet = ds.ParquetFileFormat()
    parts = [parquet.make_fragment(storage.filesystem(uri)[1], files) for uri in uris]
    return ds.FileSystemDataset(parts, REPLACED_SCHEMA, parquet, files)


def replaced_batches(run: Run) -> Iterator[pa.Table]:
    """The rows of older runs that a run replaced, as (run_id, image_id), some at a time."""
    uri = run.file(REPLACED)
    if storage.exists(uri):
        for rows in read_part(uri, batch_rows=_BATCH_ROWS, columns=REPLACED_SCHEMA.names):
            yield rows.cast(REPLACED_SCHEMA)


def _replacing(runs: Sequence[Run]) -> list[Run]:
    """Those of the runs that replaced rows."""
    with ThreadPoolExecutor(_NUM_PARALLEL) as pool:
        found = pool.map(_has_replaced, runs)
        return [run for run, has in zip(runs, found, strict=True) if has]


def _has_replaced(run: Run) -> bool:
    uri = run.file(REPLACED)
    if not storage.exists(uri):
        return False
    files, path = storage.filesystem(uri)
    with reading(uri), files.open_input_file(path) as file:
        return bool(pq.read_metadata(file).num_rows)


def dataset_of(table: str, published: Iterable[RunFiles]) -> ds.Dataset:
    """One table's files as a lazily read dataset with the columns ``dt`` and ``run`` added.

    A filter on these two skips whole files unopened. Without any file it has no rows, and where
    no run ever had an image, of ``faces`` only the columns that every output has.
    """
    entries = [(one.run, file) for one in published for file in one.of(table)]
    if not entries:
        bare = tables.IMAGES if table == "images" else tables.faces_schema(())
        return ds.dataset(_with_partitions(bare).empty_table())
    files, root = storage.filesystem(entries[0][0].output)
    paths = [(run, f"{root}/{file.path}") for run, file in entries]
    with files.open_input_file(paths[0][1]) as file:
        schema = pq.read_schema(file)
    parquet = ds.ParquetFileFormat()
    fragments = [parquet.make_fragment(path, files, _partition(run)) for run, path in paths]
    return ds.FileSystemDataset(fragments, _with_partitions(schema), parquet, files)


def _with_partitions(schema: pa.Schema) -> pa.Schema:
    return pa.schema([*schema, *PARTITIONS], metadata=schema.metadata)


def _partition(run: Run) -> pc.Expression:
    day = pa.scalar(date.fromisoformat(run.day), pa.date32())
    return (pc.field("dt") == day) & (pc.field("run") == run.run_id)


# Tables


def newest_rows(rows: str, replaced: str | None) -> str:
    """SQL of ``rows`` without those that ``replaced`` lists; both are what may follow FROM."""
    if replaced is None:
        return f"SELECT * FROM {rows}"
    # Of an anti join DuckDB may hold either side, and takes an Arrow table for one row; of NOT IN
    # it holds what is replaced, which is less than all rows of all runs.
    return (
        f"SELECT * FROM {rows}"
        f" WHERE (run, image_id) NOT IN (SELECT run_id, image_id FROM {replaced})"
    )


def open_tables(output: str) -> Tables:
    """The tables of an OUTPUT, a folder or an ``s3://`` URI, to be asked in SQL or as frames.

    Runs that are unfinished, and rows that a newer run replaced, are left out. A run that finishes
    later is seen once the tables are opened again.

    Raises:
        UsageError: No run of this OUTPUT is finished.
        StorageError: The store is unavailable.
    """
    place = storage.canonical_uri(output)
    runs = finished_runs(place)
    if not runs:
        raise UsageError(
            f"{place} holds no finished run: expected the --output of `fattr annotate`; "
            "check the path, or finish the run by the same command"
        )
    return Tables(place, list_published(runs), _replacing(runs))


def _is_read_by_duckdb(output: str) -> bool:
    """Whether DuckDB's own reader reaches the files: twice as fast as Arrow's, none for S3."""
    return not output.startswith("s3://") and "\\" not in storage.filesystem(output)[1]


class Tables:
    """``images`` and ``faces`` of an OUTPUT, with the columns ``dt`` (date) and ``run`` added.

    Nothing is read before it is asked for, and then only the columns and files that a question
    needs. Use one from one thread at a time.
    """

    def __init__(
        self, output: str, published: Sequence[RunFiles], replacing: Sequence[Run]
    ) -> None:
        self.output = output
        self.runs = tuple(one.run.run_id for one in published)
        self._connection = duckdb.connect()
        self._schemas: dict[str, pa.Schema] = {}
        for name in TABLES:
            rows = dataset_of(name, published)
            self._schemas[name] = rows.schema
            if _is_read_by_duckdb(output):
                self._connection.execute(_view(name, output, published, replacing))
            else:
                self._show(name, rows, _replaced_of(replacing) if replacing else None)

    def _show(self, name: str, rows: ds.Dataset, replaced: ds.Dataset | None) -> None:
        """Make the view over what Arrow reads."""
        self._connection.register(f"_{name}", rows)
        if replaced is not None:
            self._connection.register("_replaced", replaced)
        seen = newest_rows(f"_{name}", None if replaced is None else "_replaced")
        self._connection.execute(f"CREATE VIEW {name} AS {seen}")

    @property
    def images(self) -> duckdb.DuckDBPyRelation:
        """One row for every image."""
        return self._connection.view("images")

    @property
    def faces(self) -> duckdb.DuckDBPyRelation:
        """One row for every face."""
        return self._connection.view("faces")

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """The answer to a query over ``images`` and ``faces``; ``.df()`` makes it a frame."""
        return self._connection.sql(query)

    def to_arrow(self, table: str, *, columns: Sequence[str] | None = None) -> pa.Table:
        """A table in memory, with its columns' metadata; all columns where none are named.

        Raises:
            UsageError: No such table or column.
        """
        schema = self.schema(table, columns=columns)
        names = ", ".join(f'"{name}"' for name in schema.names)
        return self._connection.sql(f"SELECT {names} FROM {table}").to_arrow_table().cast(schema)

    def to_pandas(self, table: str, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A table as a pandas frame; all columns where none are named.

        Labels of binary attributes are of the type ``boolean``, whose means leave out nulls.

        Raises:
            UsageError: No such table or column.
        """
        import pandas as pd  # half a second, which a run does not need

        types = {pa.bool_(): pd.BooleanDtype()}
        frame: pd.DataFrame = self.to_arrow(table, columns=columns).to_pandas(
            types_mapper=types.get
        )
        return frame

    def schema(self, table: str, *, columns: Sequence[str] | None = None) -> pa.Schema:
        """The Arrow schema of a table, or of some of its columns.

        Raises:
            UsageError: No such table or column.
        """
        if table not in self._schemas:
            raise UsageError(f"no table {table!r}: expected one of {', '.join(TABLES)}")
        schema = self._schemas[table]
        unknown = [name for name in columns or () if name not in schema.names]
        if unknown:
            raise UsageError(
                f"{table} has no column {unknown[0]!r}: it has {', '.join(schema.names)}"
            )
        return schema if columns is None else pa.schema([schema.field(n) for n in columns])

    def classes(self, attribute: str) -> tuple[str, ...]:
        """What the entries of the column ``<attribute>_probs`` stand for, in their order.

        Raises:
            UsageError: No such column.
        """
        field = self.schema("faces", columns=[f"{attribute}_probs"]).field(0)
        return tuple(json.loads(field.metadata[b"fattr.classes"]))


# views.sql


def write_views(output: str, runs: Sequence[Run]) -> None:
    """Write ``views.sql``: the views ``images`` and ``faces`` for DuckDB, of these runs alone.

    They show what ``open_tables`` shows, with the same columns, wherever ``OUTPUT`` can be reached
    by the name it has here: an absolute path or an ``s3://`` URI. DuckDB cannot name a folder that
    has a backslash in its name.

    Raises:
        StorageError: Something could not be read or written.
    """
    published = list_published(runs)
    replaced = _replacing(runs)
    lines = [
        f"-- The tables of {len(runs)} finished runs, the newest row of each image.",
        "-- duckdb -init views.sql",
        *(_view(name, output, published, replaced) for name in TABLES),
    ]
    storage.write_bytes(storage.join(output, VIEWS), "\n".join(lines).encode() + b"\n")


def _view(name: str, output: str, published: Sequence[RunFiles], replaced: Sequence[Run]) -> str:
    held = [one.run for one in published if one.of(name)]
    full = [one.run for one in published if sum(file.num_rows for file in one.of(name))]
    head = f"CREATE OR REPLACE VIEW {name} AS"
    if not held:
        return f"{head} {_no_rows(dataset_of(name, published).schema)};"
    globs = [_glob(run.table(name), "part-*.parquet") for run in full or held[-1:]]
    fixed = _fixed_lists(dataset_of(name, published).schema)
    rows = (
        f"(SELECT * EXCLUDE (filename){fixed},\n"
        "  regexp_extract(filename, '/dt=([^/]+)/run=[^/]+/[^/]+$', 1)::DATE AS dt,\n"
        "  regexp_extract(filename, '/run=([^/]+)/[^/]+$', 1) AS run\n"
        f"  FROM {_read_parquet(globs)})"
    )
    old = [_glob(run.file(REPLACED)) for run in replaced]
    return f"{head} {newest_rows(rows, _read_parquet(old) if old else None)};"


def _fixed_lists(schema: pa.Schema) -> str:
    """SQL that gives lists of floats of one length their type back, which Parquet does not keep."""
    casts = [
        f'"{field.name}"::FLOAT[{field.type.list_size}] AS "{field.name}"'
        for field in schema
        if pa.types.is_fixed_size_list(field.type)
    ]
    return f" REPLACE ({', '.join(casts)})" if casts else ""


def _read_parquet(globs: Sequence[str]) -> str:
    listed = ",\n    ".join(globs)
    return f"read_parquet([\n    {listed}],\n    filename = true, hive_partitioning = false)"


def _no_rows(schema: pa.Schema) -> str:
    with duckdb.connect() as connection:
        found = connection.from_arrow(schema.empty_table())
        columns = zip(found.columns, found.types, strict=True)
        return "SELECT " + ", ".join(f'NULL::{t} AS "{n}"' for n, t in columns) + " WHERE false"


def _glob(uri: str, pattern: str = "") -> str:
    """An SQL string of a place as DuckDB names it, with what may follow as a pattern."""
    path = uri if uri.startswith("s3://") else storage.filesystem(uri)[1]
    plain = "".join(f"[{sign}]" if sign in "*?[" else sign for sign in path)
    text = (f"{plain}/{pattern}" if pattern else plain).replace("'", "''")
    return f"'{text}'"
