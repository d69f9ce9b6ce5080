"""The stages in this process, on threads: small jobs, tests, and the oracle for the Ray engine."""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from fattr.evaluation.scoring import ScoreFaces, read_labelled, samples_table
from fattr.published.parts import PartWriter
from fattr.published.publish import count_work
from fattr.published.suspects import GOT_THROUGH
from fattr.records import Sample
from fattr.runs import manifest
from fattr.sandbox import RaisedError, Suspicion, refuse_bug, try_row
from fattr.stages import Fetch, Stage, ordered_map

log = logging.getLogger(__name__)

ROWS_PER_BATCH = 16


def annotate_locally(
    manifest_uri: str,
    staging_uri: str,
    annotate: Stage,
    schema: pa.Schema,
    *,
    fetch: Stage,
    num_threads: int,
    on_counts: Callable[[Counter[str]], None],
    is_cleared: bool = False,
) -> None:
    """Manifest to staged rows in the order of the manifest.

    An image that crashes or hangs its process ends this one: only the Ray engine outlives it. One
    that raises is a row with status ``poison``.

    Raises:
        BugError: Many images raised the same, and none got through, unless the code
            ``is_cleared`` from the start.
    """
    stage = Outliving(annotate, is_cleared=is_cleared)

    def run(batch: pa.RecordBatch) -> pa.Table:
        return stage(fetch(pa.Table.from_batches([batch])))

    batches = manifest.read_manifest(manifest_uri, ROWS_PER_BATCH)
    with ThreadPoolExecutor(num_threads) as pool, PartWriter(staging_uri, schema) as writer:
        for rows in ordered_map(run, batches, pool=pool, ahead=2 * num_threads):
            writer.write(rows)
            on_counts(count_work(rows))


class Outliving:
    """A stage whose images may raise: those of such a batch are then looked at one by one."""

    def __init__(self, stage: Stage, *, is_cleared: bool = False) -> None:
        self._stage, self._lock = stage, threading.Lock()
        self._suspicion = Suspicion(is_cleared=is_cleared)
        self._logged: set[str] = set()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """See the class; callable from several threads.

        Raises:
            BugError: Many images raised the same, and none got through.
        """
        made = self._at_once(rows)
        if made is None:
            return pa.concat_tables([self._alone(rows.slice(i, 1)) for i in range(rows.num_rows)])
        self._clear_if_any(made)
        return made

    def _at_once(self, rows: pa.Table) -> pa.Table | None:
        try:
            return self._stage(rows)
        except Exception:  # noqa: BLE001 -- it is raised again, image by image
            return None

    def _alone(self, row: pa.Table) -> pa.Table:
        on_raised = functools.partial(self._raised, row["image_id"][0].as_py())
        made = try_row(row, self._try, self._stage, on_raised)
        self._clear_if_any(made)
        return made

    def _try(self, row: pa.Table) -> pa.Table:
        try:
            return self._stage(row)
        except Exception as error:
            raise RaisedError.of(error) from error

    def _raised(self, image_id: int, error: RaisedError) -> None:
        with self._lock:
            num_raised = self._suspicion.raised(error.kind, image_id)
            is_first = error.kind not in self._logged
            self._logged.add(error.kind)
        if is_first:
            log.warning("an image raised what was not foreseen: please report it\n%s", error.trace)
        refuse_bug(error.kind, num_raised)

    def _clear_if_any(self, made: pa.Table) -> None:
        if set(GOT_THROUGH).intersection(made.column("status").to_pylist()):
            self._suspicion.clear()


def score_locally(
    samples: Sequence[Sample], score: ScoreFaces, *, num_threads: int
) -> Generator[pa.Table, None, None]:
    """Scored rows of labelled images, in their order."""
    fetch = Fetch(read=read_labelled)

    def run(batch: pa.RecordBatch) -> pa.Table:
        return score(fetch(pa.Table.from_batches([batch])))

    batches = samples_table(samples).to_batches(max_chunksize=ROWS_PER_BATCH)
    with ThreadPoolExecutor(num_threads) as pool:
        yield from ordered_map(run, batches, pool=pool, ahead=2 * num_threads)
