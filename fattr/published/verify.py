"""Whether an OUTPUT is what its runs say: files, keys, counts, and one newest row of each image."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fattr import storage, tables
from fattr.errors import StorageError, UsageError
from fattr.published.catalog import (
    DELETED,
    REPLACED,
    RunFiles,
    dataset_of,
    newest_rows,
    replaced_batches,
)
from fattr.published.parts import DamagedError, part_uris, read_part
from fattr.published.publish import FILES, PublishedFile, read_files
from fattr.published.windows import UnsortedError, windows
from fattr.records import Status
from fattr.runs.run import SUCCESS, TABLES, Run, list_runs, successes

FORGETTING = "forget.json"  # lies in _runs as long as images are being forgotten
_BATCH_ROWS = 65_536
_NUM_PARALLEL = 4  # files in memory at once
_MEMORY_LIMIT = "1GB"  # of comparing runs with each other; what is more goes to disk
_SAME_IN_ALL = (b"fattr.schema", b"fattr.settings_id")
_UNREADABLE = (DamagedError, pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, StorageError)


def verify(output: str, *, on_file: Callable[[str], None] = lambda _: None) -> list[str]:
    """What is wrong with the finished runs of an OUTPUT, a line each; nothing where all is well.

    Every file is read and compared with what was published, every run with its manifest, faces
    with images, and the runs with each other: an image has one row that no newer run replaced.
    Memory does not grow with the number of rows.

    Args:
        output: A folder or ``s3://`` URI.
        on_file: Told the path below OUTPUT of each file once it was read.

    Raises:
        UsageError: No run of this OUTPUT is finished.
        StorageError: The store is unavailable.
    """
    place = storage.canonical_uri(output)
    runs = list_runs(place)
    finished = {run: said for run, said in successes(runs) if said is not None}
    if not finished:
        raise UsageError(
            f"{place} holds no finished run: expected the --output of `fattr annotate`"
        )
    problems = []
    if storage.exists(storage.join(place, "_runs", FORGETTING)):
        problems.append("images are still being forgotten: run `fattr forget` again to end it")
    lying = _lying_files(place)
    problems += _of_no_run(lying, [*runs, *list_runs(place)])  # one may have begun in between
    expected: dict[str, pa.Schema] = {}
    sound = []
    for run, said in finished.items():
        checked = _check_run(run, said, lying, expected, on_file)
        problems += [f"run {run.run_id}: {problem}" for problem in checked.problems]
        if not checked.problems:
            sound.append(RunFiles(run, checked.files))
    return problems + _check_together(sound, list(finished))


# Files


@dataclass(frozen=True, slots=True)
class _Checked:
    problems: list[str]
    files: tuple[PublishedFile, ...] = ()


def _lying_files(output: str) -> dict[str, int | None]:
    """Path below OUTPUT and size of every file of the tables."""
    return {
        storage.relative_path(entry.uri, output): entry.size_bytes
        for name in TABLES
        for entry in storage.list_tree(storage.join(output, name))
    }


def _of_no_run(lying: Mapping[str, int | None], runs: Sequence[Run]) -> list[str]:
    folders = tuple(f"{_folder(run, name)}/" for run in runs for name in TABLES)
    known = {path for path in lying if path.startswith(folders)}
    return [f"{path} belongs to no run" for path in lying if path not in known]


def _folder(run: Run, name: str) -> str:
    return storage.relative_path(run.table(name), run.output)


def _check_run(
    run: Run,
    said: Mapping[str, Any],
    lying: Mapping[str, int | None],
    expected: dict[str, pa.Schema],
    on_file: Callable[[str], None],
) -> _Checked:
    try:
        files = tuple(read_files(run))
    except _UNREADABLE as error:
        return _Checked([f"{FILES} cannot be read: {_reason(error)}"])
    problems = _check_lists(run)
    listed = {file.path for file in files}
    own = tuple(f"{_folder(run, name)}/" for name in TABLES)
    problems += [f"{path} is missing" for path in sorted(listed - lying.keys())]
    extra = [path for path in lying if path.startswith(own) and path not in listed]
    problems += [f"{path} was not published by it" for path in extra]
    there = [file for file in files if file.path in lying]
    with ThreadPoolExecutor(_NUM_PARALLEL) as pool:
        for file, (schema, wrong) in zip(
            there, pool.map(lambda file: _check_file(run, file), there), strict=True
        ):
            problems += wrong
            if schema is not None:
                problems += _check_schema(file, schema, run, expected)
            on_file(file.path)
    if not listed - lying.keys():
        problems += _check_rows(run, said, files)
    return _Checked(problems, files)


def _check_lists(run: Run) -> list[str]:
    """Which of the run's own lists of images, where it has them, cannot be read."""
    problems = []
    for name in (REPLACED, DELETED):
        uri = run.file(name)
        try:
            if storage.exists(uri):
                deque(read_part(uri, batch_rows=_BATCH_ROWS), maxlen=0)
        except _UNREADABLE as error:
            problems.append(f"{name} cannot be read: {_reason(error)}")
    return problems


