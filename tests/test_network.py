"""A run talks to nobody but its storage: as the kernel sees it, and as Python does.

The kernel's view is that of every process of the run, native code included; it needs ``strace``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fattr.cli import run_job

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 300
CALLS = "trace=connect,sendto,sendmsg,sendmmsg"
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
SOCKETS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


def is_loopback(address: str) -> bool:
    """Whether an address means this machine by its name of 127.0.0.1 or ::1."""
    ip = ipaddress.ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


def outside(traced: str) -> list[str]:
    """Lines of a trace that name an address beyond loopback."""
    return [
        line
        for line in traced.splitlines()
        if any(not is_loopback(v4 or v6) for v4, v6 in ADDRESS.findall(line))
    ]


def traced(argv: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Every call of a command, and of all processes it starts, that names an address.

    Skips where processes may not be traced.
    """
    strace, log = shutil.which("strace"), folder / "trace.txt"
    assert strace, "strace is missing: apt-get install strace"
    follow = [strace, "-f", "-qq", "-e", CALLS, "-e", "signal=none", "-o", str(log)]
    if subprocess.run([*follow, "true"], capture_output=True, check=False).returncode:
        pytest.skip("processes may not be traced here (ptrace is forbidden)")
    done = subprocess.run(
        [*follow, *argv],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return log.read_text(errors="replace")


def annotate_argv(images: object, output: object, models, engine: str) -> list[str]:
    argv = ["--images", images, "--output", output, "--model", models.looks, "--engine", engine]
    return list(map(str, argv))


@pytest.fixture
def three_photos(s3_bucket, moto_client, photo_folder) -> str:
    for name in ("1-face.jpg", "coffee.png", "empty.jpg"):
        data = (photo_folder / name).read_bytes()
        moto_client.put_object(Bucket=s3_bucket.removeprefix("s3://"), Key=f"p/{name}", Body=data)
    return s3_bucket


@pytest.mark.full
@pytest.mark.parametrize(
    ("engine", "place"),
    [
        ("local", "folder"),
        ("local", "bucket"),
        pytest.param("ray", "bucket", marks=pytest.mark.ray),
        pytest.param("ray", "folder", marks=[pytest.mark.ray, pytest.mark.drills]),
    ],
)
def test_the_kernel_sees_no_address_but_the_storages(
    engine, place, three_photos, photo_folder, models, tmp_path, monkeypatch
):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)  # a run sees to it by itself
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    images, output = photo_folder, tmp_path / "out"
    if place == "bucket":
        images, output = f"{three_photos}/p", f"{three_photos}/out"
    argv = annotate_argv(images, output, models, engine)
    trace = traced([sys.executable, "jobs/annotate.py", *argv], tmp_path)
    assert outside(trace) == []
    assert ("inet_addr" in trace) == (engine == "ray" or place == "bucket")


@pytest.mark.full
def test_a_connection_to_elsewhere_is_seen(tmp_path):
    """Of a grandchild, by UDP, which sends nothing; and a name that is looked up."""
    talk = "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {talk!r}])"
    (line,) = outside(traced([sys.executable, "-W", "ignore", "-c", start], tmp_path))
    assert "192.0.2.1" in line


@pytest.mark.parametrize(
    ("line", "is_outside"),
    [
        ('connect(3, {AF_INET, sin_addr=inet_addr("127.0.0.1")}, 16)', False),
        ('connect(3, {AF_INET, sin_addr=inet_addr("127.8.9.1")}, 16)', False),
        ('connect(3, {AF_INET, sin_addr=inet_addr("8.8.8.8")}, 16)', True),
        ('connect(3, {AF_INET, sin_addr=inet_addr("10.0.0.1")}, 16)', True),
        ('connect(3, {AF_INET6, inet_pton(AF_INET6, "::1", &a)}, 28)', False),
        ('connect(3, {AF_INET6, inet_pton(AF_INET6, "::ffff:127.0.0.1", &a)}, 28)', False),
        ('connect(3, {AF_INET6, inet_pton(AF_INET6, "::ffff:192.0.2.2", &a)}, 28)', True),
        ('connect(3, {AF_INET6, inet_pton(AF_INET6, "2001:db8::1", &a)}, 28)', True),
        ('connect(3, {sa_family=AF_UNIX, sun_path="/run/x"}, 110)', False),
        ('sendto(3, "\\1\\2", 2, MSG_NOSIGNAL, NULL, 0)', False),
    ],
)
def test_addresses_are_read_from_a_trace(line, is_outside):
    assert bool(outside(line)) is is_outside


# Python's own view: quick, but blind to native code


class Ear:
    """What this process asks of the network, while it listens; an audit hook cannot be removed."""

    def __init__(self) -> None:
        self.is_open, self.heard = False, set[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.is_open:
            return
        if event in LOOKUPS:
            self.heard.add(str(arguments[0]))
        elif event in SOCKETS and isinstance(arguments[1], tuple):  # else a path: a Unix socket
            self.heard.add(str(arguments[1][0]))


@pytest.fixture(scope="module")
def ear() -> Ear:
    return Ear()


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_python_asks_for_no_host_but_the_storage(
    place, ear, three_photos, photo_folder, models, tmp_path
):
    images, output = photo_folder, tmp_path / "out"
    if place == "bucket":
        images, output = f"{three_photos}/p", f"{three_photos}/out"
    ear.heard.clear()
    ear.is_open = True
    try:
        code = run_job("annotate", annotate_argv(images, output, models, "local"))
    finally:
        ear.is_open = False
    assert code == 0
    storage_host = urlsplit(os.environ["AWS_ENDPOINT_URL"]).hostname
    assert ear.heard == ({storage_host} if place == "bucket" else set())


def test_the_ear_hears(ear):
    ear.heard.clear()
    ear.is_open = True
    with socket.socket(type=socket.SOCK_DGRAM) as talking:
        talking.connect(("192.0.2.1", 9))
        socket.getaddrinfo("192.0.2.2", 9)
    ear.is_open = False
    assert ear.heard == {"192.0.2.1", "192.0.2.2"}


def test_onnxruntime_is_told_to_send_nothing():
    """Its packages report to their maker unless the variable is there before the import."""
    program = "import os, fattr; print(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, check=True
    )
    assert said.stdout.strip() == b"1"
