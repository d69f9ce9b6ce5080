"""Removes images from an OUTPUT: their rows leave every file of every finished run.

What is to be done is written down first, in ``_runs/forget.json``, and deleted last; a removal that
was cut short is finished by the next one. Each file is written anew, whole or not at all. A bucket
that keeps old versions of its objects keeps the old files: deleting those is up to its owner.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fattr import storage
from fattr.errors import StorageError, UsageError
from fattr.published.parts import reading
from fattr.published.rewrite import without_rows
from fattr.records import Status
from fattr.runs.audit import who, write_audit
from fattr.runs.manifest import UriNames
from fattr.runs.record import write_json
from fattr.runs.run import SUCCESS, TABLES, Run, list_runs, read_info, successes

log = logging.getLogger(__name__)

INTENT = "forget.json"
FORGOTTEN_SCHEMA = pa.schema([pa.field("image_id", pa.int64(), nullable=False)])
_KEYS = pa.schema([pa.field("image_id", pa.int64()), pa.field("image_uri", pa.string())])
_FORGOTTEN, _REPLACED, _FILES = "forgotten.parquet", "replaced.parquet", "files.parquet"
_NUM_LOOKING, _NUM_WRITING = 16, 4  # files at once; the second holds each in memory
_BATCH_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed, or would have been if it had been there."""

    num_uris: int  # asked for, each once
    num_unknown: int  # of these, in no finished run
    num_images: int  # rows of the table ``images``; an image that was done again has several
    num_faces: int
    num_files: int  # written anew

    def describe(self) -> str:
        """One line for people."""
        unknown = f" ({self.num_unknown} in no run)" if self.num_unknown else ""
        return (
            f"forgot {self.num_uris} images{unknown}: removed {self.num_images} rows and"
            f" {self.num_faces} faces, wrote {self.num_files} files anew"
        )


@dataclass(frozen=True, slots=True)
class _FileRows:
    """The rows of one file that go."""

    path: str  # below OUTPUT
    image_ids: list[int]  # each as often as it has a row


@dataclass(frozen=True, slots=True)
class _RunChange:
    """What a run holds once its rows are gone."""

    run_id: str
    image_ids: list[int]
    forgotten: int  # images of this run, those forgotten before included
    success: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Intent:
    """All that is to be done, in figures that are equal however often it is done."""

    started: str
    keep_out: bool
    asked: list[int]  # image ids of the URIs, as they are named where they do not collide
    files: list[_FileRows]
    replaced: list[str]  # paths of files of pairs (run_id, image_id)
    runs: list[_RunChange]
    done: Forgotten

    @classmethod
    def from_json(cls, data: bytes) -> _Intent:
        content = json.loads(data)
        return cls(
            started=content["started"],
            keep_out=content["keep_out"],
            asked=content["asked"],
            files=[_FileRows(**row) for row in content["files"]],
            replaced=content["replaced"],
            runs=[_RunChange(**row) for row in content["runs"]],
            done=Forgotten(**content["done"]),
        )

    @property
    def finds_any(self) -> bool:
        """Whether there is a row to remove."""
        return bool(self.files or self.replaced)

    def asks_as(self, other: _Intent) -> bool:
        """Whether both are of the same request."""
        return (self.asked, self.keep_out) == (other.asked, other.keep_out)

    @property
    def image_ids(self) -> set[int]:
        """Of all that is forgotten."""
        return {*self.asked, *(number for run in self.runs for number in run.image_ids)}


def forget(
    output: str,
    uris: Sequence[str],
    *,
    names: UriNames,
    keep_out: bool,
    started: datetime,
    check: Callable[[], None] = lambda: None,
) -> Forgotten:
    """Remove images, and keep their ids so that no later run annotates them.

    Args:
        output: The OUTPUT's URI; its lease is held.
        uris: The images; those of which no run knows are counted.
        names: What they are called in this OUTPUT.
        keep_out: False lets later runs annotate them again.
        started: When the command began; knows its zone.
        check: Raises where the lease was lost; called before each write.

    Raises:
        UsageError: A run is unfinished.
        DamagedError: A file is no whole Parquet file; nothing was removed.
        StorageError: Something could not be read or written; the next call finishes it.
    """
    named = [names.name(uri)[:2] for uri in dict.fromkeys(map(storage.canonical_uri, uris))]
    with _arrow_errors(output):
        runs = _finished(output)
        left = _read_intent(output)
        if left is not None:
            log.warning("finishing a removal of %s that was cut short", left.started)
            _carry_out(output, left, check)
            runs = _finished(output)
        intent = _plan(output, runs, named, keep_out=keep_out, started=started)
        if left is not None and left.asks_as(intent) and not intent.finds_any:
            return left.done
        check()
        write_json(_place(output, INTENT), asdict(intent))
        _carry_out(output, intent, check)
    return intent.done