def _check_file(run: Run, file: PublishedFile) -> tuple[pa.Schema | None, list[str]]:
    """The schema of a file, if it has one, and what differs from what was published."""
    try:
        data = storage.read_bytes(storage.join(run.output, file.path))
    except StorageError as error:
        return None, [f"{file.path} cannot be read: {error.reason}"]
    problems = []
    if len(data) != file.size_bytes:
        problems.append(f"{file.path} has {len(data)} bytes: {file.size_bytes} were published")
    elif hashlib.sha256(data).hexdigest() != file.sha256:
        problems.append(f"{file.path} is not what was published: its SHA-256 differs")
    try:
        part = pq.ParquetFile(pa.BufferReader(data))
    except _UNREADABLE:
        return None, [*problems, f"{file.path} is no readable Parquet file"]
    if part.metadata.num_rows != file.num_rows:
        found = part.metadata.num_rows
        problems.append(f"{file.path} has {found} rows: {file.num_rows} were published")
    return part.schema_arrow, problems


def _check_schema(
    file: PublishedFile, schema: pa.Schema, run: Run, expected: dict[str, pa.Schema]
) -> list[str]:
    """Compare with the first file seen of its table, the columns' metadata included."""
    said = schema.metadata or {}
    bare = schema.with_metadata({key: said.get(key, b"") for key in _SAME_IN_ALL})
    problems = []
    if not bare.equals(expected.setdefault(file.table, bare), check_metadata=True):
        problems.append(f"{file.path} has another schema or other settings than earlier files")
    if said.get(b"fattr.run_id", run.run_id.encode()) != run.run_id.encode():
        problems.append(f"{file.path} says that it is of another run")
    return problems


# Rows


def _check_rows(run: Run, said: Mapping[str, Any], files: Sequence[PublishedFile]) -> list[str]:
    """Compare manifest, images and faces, window by window of URIs, and the sums with _SUCCESS."""
    counts: Counter[str] = Counter()
    streams = [
        _rows_of(part_uris(run.manifest), _MANIFEST_ROWS),
        _rows_of(_uris(run, files, "images"), _IMAGE_ROWS),
        _rows_of(_uris(run, files, "faces"), _FACE_ROWS),
    ]
    problems = []
    try:
        for manifest, images, faces in windows(streams):
            counts.update(num_images=images.num_rows, num_faces=faces.num_rows)
            counts.update(_compare_images(manifest, images))
            counts.update(_compare_faces(images, faces))
    except UnsortedError as error:
        name = ("the manifest", "images", "faces")[error.number]
        return [f"{name} is not sorted by image_uri: its rows were not compared"]
    except _UNREADABLE as error:
        return [f"its rows cannot be read: {_reason(error)}"]
    for name in ("num_images", "num_faces"):
        if said.get(name) != counts[name]:
            problems.append(f"{SUCCESS} says {name} {said.get(name)}: there are {counts[name]}")
    return problems + [f"{counts[problem]} {problem}" for problem in _PROBLEMS if counts[problem]]


_MISSING = "images of its manifest have no row"
_STRANGE = "rows of images are of no image of its manifest"
_DOUBLED = "rows of images are of an image that has another row"
_RENAMED = "images have another image_uri than in its manifest"
_NO_STATUS = "rows of images have an unknown status"
_ORPHANS = "rows of faces are of no image"
_MISCOUNTED = "images have another number of faces than num_faces says"
_MISNUMBERED = "images have faces whose face_index is not 0, 1, 2 and so on"
_PROBLEMS = (
    *(_MISSING, _STRANGE, _DOUBLED, _RENAMED, _NO_STATUS),
    *(_ORPHANS, _MISCOUNTED, _MISNUMBERED),
)
_MANIFEST_ROWS = pa.schema([tables.IMAGES.field(name) for name in ("image_id", "image_uri")])
_IMAGE_ROWS = pa.schema([*_MANIFEST_ROWS, *map(tables.IMAGES.field, ("num_faces", "status"))])
_FACE_ROWS = pa.schema([*_MANIFEST_ROWS, tables.faces_schema(()).field("face_index")])


def _uris(run: Run, files: Sequence[PublishedFile], table: str) -> list[str]:
    return [storage.join(run.output, file.path) for file in files if file.table == table]


