"""The stages in this process, on threads: small jobs, tests, and the oracle for the Ray engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from fattr import storage
from fattr.evaluation.scoring import ScoreFaces, read_labelled, samples_table
from fattr.published.parts import PartWriter
from fattr.published.publish import count_work
from fattr.records import Sample
from fattr.runs import manifest
from fattr.stages import Annotate, Fetch, ordered_map

ROWS_PER_BATCH = 16


def annotate_locally(
    manifest_uri: str,
    staging_uri: str,
    annotate: Annotate,
    schema: pa.Schema,
    *,
    num_threads: int,
    on_counts: Callable[[Counter[str]], None],
    read_options: storage.ReadOptions | None = None,
) -> None:
    """Manifest to staged rows in the order of the manifest.

    An image that crashes or hangs its process ends this one: only the Ray engine outlives it.
    """
    fetch = Fetch(options=read_options)

    def run(batch: pa.RecordBatch) -> pa.Table:
        return annotate(fetch(pa.Table.from_batches([batch])))

    batches = manifest.read_manifest(manifest_uri, ROWS_PER_BATCH)
    with ThreadPoolExecutor(num_threads) as pool, PartWriter(staging_uri, schema) as writer:
        for rows in ordered_map(run, batches, pool=pool, ahead=2 * num_threads):
            writer.write(rows)
            on_counts(count_work(rows))


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
