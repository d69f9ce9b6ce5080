"""Time and memory of planning an increment over a generated listing: no store takes part.

    python benchmarks/increment.py --rows 100_000_000 --known 99_000_000

``--known`` images were done before, in ten runs; of these one in a thousand has changed and one in
a thousand was deleted since. Reports seconds for each phase and the peak of this process's memory.
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fattr import storage
from fattr.increment.comparison import Comparison
from fattr.increment.plan import Done, Room, Wanted, plan_increment
from fattr.published.catalog import KNOWN_SCHEMA
from fattr.runs.manifest import UriNames
from fattr.runs.run import Run
from fattr.storage import FileEntry

NUM_RUNS = 10
BATCH_ROWS = 65_536
PHASES = ("bring_listing", "bring_known", "compare", "other_ids")


def main() -> None:
    """Plan one increment and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="images listed")
    parser.add_argument("--known", type=int, default=0, help="images done before")
    parser.add_argument("--shuffled", action="store_true", help="list in no order, as an inventory")
    parser.add_argument("--memory-limit-mb", type=int, default=1024, help="of DuckDB")
    parser.add_argument("--scratch", type=Path, help="folder on a disk with room; default: TMPDIR")
    args = parser.parse_args()
    timed = {name: time_method(name) for name in PHASES}
    peak = PeakMemory()
    whole = Seconds()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder, peak, whole.count():
        scratch = Path(folder, "scratch")
        scratch.mkdir()
        found = plan_increment(
            entries(args.rows, args.known, is_shuffled=args.shuffled),
            Run(storage.canonical_uri(folder), "20261123T211700Z-000000"),
            names=UriNames(),
            done=Done(known=known_rows(args.known) if args.known else None),
            wanted=Wanted(scope=["s3://bucket"]),
            room=Room(scratch=scratch, memory_limit_mb=args.memory_limit_mb),
        )
    rest = Seconds(
        whole.wall - sum(took.wall for took in timed.values()),
        whole.cpu - sum(took.cpu for took in timed.values()),
    )
    print(f"duckdb {duckdb.__version__}, pyarrow {pa.__version__}, {platform.python_version()}")
    print(found.describe())
    print(", ".join(f"{name} {took}" for name, took in (timed | {"write": rest}).items()))
    print(f"all {whole}; peak {peak.bytes / 2**20:.0f} MiB, {peak.first / 2**20:.0f} at the start")


@dataclass
class Seconds:
    """How long something took: by the clock, and of processors, which neighbours do not change."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextmanager
    def count(self) -> Iterator[None]:
        """Take the time of the block."""
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self.wall, self.cpu = time.monotonic() - wall, time.process_time() - cpu

    def __str__(self) -> str:
        return f"{self.wall:.0f} s ({self.cpu:.0f} CPU)"


def time_method(name: str) -> Seconds:
    """Wrap a method of ``Comparison``, which is called once, to see how long it takes."""
    method: Callable[..., object] = getattr(Comparison, name)
    took = Seconds()

    def timed(*args: object, **kwargs: object) -> object:
        with took.count():
            result = method(*args, **kwargs)
        print(f"  {name}: {took}", flush=True)
        return result

    setattr(Comparison, name, timed)
    return took


class PeakMemory:
    """The most resident memory of this process, looked at ten times a second.

    ``anonymous`` memory and file pages both count, as for whatever limits a container.
    """

    def __enter__(self) -> PeakMemory:
        self.first = self.bytes = resident_bytes()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.1):
            self.bytes = max(self.bytes, resident_bytes())


def resident_bytes() -> int:
    """Of this process, as Linux tells."""
    (line,) = [s for s in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in s]
    return int(line.split()[1]) * 1024


def uris_of(numbers: np.ndarray) -> pa.Array:
    """Names of usual length, in the order of the numbers."""
    ten_digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 10, "0")
    folders = pc.utf8_slice_codeunits(ten_digits, 0, 5)
    start, middle, end = "s3://bucket/photos/2026/", "/IMG_", ".jpg"
    return pc.binary_join_element_wise(start, folders, middle, ten_digits, end, "")


def etags_of(numbers: np.ndarray, *, changed: np.ndarray | int = 0) -> pa.Array:
    """Digits that do not compress, about as many as an MD5 has."""
    seeds = numbers + 2**40 * changed
    halves = [pa.array(mixed(seeds + n)).cast(pa.string()) for n in (0, 2**50)]
    return pc.binary_join_element_wise(*halves, "")


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Another number for each, as if by chance."""
    values = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(29)
    return values * np.uint64(0xBF58476D1CE4E5B9)


def entries(num_rows: int, num_known: int, *, is_shuffled: bool) -> Iterator[FileEntry]:
    """The listing: of what is known every 1,000th is missing and the one after it has changed."""
    step = 1
    if is_shuffled:  # the same numbers, far apart
        step = next(n for n in itertools.count(num_rows * 2 // 3) if math.gcd(n, num_rows) == 1)
    for start in range(0, num_rows, BATCH_ROWS):
        numbers = np.arange(start, min(start + BATCH_ROWS, num_rows)) * step % num_rows
        numbers = numbers[(numbers >= num_known) | (numbers % 1000 != 0)]
        changed = (numbers < num_known) & (numbers % 1000 == 1)
        uris, etags = uris_of(numbers).to_pylist(), etags_of(numbers, changed=changed).to_pylist()
        sizes = (100_000 + numbers % 1000).tolist()
        yield from map(FileEntry, uris, sizes, etags)


def known_rows(num_known: int) -> pa.RecordBatchReader:
    """One row for each known image: a run holds every tenth of them, in order."""
    return pa.RecordBatchReader.from_batches(KNOWN_SCHEMA, _known_batches(num_known))


def _known_batches(num_known: int) -> Iterator[pa.RecordBatch]:
    for run, start in itertools.product(range(NUM_RUNS), range(0, num_known, BATCH_ROWS)):
        numbers = np.arange(start, min(start + BATCH_ROWS, num_known))
        numbers = numbers[numbers % NUM_RUNS == run]
        columns = {
            "image_id": mixed(numbers).astype(np.int64),
            "image_uri": uris_of(numbers),
            "etag": etags_of(numbers),
            "size_bytes": 100_000 + numbers % 1000,
            "status": pa.repeat("ok", len(numbers)),
            "run_id": pa.repeat(f"202611{run + 1:02d}T000000Z-000000", len(numbers)),
        }
        yield pa.RecordBatch.from_pydict(columns, schema=KNOWN_SCHEMA)


if __name__ == "__main__":
    main()