@contextmanager
def _arrow_errors(output: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(Status.UNAVAILABLE, output, storage.words_of(error)) from None


def forgotten_ids(output: str) -> pa.Table | None:
    """The ids (``image_id``) of images that are not to be annotated again; None where none are.

    Those of a removal that was cut short are among them, however early that was: it removes only
    what was there when it began.

    Raises:
        DamagedError: Their file is no whole Parquet file.
        StorageError: They cannot be read.
    """
    left = _read_intent(output)
    ids = _kept_ids(output) | (left.image_ids if left and left.keep_out else set())
    return _table_of(ids) if ids else None


def _kept_ids(output: str) -> set[int]:
    uri = _place(output, _FORGOTTEN)
    data = _read_if_there(uri)
    if data is None:
        return set()
    with reading(uri):
        return set(pq.read_table(pa.BufferReader(data))["image_id"].to_pylist())


def _table_of(ids: set[int]) -> pa.Table:
    return pa.Table.from_arrays([pa.array(sorted(ids), pa.int64())], schema=FORGOTTEN_SCHEMA)


def _finished(output: str) -> list[tuple[Run, dict[str, Any]]]:
    finished = []
    for run, success in successes(list_runs(output)):
        if success is None:
            raise UsageError(
                f"{output} holds run {run.run_id}, unfinished: run its command again, or discard"
                " it, and then forget"
            )
        finished.append((run, success))
    return finished


def _place(output: str, name: str) -> str:
    return storage.join(output, "_runs", name)


def _read_if_there(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except StorageError as error:
        if error.status == Status.MISSING:
            return None
        raise


def _read_intent(output: str) -> _Intent | None:
    data = _read_if_there(_place(output, INTENT))
    return None if data is None else _Intent.from_json(data)


# What is to be done


def _plan(
    output: str,
    runs: Sequence[tuple[Run, dict[str, Any]]],
    named: Sequence[tuple[int, str]],
    *,
    keep_out: bool,
    started: datetime,
) -> _Intent:
    asked, wanted = sorted({number for number, _ in named}), sorted({name for _, name in named})
    uris = [uri for run, _ in runs for uri in _swept_files(run)]
    with ThreadPoolExecutor(_NUM_LOOKING) as pool:
        found = list(pool.map(lambda uri: _find(uri, wanted), uris))
    rows = {
        storage.relative_path(uri, output): matches
        for uri, matches in zip(uris, found, strict=True)
        if matches.num_rows
    }
    files = [_FileRows(path, held["image_id"].to_pylist()) for path, held in rows.items()]
    changes = [change for run, success in runs if (change := _change(run, success, files))]
    by_run = {change.run_id: change.image_ids for change in changes}
    pairs = sorted({run.file(_REPLACED) for run, _ in runs}.intersection(uris))
    replaced = [storage.relative_path(uri, output) for uri in pairs if _holds_pairs(uri, by_run)]
    known = {name for held in rows.values() for name in held["image_uri"].to_pylist()}
    done = Forgotten(
        num_uris=len(wanted),
        num_unknown=len(wanted) - len(known),
        num_images=sum(len(file.image_ids) for file in files if file.path.startswith("images/")),
        num_faces=sum(len(file.image_ids) for file in files if file.path.startswith("faces/")),
        num_files=len(files) + len(replaced),
    )
    return _Intent(started.isoformat(), keep_out, asked, files, replaced, changes, done)


def _swept_files(run: Run) -> Iterator[str]:
    """The Parquet files of a finished run; drafts that a killed write left behind are deleted."""
    for folder in (run.folder, *map(run.table, TABLES)):
        for entry in storage.list_tree(folder):
            name = entry.uri.rpartition("/")[2]
            if name.startswith("."):
                _delete(entry.uri)
            elif name.endswith(".parquet"):
                yield entry.uri


def _find(uri: str, wanted: list[str]) -> pa.Table:
    """The ids and URIs of wanted images in a file; none where it has no such columns.

    Raises:
        DamagedError: It is no whole Parquet file.
    """
    files, path = storage.filesystem(uri)
    with reading(uri), files.open_input_file(path) as file, pq.ParquetFile(file) as part:
        has_keys = set(_KEYS.names) <= set(part.schema_arrow.names)
        return _matches(part, wanted) if has_keys else _KEYS.empty_table()


def _matches(part: pq.ParquetFile, wanted: list[str]) -> pa.Table:
    """Row groups that cannot hold a wanted image are skipped."""
    groups = [
        number
        for number in range(part.num_row_groups)
        if _may_hold(part.metadata.row_group(number), wanted)
    ]
    names = pa.array(wanted, pa.string())
    found = [
        pa.Table.from_batches([batch]).filter(pc.is_in(batch["image_uri"], value_set=names))
        for batch in part.iter_batches(_BATCH_ROWS, row_groups=groups, columns=_KEYS.names)
    ]
    return pa.concat_tables([_KEYS.empty_table(), *(rows.cast(_KEYS) for rows in found)])


def _may_hold(group: pq.RowGroupMetaData, wanted: list[str]) -> bool:
    columns = (group.column(number) for number in range(group.num_columns))
    statistics = next(c.statistics for c in columns if c.path_in_schema == "image_uri")
    if statistics is None or not statistics.has_min_max:
        return True
    first = bisect.bisect_left(wanted, statistics.min)
    return first < len(wanted) and wanted[first] <= statistics.max


def _holds_pairs(uri: str, by_run: Mapping[str, Sequence[int]]) -> bool:
    files, path = storage.filesystem(uri)
    with files.open_input_file(path) as file, pq.ParquetFile(file) as part:
        batches = (pa.Table.from_batches([batch]) for batch in part.iter_batches(_BATCH_ROWS))
        return any(pc.any(_is_replaced(rows, by_run)).as_py() for rows in batches)


def _is_replaced(rows: pa.Table, by_run: Mapping[str, Sequence[int]]) -> pa.Array:
    """Which pairs (run_id, image_id) are of images forgotten in that run."""
    gone = pa.repeat(False, rows.num_rows)
    for run_id, image_ids in by_run.items():
        is_id = pc.is_in(rows["image_id"], value_set=pa.array(image_ids, pa.int64()))
        gone = pc.or_(gone, pc.and_(is_id, pc.equal(rows["run_id"], run_id)))
    return gone


def _change(run: Run, success: dict[str, Any], files: Sequence[_FileRows]) -> _RunChange | None:
    """What becomes of a run; None where it holds none of the images."""
    own = {table: _ids_below(run, run.table(table), files) for table in TABLES}
    image_ids = sorted({*own["images"], *_ids_below(run, run.manifest, files)})
    if not image_ids:
        return None
    num_before = read_info(run).get("forgotten", 0)
    gone = {"num_images": len(own["images"]), "num_faces": len(own["faces"])}
    left = {name: success[name] - gone[name] for name in gone if name in success}
    return _RunChange(run.run_id, image_ids, num_before + len(image_ids), success | left)


def _ids_below(run: Run, folder: str, files: Sequence[_FileRows]) -> list[int]:
    below = storage.relative_path(folder, run.output) + "/"
    return [n for file in files if file.path.startswith(below) for n in file.image_ids]


# Doing it


def _carry_out(output: str, intent: _Intent, check: Callable[[], None]) -> None:
    """Do all of it, whatever is done already; the intent is deleted last.

    Ids are kept first: of a removal that is cut short no run annotates again what is gone.
    """
    check()
    _keep_ids(output, intent)
    by_run = {run.run_id: run.image_ids for run in intent.runs}
    drops: dict[str, _Drop] = {file.path: _drop_ids(file.image_ids) for file in intent.files}
    drops |= dict.fromkeys(intent.replaced, lambda rows: _is_replaced(rows, by_run))

    def write(path: str) -> tuple[str, dict[str, Any]]:
        check()
        return path, _rewrite(storage.join(output, path), drops[path])

    with ThreadPoolExecutor(_NUM_WRITING) as pool:
        written = dict(pool.map(write, drops))
    for change in intent.runs:
        check()
        _finish_run(Run(output, change.run_id), change, written)
    check()
    content = {
        "job": "forget",
        "who": who(),
        "started": intent.started,
        "keep_out": intent.keep_out,
        "images_by_run": {run.run_id: len(run.image_ids) for run in intent.runs},
    }
    started = datetime.fromisoformat(intent.started)
    write_audit(output, "forget", started, content | asdict(intent.done))
    _delete(_place(output, INTENT))


_Drop = Callable[[pa.Table], pa.Array]


def _drop_ids(image_ids: Sequence[int]) -> _Drop:
    ids = pa.array(set(image_ids), pa.int64())
    return lambda rows: pc.is_in(rows["image_id"], value_set=ids)


def _rewrite(uri: str, drop: _Drop) -> dict[str, Any]:
    """Write a file anew without some rows, if it has them; what ``files.parquet`` says of it."""
    data = storage.read_bytes(uri)
    kept, num_rows, num_dropped = without_rows(data, drop)
    if num_dropped:
        storage.write_bytes(uri, kept)
        data = kept
    return {
        "num_rows": num_rows,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _finish_run(run: Run, change: _RunChange, written: Mapping[str, Mapping[str, Any]]) -> None:
    """Bring what a run says of itself into line with its files; ``_SUCCESS`` last."""
    data = _read_if_there(run.file(_FILES))
    if data is not None:
        files = pq.read_table(pa.BufferReader(data))
        rows = [row | dict(written.get(row["path"], {})) for row in files.to_pylist()]
        storage.write_bytes(run.file(_FILES), _encoded(pa.Table.from_pylist(rows, files.schema)))
    write_json(run.file("run.json"), read_info(run) | {"forgotten": change.forgotten})
    storage.write_bytes(run.file(SUCCESS), json.dumps(change.success).encode() + b"\n")


def _keep_ids(output: str, intent: _Intent) -> None:
    ids = _kept_ids(output)
    after = ids | intent.image_ids if intent.keep_out else ids - intent.image_ids
    if after != ids:
        storage.write_bytes(_place(output, _FORGOTTEN), _encoded(_table_of(after)))


def _encoded(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _delete(uri: str) -> None:
    files, path = storage.filesystem(uri)
    files.delete_file(path)