def _rows_of(uris: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
    yield schema.empty_table()
    for uri in uris:
        for rows in read_part(uri, batch_rows=_BATCH_ROWS, columns=schema.names):
            yield rows.cast(schema)


def _compare_images(manifest: pa.Table, images: pa.Table) -> dict[str, int]:
    wanted, found = (_column(rows, "image_id") for rows in (manifest, images))
    places = pc.index_in(wanted, value_set=found)
    pairs = _column(images, "image_uri").take(places)
    renamed = pc.not_equal(pairs, _column(manifest, "image_uri"))
    return {
        _MISSING: places.null_count,
        _STRANGE: pc.index_in(found, value_set=wanted).null_count,
        _DOUBLED: len(found) - pc.count_distinct(found).as_py(),
        _RENAMED: pc.sum(renamed).as_py() or 0,
        _NO_STATUS: _num_unknown(_column(images, "status")),
    }


def _compare_faces(images: pa.Table, faces: pa.Table) -> dict[str, int]:
    owners = pc.index_in(_column(faces, "image_id"), value_set=_column(images, "image_id"))
    known = owners.is_valid().to_numpy(zero_copy_only=False)
    owner = owners.drop_null().to_numpy()
    index = _column(faces, "face_index").to_numpy()[known]
    found = np.bincount(owner, minlength=images.num_rows)
    order = np.lexsort((index, owner))
    first = np.repeat(np.cumsum(found) - found, found)
    is_wrong = index[order] != np.arange(len(order)) - first
    return {
        _ORPHANS: int((~known).sum()),
        _MISCOUNTED: int((found != _column(images, "num_faces").to_numpy()).sum()),
        _MISNUMBERED: len(np.unique(owner[order][is_wrong])),
    }


def _num_unknown(status: pa.Array) -> int:
    known = pc.is_in(status, value_set=pa.array([str(status) for status in Status]))
    return int(pc.sum(pc.invert(known)).as_py() or 0)


def _column(rows: pa.Table, name: str) -> pa.Array:
    column = rows.column(name)
    return column.combine_chunks() if column.num_chunks else pa.array([], column.type)


# Runs


def _check_together(sound: Sequence[RunFiles], finished: Sequence[Run]) -> list[str]:
    """Of runs without a problem of their own: what they replaced, and one newest row an image."""
    with tempfile.TemporaryDirectory() as scratch, _connect(Path(scratch)) as connection:
        _load_runs(connection, sound, finished)
        has_replaced = _number(connection, "SELECT count(*) FROM replaced") > 0
        connection.register("images", dataset_of("images", sound))
        problems = _check_replaced(connection) if has_replaced else []
        rows = newest_rows("images", "replaced" if has_replaced else None)
        doubled = _number(
            connection,
            f"SELECT count(*) FROM (SELECT 1 FROM ({rows}) GROUP BY md5_number(image_uri)"
            " HAVING count(*) > 1)",
        )
    if doubled:
        problems.append(f"{doubled} images have rows of several runs, none of them replaced")
    return problems


def _connect(scratch: Path) -> duckdb.DuckDBPyConnection:
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY_LIMIT,
        "temp_directory": str(scratch),
    }
    return duckdb.connect(str(scratch / "verify.duckdb"), config=settings)


def _load_runs(
    connection: duckdb.DuckDBPyConnection, sound: Sequence[RunFiles], finished: Sequence[Run]
) -> None:
    connection.execute("CREATE TABLE runs (run VARCHAR, is_sound BOOLEAN)")
    connection.execute("CREATE TABLE replaced (newer VARCHAR, run_id VARCHAR, image_id BIGINT)")
    for run in finished:
        is_sound = any(one.run == run for one in sound)
        connection.execute("INSERT INTO runs VALUES (?, ?)", [run.run_id, is_sound])
        for pairs in replaced_batches(run) if is_sound else ():
            connection.register("pairs", pairs)
            connection.execute(
                "INSERT INTO replaced SELECT ?, run_id, image_id FROM pairs", [run.run_id]
            )
            connection.unregister("pairs")


def _check_replaced(connection: duckdb.DuckDBPyConnection) -> list[str]:
    questions = {
        "of no older run": "WHERE run_id >= newer OR run_id NOT IN (SELECT run FROM runs)",
        "that are not there": (
            "ANTI JOIN images ON images.run = run_id AND images.image_id = replaced.image_id"
            " WHERE run_id NOT IN (SELECT run FROM runs WHERE NOT is_sound)"
        ),
        "whose newer row is not there": (
            "ANTI JOIN images ON images.run = newer AND images.image_id = replaced.image_id"
        ),
    }
    counts = {
        which: _number(connection, f"SELECT count(*) FROM replaced {condition}")
        for which, condition in questions.items()
    }
    return [f"{REPLACED} lists {count} rows {which}" for which, count in counts.items() if count]


def _number(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(connection.execute(query).fetchall()[0][0])


def _reason(error: Exception) -> str:
    """Why, without Arrow's own words, which may quote an endpoint."""
    if isinstance(error, DamagedError):
        return f"{error.uri} is damaged"
    return error.reason if isinstance(error, StorageError) else type(error).__name__
