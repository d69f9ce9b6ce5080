"""The stages in this process, on threads: small jobs, tests, and the oracle for the Ray engine."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

from fattr import manifest
from fattr.parts import PartWriter
from fattr.publish import count_rows
from fattr.records import Sample
from fattr.scoring import ScoreFaces, read_labelled, samples_table
from fattr.stages import Annotate, Fetch

ROWS_PER_BATCH = 16

A = TypeVar("A")
B = TypeVar("B")


def ordered_map(
    function: Callable[[A], B], items: Iterable[A], *, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[B]:
    """Results in the order of the items, at most ``ahead`` of them under way."""
    waiting: deque[Future[B]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def annotate_locally(
    manifest_uri: str,
    staging_uri: str,
    annotate: Annotate,
    schema: pa.Schema,
    *,
    num_threads: int,
    on_counts: Callable[[Counter[str]], None],
) -> None:
    """Manifest to staged rows in the order of the manifest."""
    fetch = Fetch()

    def run(batch: pa.RecordBatch) -> pa.Table:
        return annotate(fetch(pa.Table.from_batches([batch])))

    batches = manifest.read_manifest(manifest_uri, ROWS_PER_BATCH)
    with ThreadPoolExecutor(num_threads) as pool, PartWriter(staging_uri, schema) as writer:
        for rows in ordered_map(run, batches, pool=pool, ahead=2 * num_threads):
            writer.write(rows)
            on_counts(count_rows(rows))


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
