"""What a night without news costs: the second run over images that have not changed.

    python -m benchmarks.second_night --images 100000

The images are files of a few bytes, in folders of a thousand, in a local folder and in a bucket of
a real S3 server over the same files. The first run looks at all of them; of the second, the whole
time is told, beside that of a bare paginated listing with boto3.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3  # noqa: TID251 -- the yardstick
import tyro

from benchmarks.faults import annotating
from benchmarks.faults.annotating import unless
from benchmarks.faults.rclone import s3_environment, s3_of_folder
from benchmarks.faults.verdict import Verdict, conclude, room

PER_FOLDER = 1000
BUCKET = "night"


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    images: int = 100_000
    """How many files."""
    report: str = ""
    """File for the verdict as JSON."""
    folder: str = ""
    """Where to work; empty: a temporary folder."""


def measure(settings: Settings, folder: Path) -> Verdict:
    """Both kinds of storage, one after the other."""
    verdict = Verdict("second_night")
    photos = folder / "s3" / BUCKET / "photos"
    _write(photos, settings.images)
    _two_runs(verdict, "folder", str(photos), folder / "tables", os.environ)
    with s3_of_folder(folder / "s3") as url:
        environment = s3_environment(url)
        source = f"s3://{BUCKET}/photos"
        _two_runs(verdict, "bucket", source, folder / "tables-of-bucket", environment)
        verdict.figures["seconds_of_boto3_listing"] = round(_bare_listing(url, environment), 1)
    verdict.figures["images"] = settings.images
    return verdict


def _write(photos: Path, count: int) -> None:
    for number in range(count):
        path = photos / f"{number // PER_FOLDER:04d}" / f"{number:07d}.jpg"
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"no picture")


def _two_runs(
    verdict: Verdict, name: str, images: str, output: Path, environment: Mapping[str, str]
) -> None:
    """The same command twice; figures of the second."""
    argv = annotating.command(images, str(output), engine="local")
    for number in ("first", "second"):
        ended = annotating.start(argv, output.with_suffix(f".{number}.log"), environment).wait()
        verdict.check(f"the {number} run of the {name} ends with 0", *unless(0, ended))
    newest = json.loads(max(output.glob("_runs/*/run.json")).read_text())
    left = newest["increment"]["num_images"]
    verdict.check(f"nothing is left to do of the {name}", f"{left} images" if left else "")
    verdict.figures |= {
        f"{name}_seconds_with_start": round(ended.seconds, 1),
        f"{name}_seconds_of_run": newest["seconds"],
    }


def _bare_listing(url: str, environment: Mapping[str, str]) -> float:
    """Seconds of a listing page after page."""
    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
    )
    started = time.monotonic()
    for _ in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="photos/"):
        pass
    return time.monotonic() - started


def main(settings: Settings) -> int:
    """Measure and conclude."""
    with room(settings.folder) as folder:
        return conclude(measure(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
