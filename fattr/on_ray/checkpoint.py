"""Ray Data's record of the rows that are staged, and what a killed run leaves beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.checkpoint import CheckpointConfig

from fattr import storage
from fattr.published.parts import part_uris
from fattr.runs.run import Run

ID_COLUMN = "image_id"
FILTER_OPERATOR = "CheckpointFilter"  # its name in a plan
FILTER_MEMORY_BYTES = 64 << 20  # Ray's own 1 GiB does not fit into every small cluster
_PENDING = ".pending"
_NUM_PARALLEL = 16


def checkpoint_config(run: Run, *, num_filters: int) -> CheckpointConfig:
    """The record of a run; kept when Ray is done, for publishing may yet fail."""
    files, path = storage.folderless(run.checkpoint)
    config = CheckpointConfig(
        ID_COLUMN, path, delete_checkpoint_on_success=False, override_filesystem=files
    )
    config.checkpoint_actor_pool_max_size = num_filters  # each takes a whole CPU
    config.checkpoint_actor_memory_bytes = FILTER_MEMORY_BYTES
    return config


def _files(run: Run) -> dict[str, str]:
    """The files of the record, pending ones too: name without ending -> URI."""
    uris = (entry.uri for entry in storage.list_tree(run.checkpoint))
    return {PurePosixPath(uri).stem: uri for uri in uris if uri.endswith(".parquet")}


def _recorded(run: Run) -> dict[str, str]:
    """The same of the complete files."""
    return {name: uri for name, uri in _files(run).items() if not name.endswith(_PENDING)}


def _num_rows(uri: str) -> int:
    files, path = storage.filesystem(uri)
    with files.open_input_file(path) as file:
        return int(pq.read_metadata(file).num_rows)


def count_checkpointed(run: Run) -> int:
    """How many rows an unfinished run has staged for good."""
    with ThreadPoolExecutor(_NUM_PARALLEL) as pool:
        return sum(pool.map(_num_rows, _recorded(run).values()))


def _record_of(staged_uri: str) -> str:
    """The name, without its ending, of the file of the record that knows a staged file."""
    return PurePosixPath(staged_uri).stem.rpartition("-")[0]


def recorded_parts(run: Run) -> list[str]:
    """URIs of the staged files that the record knows: these alone are sure to be complete."""
    known = _recorded(run)
    return [uri for uri in part_uris(run.staging) if _record_of(uri) in known]


def forget(run: Run, staged_uris: Iterable[str]) -> None:
    """Strike staged files from the record: their images are done again."""
    names = {_record_of(uri) for uri in staged_uris}
    for name, uri in _recorded(run).items():
        if name in names:
            _delete(uri)


def strike_unsound(run: Run) -> int:
    """Strike files of the record that do not stand for staged rows; how many there were.

    To be called before all else where a run is gone on with: Ray Data leaves out what is recorded,
    and images of such a file would never get a row. What leaves one behind:

    - A kill within a commit to S3, which copies and then deletes; or of a task that Ray did again
      since its node was lost after its commit. The file is pending as well, and Ray Data begins
      with deleting the staged rows of all that is pending.
    - The same, and Ray Data has begun before.
    - A power cut, which cuts files short.
    """
    files = _files(run)
    names = [name for name in files if not name.endswith(_PENDING)]
    # Listed after the record: what it knows by now was staged before.
    parts = [uri for uri in part_uris(run.staging) if _record_of(uri) in files]
    num_staged: Counter[str] = Counter()
    with ThreadPoolExecutor(_NUM_PARALLEL) as pool:
        num_recorded = pool.map(_num_rows_if_whole, [files[name] for name in names])
        for uri, num_rows in zip(parts, pool.map(_num_rows_if_whole, parts), strict=True):
            num_staged[_record_of(uri)] += num_rows
        unsound = [
            files[name]
            for name, num_rows in zip(names, num_recorded, strict=True)
            if f"{name}{_PENDING}" in files or not 0 < num_rows == num_staged[name]
        ]
        list(pool.map(_delete, unsound))
    return len(unsound)


def _num_rows_if_whole(uri: str) -> int:
    """0 of a file that was cut short."""
    try:
        return _num_rows(uri)
    except pa.ArrowInvalid:
        return 0


def drop_unrecorded(run: Run) -> int:
    """Delete staged files that the record does not know; how many there were.

    Workers of a killed driver may go on for a moment and leave such files, complete or not. Their
    images are done again by whoever took over.
    """
    known = _recorded(run)
    strays = [
        entry.uri for entry in storage.list_tree(run.staging) if _record_of(entry.uri) not in known
    ]
    for uri in strays:
        _delete(uri)
    return len(strays)


def _delete(uri: str) -> None:
    files, path = storage.filesystem(uri)
    files.delete_file(path)
