"""Ray Data's record of the rows that are staged, and what a killed run leaves beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

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
    files, path = storage.filesystem(run.checkpoint)
    config = CheckpointConfig(
        ID_COLUMN, path, delete_checkpoint_on_success=False, override_filesystem=files
    )
    config.checkpoint_actor_pool_max_size = num_filters  # each takes a whole CPU
    config.checkpoint_actor_memory_bytes = FILTER_MEMORY_BYTES
    return config


def _recorded(run: Run) -> Iterator[str]:
    """URIs of the complete files of the record."""
    for entry in storage.list_tree(run.checkpoint):
        if entry.uri.endswith(".parquet") and not entry.uri.endswith(f"{_PENDING}.parquet"):
            yield entry.uri


def _recorded_names(run: Run) -> set[str]:
    return {PurePosixPath(uri).stem for uri in _recorded(run)}


def _num_rows(uri: str) -> int:
    files, path = storage.filesystem(uri)
    with files.open_input_file(path) as file:
        return int(pq.read_metadata(file).num_rows)


def count_checkpointed(run: Run) -> int:
    """How many rows an unfinished run has staged for good."""
    with ThreadPoolExecutor(_NUM_PARALLEL) as pool:
        return sum(pool.map(_num_rows, _recorded(run)))


def _record_of(staged_uri: str) -> str:
    """The name, without its ending, of the file of the record that knows a staged file."""
    return PurePosixPath(staged_uri).stem.rpartition("-")[0]


def recorded_parts(run: Run) -> list[str]:
    """URIs of the staged files that the record knows: these alone are sure to be complete."""
    known = _recorded_names(run)
    return [uri for uri in part_uris(run.staging) if _record_of(uri) in known]


def forget(run: Run, staged_uris: Iterable[str]) -> None:
    """Strike staged files from the record: their images are done again."""
    names = {_record_of(uri) for uri in staged_uris}
    for uri in list(_recorded(run)):
        if PurePosixPath(uri).stem in names:
            files, path = storage.filesystem(uri)
            files.delete_file(path)


def drop_unrecorded(run: Run) -> int:
    """Delete staged files that the record does not know; how many there were.

    Workers of a killed driver may go on for a moment and leave such files, complete or not. Their
    images are done again by whoever took over.
    """
    known = _recorded_names(run)
    strays = [
        entry.uri for entry in storage.list_tree(run.staging) if _record_of(entry.uri) not in known
    ]
    for uri in strays:
        files, path = storage.filesystem(uri)
        files.delete_file(path)
    return len(strays)
