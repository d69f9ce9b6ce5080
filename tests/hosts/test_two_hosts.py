"""Two hosts that share a cable and a bucket, and no disk: nothing takes one for the other."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts.namespaces import Host, skip_where_not_permitted, two_hosts

from benchmarks.faults.annotating import differences
from fattr.datasets import synthetic

pytestmark = [pytest.mark.ray]

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240
RAY_PORT, S3_PORT = 6388, 9000
TOKEN = secrets.token_hex(32)  # as a secret gives it to every pod
START = "import sys; from ray.scripts.scripts import main; main()"


@dataclass(frozen=True)
class Site:
    """The first host, where drivers start, and the second, which cannot see its folders."""

    folder: Path
    first: Host
    second: Host
    session: Path  # Ray's, of each host; a socket's path has room for 107 letters

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
        return kept | {
            "AWS_ENDPOINT_URL": f"http://{self.first.address}:{S3_PORT}",
            "AWS_ACCESS_KEY_ID": "hosts",
            "AWS_SECRET_ACCESS_KEY": "hosts",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "PYTHONWARNINGS": "ignore",
        }

    def run(self, *argv: object, **more: str):
        """A job on the first host."""
        words = [sys.executable, *argv]
        return self.first.run(words, self.environment | more, TIMEOUT_S, ROOT)

    @property
    def address(self) -> str:
        return f"{self.first.address}:{RAY_PORT}"

    @contextmanager
    def store(self) -> Iterator[None]:
        """An S3 server on the first host."""
        argv = [sys.executable, "-m", "moto.server", "-H", self.first.address, "-p", S3_PORT]
        log = self.folder / "s3.log"
        with self.first.start(argv, self.environment, log) as server:
            try:
                deadline = time.monotonic() + TIMEOUT_S
                while self.run("-c", "import boto3; boto3.client('s3').list_buckets()").returncode:
                    assert server.poll() is None, log.read_text()
                    assert time.monotonic() < deadline
                yield
            finally:
                self.first.end_all()

    def move(self, put_or_get: str, folder: Path, bucket: str) -> None:
        """Between a folder that only the first host sees and a bucket."""
        done = self.run(Path(__file__).with_name("bucket.py"), put_or_get, folder, bucket)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def cluster(self, *, first_cpus: int, second_cpus: int) -> Iterator[str]:
        """Ray on both hosts; its address."""
        told = {"--port": RAY_PORT, "--num-cpus": first_cpus, "--temp-dir": self.session}
        told |= {"--include-dashboard": "false", "--node-ip-address": self.first.address}
        head = ["start", "--head", "--block", *(w for flag in told.items() for w in flag)]
        node = ["start", "--address", self.address, "--block", "--num-cpus", second_cpus]
        node += ["--node-ip-address", self.second.address]
        logs = [self.folder / "head.log", self.folder / "node.log"]
        with (
            self.start(self.first, head, logs[0]) as one,
            self.start(self.second, node, logs[1]) as other,
        ):
            try:
                self.wait_for_nodes({one: logs[0], other: logs[1]})
                yield self.address
            finally:
                self.second.end_all()
                self.first.end_all()  # the store as well

    def start(self, host: Host, words: Sequence[object], log: Path) -> subprocess.Popen[bytes]:
        """``ray WORDS``."""
        return host.start([sys.executable, "-c", START, *words], self.environment, log)

    def wait_for_nodes(self, processes: Mapping[subprocess.Popen[bytes], Path]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        asked = f"import ray; ray.init({self.address!r}, log_to_driver=False); "
        while self.run("-c", asked + "print(len(ray.nodes()))").stdout.strip() != "2":
            for process, log in processes.items():
                assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline


@pytest.fixture
def site(tmp_path_factory):
    skip_where_not_permitted()
    base = tmp_path_factory.getbasetemp()
    folder = tmp_path_factory.mktemp("site")
    session = Path(tempfile.gettempdir()) / f"ray-{secrets.token_hex(4)}"
    session.mkdir()
    try:
        with two_hosts(folder, [base, session]) as (first, second):
            yield Site(folder, first, second, session)
    finally:
        shutil.rmtree(session)


@pytest.mark.full
def test_annotate_labels_on_a_host_without_the_drivers_disk(site, photo_folder, models):
    argv = ["jobs/annotate.py", "--images", "s3://photos", "--model", models.looks, "--output"]
    with site.store(), site.cluster(first_cpus=0, second_cpus=4) as address:
        site.move("put", photo_folder, "photos")
        site.move("put", site.folder / "nothing", "tables")
        seen = site.second.run(["ls", site.folder], site.environment, TIMEOUT_S, Path("/"))
        assert "No such file" in seen.stderr
        done = site.run(*argv, "s3://tables/shared", RAY_ADDRESS=address)
        assert done.returncode == 0, done.stderr
        calm = site.run(*argv, "s3://tables/calm", "--engine", "local")
        assert calm.returncode == 0, calm.stderr
        site.move("get", site.folder / "tables", "tables")
    assert differences(site.folder / "tables" / "shared", site.folder / "tables" / "calm") == []


@pytest.mark.drills
def test_two_workers_train_over_the_cable(site):
    synthetic.write(site.folder / "drawn", 60, seed=0, image_px=96)
    argv = ["jobs/train.py", "--preset", "tiny", "--data", "synthetic:s3://drawn", "--epochs", 1]
    argv += ["--workers", 2, "--output", "s3://trained/out"]
    with site.store(), site.cluster(first_cpus=1, second_cpus=1) as address:
        site.move("put", site.folder / "drawn", "drawn")
        site.move("put", site.folder / "nothing", "trained")
        done = site.run(*argv, RAY_ADDRESS=address)
        assert done.returncode == 0, done.stderr
        site.move("get", site.folder / "trained", "trained")
    told = json.loads((site.folder / "trained" / "out" / "run.json").read_text())
    assert told["exit_code"] == 0
