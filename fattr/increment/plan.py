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

from fattr.errors import RunError, UsageError
from fattr.increment.comparison import CHANGED, NEW, RETRIED, Comparison
from fattr.increment.spool import Spool, spool_tables
from fattr.published.catalog import DELETED, KNOWN_SCHEMA, REPLACED, REPLACED_SCHEMA
from fattr.published.parts import Part
from fattr.runs.manifest import MANIFEST_SCHEMA, UriNames, write_manifest
from fattr.runs.run import Run
from fattr.storage import FileEntry, words_of

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What finished runs have done; ``known`` and ``replaced`` are read once, as streams.

    Args:
        known: ``catalog.KNOWN_SCHEMA``, all rows of finished runs; None where there are none.
        replaced: ``catalog.REPLACED_SCHEMA``, those that no longer count; each image has one other.
        forgotten: Has a column image_id: never to be done, nor reported, again.
    """

    known: Iterable[pa.RecordBatch] | None = None
    replaced: Iterable[pa.RecordBatch] = ()
    forgotten: pa.Table | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What of a listing is asked for, besides what is new or changed.

    Args:
        redo_all: Do all that is listed.
        retry_statuses: Do images with these again.
        limit: Most images to do, in the order of their names.
        scope: Places below which the listing is complete, an empty text being everywhere: what is
            known there and not listed is reported as deleted. None reports nothing.
        is_meant: Which URIs in scope a listing gives; None is all.
    """

    redo_all: bool = False
    retry_statuses: Sequence[str] = ()
    limit: int | None = None
    scope: Sequence[str] | None = None
    is_meant: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where the comparison works: a local folder that holds all that is listed or known."""

    scratch: Path
    memory_limit_mb: int = MEMORY_LIMIT_MB  # of DuckDB, which takes most


def plan_increment(
    entries: Iterable[FileEntry],
    run: Run,
    *,
    names: UriNames,
    done: Done,
    wanted: Wanted,
    room: Room,
    on_listed: Callable[[int], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Increment:
    """Write the manifest of ``run``, its ``replaced.parquet``, and ``deleted.parquet``.

    To do is what is listed and has no row yet, or one with another etag (no etag on one side alone
    is another one), or one whose status is to be done again. Of entries with the same URI the first
    counts. An image that is done again keeps its id.

    Args:
        entries: Consumed as a stream; where nothing is known, no further than the limit.
        run: Its folder holds no manifest yet.
        names: How images are called in this OUTPUT.
        done: Before this run.
        wanted: Of this run.
        room: To work in.
        on_listed: Told how many entries more were listed, now and then.
        check: Called at every step, and for every batch of one; what it raises ends the planning.

    Raises:
        FattrError: From ``entries`` or ``check``, or a file could not be read or written, or no
            local disk is left.
    """
    with _comparing(room, check) as plan:
        if done.known is None:
            entries = itertools.islice(entries, wanted.limit)
        listed = plan.bring_listing(entries, names, on_listed)
        plan.bring_known(done.known or (), done.replaced, done.forgotten)
        num_images, num_found = plan.compare(
            redo_all=wanted.redo_all,
            retry_statuses=wanted.retry_statuses,
            with_gone=wanted.scope is not None,
        )
        written = _write(run, plan.rows_to_do(wanted.limit), plan.other_ids(names), plan)
        num_deleted = _write_deleted(run, plan, wanted)
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
    done: Done,
    statuses: Sequence[str],
    room: Room,
    limit: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> Increment:
    """Write the manifest of a run that does images with these statuses again, listing nothing.

    Images keep id, etag and size. For the arguments see ``plan_increment``.

    Raises:
        UsageError: The URIs are hashed: where the images lie is not known here.
        RunError: Out of local disk or memory.
        StorageError: A file could not be read or written.
    """
    with _comparing(room, check) as comparison:
        comparison.bring_known(done.known or (), done.replaced, done.forgotten)
        rows = _fetchable(comparison.rows_with_status(statuses, limit))
        written = _write(run, rows, {}, comparison)
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
def _comparing(room: Room, check: Callable[[], None]) -> Iterator[Comparison]:
    """What the storage refuses is a ``StorageError`` before: an OSError is of the local disk."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="fattr-", dir=room.scratch) as folder,
            Comparison(Path(folder), memory_limit_mb=room.memory_limit_mb, check=check) as found,
        ):
            yield found
    except (duckdb.OperationalError, OSError) as error:
        said = words_of(error) if isinstance(error, OSError) else str(error).splitlines()[0]
        raise RunError(
            f"what is listed could not be compared with what is done in {room.scratch}: {said};"
            " free disk space there, or set TMPDIR to a larger disk"
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
    run: Run,
    tables: Iterable[pa.Table],
    other_ids: Mapping[str, int],
    comparison: Comparison,
) -> _Tally:
    """The manifest and ``replaced.parquet``, of rows to do in the order of image_uri."""
    path = comparison.folder / REPLACED
    with pq.ParquetWriter(path, REPLACED_SCHEMA, compression="lz4") as writer:
        tally = _Tally(writer)
        write_manifest(tally.manifest_rows(tables, other_ids), run.manifest)
    # Not written there at once: a stream to S3 must end within one life of its credentials.
    _write_file(run.file(REPLACED), comparison.kept(Spool(path, 0)), REPLACED_SCHEMA)
    return tally


def _write_deleted(run: Run, comparison: Comparison, wanted: Wanted) -> int:
    """``deleted.parquet``, if there is a scope; how many rows it has."""
    if wanted.scope is None:
        return 0
    path = comparison.folder / DELETED
    rows = (_meant(r, wanted.is_meant) for r in comparison.gone(wanted.scope, DELETED_SCHEMA))
    spool = spool_tables(rows, DELETED_SCHEMA, path)
    _write_file(run.file(DELETED), comparison.kept(spool), DELETED_SCHEMA)
    return spool.num_rows


def _write_file(uri: str, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    with Part(uri, schema) as part:
        for rows in tables:
            part.write(rows.cast(schema))


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
