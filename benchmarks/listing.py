"""Time of listing a folder and a bucket, one folder after another and several at once.

    python -m benchmarks.listing --folders 1000 --files 100 --prefixes 50 --keys 400

The bucket is a real local S3 server's (rclone) over files of its own.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from benchmarks.faults.rclone import s3_environment, s3_of_folder
from fattr import storage
from fattr.storage.listing import NUM_PARALLEL


def main() -> None:
    """List both, in turns; say the least and the most seconds of each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", type=int, default=1000, help="of the local tree")
    parser.add_argument("--files", type=int, default=100, help="in each of them")
    parser.add_argument("--prefixes", type=int, default=50, help="of the bucket")
    parser.add_argument("--keys", type=int, default=400, help="below each of them")
    parser.add_argument("--turns", type=int, default=3, help="how often each is listed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        local, buckets = Path(scratch, "local"), Path(scratch, "buckets")
        make(local, args.folders, args.files)
        make(buckets / "photos", args.prefixes, args.keys)
        compare("local", str(local), args.folders * args.files, args.turns)
        with s3_of_folder(buckets) as url, patch.dict(os.environ, s3_environment(url)):
            compare("S3", "s3://photos", args.prefixes * args.keys, args.turns)


def make(root: Path, num_folders: int, num_files: int) -> None:
    """Write files of a few bytes."""
    for folder in range(num_folders):
        path = root / f"{folder:05d}"
        path.mkdir(parents=True)
        for file in range(num_files):
            (path / f"{file:06d}.jpg").write_bytes(b"no picture")


def compare(name: str, uri: str, num_files: int, turns: int) -> None:
    """Time both ways of listing a place, in turns."""
    seconds: dict[int, list[float]] = {1: [], NUM_PARALLEL: []}
    for _ in range(turns):
        for num_parallel, took in seconds.items():
            started = time.perf_counter()
            found = sum(1 for _ in storage.list_files(uri, num_parallel=num_parallel))
            took.append(time.perf_counter() - started)
            assert found == num_files, f"{found} files listed: {num_files} are there"
    for num_parallel, took in seconds.items():
        print(
            f"{name}, {num_files:,} files, {num_parallel} at once:"
            f" {min(took):.1f}-{max(took):.1f} s"
        )


if __name__ == "__main__":
    main()
