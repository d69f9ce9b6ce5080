"""Folders to buckets and back, as a script for a host that can see the store."""

from __future__ import annotations

import sys
from pathlib import Path

import boto3


def put(folder: Path, bucket: str) -> None:
    """Make the bucket and fill it."""
    store = boto3.client("s3")
    store.create_bucket(Bucket=bucket)
    for path in folder.rglob("*"):
        if path.is_file():
            store.upload_file(str(path), bucket, path.relative_to(folder).as_posix())


def get(folder: Path, bucket: str) -> None:
    """All of its objects."""
    store = boto3.client("s3")
    for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            path = folder / entry["Key"]
            if not entry["Key"].endswith("/"):  # else Arrow's mark of a folder
                path.parent.mkdir(parents=True, exist_ok=True)
                store.download_file(bucket, entry["Key"], str(path))


if __name__ == "__main__":
    {"put": put, "get": get}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])
