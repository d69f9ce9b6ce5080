"""What a run has to do: what is listed and not yet done, or is to be done again."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fattr import storage
from fattr.errors import RunError, UsageError
from fattr.increment.comparison import CHANGED, NEW, RETRIED, Comparison
from fattr.increment.spool import spool_tables
from fattr.published.catalog import KNOWN_SCHEMA, REPLACED, REPLACED_SCHEMA
from fattr.runs.manifest import MANIFEST_SCHEMA, UriNames, write_manifest
from fattr.runs.run import Run
from fattr.storage import FileEntry

DELETED = "deleted.parquet"
DELETED_SCHEMA = pa.schema([KNOWN_SCHEMA.field(n) for n in ("image_id", "image_uri", "run_id")])
MEMORY_LIMIT_MB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Increment:
    """How a listing differs from what is done, in images.

    ``num_images`` are to be done: new, changed, or retried, which is done again for its status or
    because all are. Of these ``total_bytes`` adds up the known sizes.
    """

    num_listed: int = 0
    num_duplicates: int = 0
    num_new: int = 0
    num_changed: int = 0
    num_retried: int = 0
    num_unchanged: int = 0
    num_deleted: int = 0
    num_images: int = 0
    total_bytes: int = 0

    def describe(self) -> str:
        """One line: ``1,000 listed, 10 to do (8 new, 2 changed), 990 unchanged, 3 deleted``."""
        why = _joined(
            (self.num_new, "new"), (self.num_changed, "changed"), (self.num_retried, "again")
        )
        to_do = f"{self.num_images:,} to do" + (f" ({why})" if why else "")
        return ", ".join(
            text
            for text in (
                _joined((self.num_listed, "listed")),
                to_do,
                _joined(
                    (self.num_unchanged, "unchanged"),
                    (self.num_deleted, "deleted"),
                    (self.num_duplicates, "named more than once"),
                ),
            )
            if text
        )


def _joined(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count:,} {what}" for count, what in counts if count)


def plan_increment(  # noqa: PLR0913 -- all that can be asked of one night
    entries: Iterable[FileEntry],
    run: Run,
    *,
    known: pa.RecordBatchReader | None,
    replaced: pa.Table,
    names: UriNames,
    scratch: Path,
    redo_all: bool = False,
    retry_statuses: Sequence[str] = (),
    limit: int | None = None,
    scope: Sequence[str] | None = None,
    is_meant: Callable[[str], bool] | None = None,
    forgotten: pa.Table | None = None,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
    on_listed: Callable[[int], None] | None = None,
) -> Increment:
    """Write the manifest of ``run``, its ``replaced.parquet``, and ``deleted.parquet``.

    To do is what is listed and has no row yet, or one with another etag (no etag on one side alone
    is another one), or one whose status is in ``retry_statuses``. Of entries with the same URI the
    first counts. An image that is done again keeps its id.

    Args:
        entries: Consumed as a stream; where nothing is known, no further than ``limit``.
        run: Its folder holds no manifest yet.
        known: ``catalog.KNOWN_SCHEMA``, all rows of finished runs; None where there are none.
        replaced: ``catalog.REPLACED_SCHEMA``, those that no longer count; each image has one other.
        names: How images are called in this OUTPUT.
        scratch: Local folder with room for all rows that are listed or known.
        redo_all: Do all that is listed.
        retry_statuses: Do images with these again.
        limit: Most images to do, in the order of their names.
        scope: Places below which the listing is complete, an empty text being everywhere: what is
            known there and not listed is reported as deleted. None reports nothing.
        is_meant: Which URIs in scope a listing gives; None is all.
        forgotten: Has a column image_id: never to be done, nor reported, again.
        memory_limit_mb: Of DuckDB, which takes most.
        on_listed: Told how many entries more were listed, now and then.

    Raises:
        FattrError: From ``entries``, or a file could not be written, or no local disk is left.
    """
    with _comparing(scratch, memory_limit_mb) as plan:
        if known is None:
            entries = itertools.islice(entries, limit)
        listed = plan.bring_listing(entries, names, on_listed)
        plan.bring_known(known, replaced, forgotten)
        num_images, num_found = plan.compare(
            redo_all=redo_all, retry_statuses=retry_statuses, with_gone=scope is not None
        )
        written = _write(run, plan.rows_to_do(limit), plan.other_ids(names), plan.folder)
        num_deleted = _write_deleted(run, plan, scope, is_meant)
    return replace(
        written.increment(),
        num_listed=listed.num_rows,
        num_duplicates=listed.num_rows - num_images,
        num_unchanged=num_images - num_found,
        num_deleted=num_deleted,
    )


def plan_retry(
    run: Run,
    *,
    known: pa.RecordBatchReader | None,
    replaced: pa.Table,
    statuses: Sequence[str],
    scratch: Path,
    limit: int | None = None,
    forgotten: pa.Table | None = None,
    memory_limit_mb: int = MEMORY_LIMIT_MB,
) -> Increment:
    """Write the manifest of a run that does images with these statuses again, listing nothing.

    Images keep id, etag and size. For the arguments see ``plan_increment``.

    Raises:
        UsageError: The URIs are hashed: where the images lie is not known here.
        RunError: Out of local disk or memory.
        StorageError: A file could not be written.
    """
    with _comparing(scratch, memory_limit_mb) as comparison:
        comparison.bring_known(known, replaced, forgotten)
        rows = _fetchable(comparison.rows_with_status(statuses, limit))
        written = _write(run, rows, {}, comparison.folder)
    return written.increment()


def _fetchable(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    for rows in tables:
        if not pc.all(pc.match_substring(rows.column("image_uri"), "://")).as_py():
            raise UsageError(
                "this OUTPUT has hashed URIs, which tell nobody where the images lie: name them,"
                " as in `fattr annotate --images ... --retry timeout,denied`"
            )
        yield rows


@contextmanager
def _comparing(scratch: Path, memory_limit_mb: int) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory(prefix="increment-", dir=scratch) as folder:
        try:
            with Comparison(Path(folder), memory_limit_mb=memory_limit_mb) as comparison:
                yield comparison
        except duckdb.OperationalError as error:
            raise RunError(
                f"what is listed could not be compared with what is done in {scratch}:"
                f" {str(error).splitlines()[0]}; free disk space there, or set TMPDIR to a larger"
                " disk"
            ) from error


# Files of the run


@dataclass(slots=True)
class _Tally:
    """Of rows to do: what is written beside the manifest, and how many there are."""

    replaced: pq.ParquetWriter
    num_by_kind: Counter[str] = field(default_factory=Counter)
    total_bytes: int = 0

    def manifest_rows(
        self, tables: Iterable[pa.Table], other_ids: Mapping[str, int]
    ) -> Iterator[pa.Table]:
        """Rows for the manifest, of rows in the order of image_uri."""
        last = ""
        for found in tables:
            rows = _with_other_ids(found, other_ids)
            _check_order(last, rows.column("image_uri"))
            self._count(rows)
            last = rows.column("image_uri")[-1].as_py()
            yield rows.select(MANIFEST_SCHEMA.names)

    def increment(self) -> Increment:
        """What there was to do."""
        return Increment(
            num_new=self.num_by_kind[NEW],
            num_changed=self.num_by_kind[CHANGED],
            num_retried=self.num_by_kind[RETRIED],
            num_images=self.num_by_kind.total(),
            total_bytes=self.total_bytes,
        )

    def _count(self, rows: pa.Table) -> None:
        for kind in pc.value_counts(rows.column("kind")).to_pylist():
            self.num_by_kind[kind["values"]] += kind["counts"]
        self.total_bytes += pc.sum(rows.column("size_bytes")).as_py() or 0
        old = rows.select(["old_run_id", "image_id"]).rename_columns(REPLACED_SCHEMA.names)
        self.replaced.write_table(
            old.filter(pc.is_valid(old.column("run_id"))).cast(REPLACED_SCHEMA)
        )


def _write(
    run: Run, tables: Iterable[pa.Table], other_ids: Mapping[str, int], folder: Path
) -> _Tally:
    """The manifest and ``replaced.parquet``, of rows to do in the order of image_uri."""
    path = folder / REPLACED
    with pq.ParquetWriter(path, REPLACED_SCHEMA, compression="zstd") as writer:
        tally = _Tally(writer)
        write_manifest(tally.manifest_rows(tables, other_ids), run.manifest)
    storage.write_bytes(run.file(REPLACED), path.read_bytes())
    return tally


def _write_deleted(
    run: Run,
    comparison: Comparison,
    scope: Sequence[str] | None,
    is_meant: Callable[[str], bool] | None,
) -> int:
    """``deleted.parquet``, if there is a scope; how many rows it has."""
    if scope is None:
        return 0
    path = comparison.folder / DELETED
    rows = comparison.gone(scope, DELETED_SCHEMA)
    spool = spool_tables((_meant(found, is_meant) for found in rows), DELETED_SCHEMA, path)
    storage.write_bytes(run.file(DELETED), path.read_bytes())
    return spool.num_rows


def _meant(rows: pa.Table, is_meant: Callable[[str], bool] | None) -> pa.Table:
    if is_meant is None:
        return rows
    return rows.filter(pa.array(map(is_meant, rows.column("image_uri").to_pylist()), pa.bool_()))


def _with_other_ids(rows: pa.Table, other_ids: Mapping[str, int]) -> pa.Table:
    if not other_ids:
        return rows
    ids = [
        other_ids.get(uri, own)
        for uri, own in zip(
            rows.column("image_uri").to_pylist(), rows.column("image_id").to_pylist(), strict=True
        )
    ]
    index = rows.schema.get_field_index("image_id")
    return rows.set_column(index, rows.schema.field(index), pa.array(ids, pa.int64()))


def _check_order(last: str, uris: pa.ChunkedArray) -> None:
    """Publishing merges by this order, so a mistake here must not go on."""
    is_ascending = pc.all(pc.less(uris[:-1], uris[1:])).as_py()
    if is_ascending is False or last >= uris[0].as_py():
        raise RunError(f"rows to do are not in order of image_uri, after {last!r}: report this")
