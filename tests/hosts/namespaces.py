"""Hosts of their own on this machine: network namespaces, by Debian's iproute2 and util-linux."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BRIDGE_NET = "10.77.0"


def skip_where_not_permitted() -> None:
    """Skip the test, with the reason, on a machine that cannot make them."""
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip, of Debian's package iproute2")
    made = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")


@dataclass(frozen=True)
class Host:
    """A name, an address, and folders that are empty and its own."""

    name: str
    address: str
    setting_up: tuple[str, ...] = ()  # commands of a shell

    def command(self, argv: Sequence[object]) -> list[str]:
        """What runs ``argv`` there."""
        script = " && ".join([f"hostname {self.name}", *self.setting_up, 'exec "$@"'])
        there = ["ip", "netns", "exec", self.name, "unshare", "--mount", "--uts"]
        return [*there, "sh", "-c", script, "sh", *map(str, argv)]

    def run(
        self, argv: Sequence[object], environment: Mapping[str, str], timeout_s: float, cwd: Path
    ) -> subprocess.CompletedProcess[str]:
        """To its end, with all that it says."""
        return subprocess.run(
            self.command(argv),
            env=dict(environment),
            cwd=cwd,
            timeout=timeout_s,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(
        self, argv: Sequence[object], environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """In the background, until ``end_all``."""
        with log.open("ab") as file:
            return subprocess.Popen(
                self.command(argv), env=dict(environment), stdout=file, stderr=file
            )

    def end_all(self) -> None:
        """SIGKILL to whatever runs there."""
        deadline = time.monotonic() + 30
        while pids := _ip("netns", "pids", self.name).split():
            assert time.monotonic() < deadline
            for pid in pids:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:  # it has just ended
                    continue
            time.sleep(0.1)


@contextmanager
def lone_host(folder: Path) -> Iterator[Host]:
    """One that reaches itself, by 127.0.0.1, and nobody else; ``folder`` as for two."""
    name = f"fattr-{os.getpid()}"
    with _namespaces([name]):
        yield Host(name, "127.0.0.1", (_knowing(folder, {name: "127.0.0.1"}),))


@contextmanager
def two_hosts(folder: Path, hidden: Sequence[Path]) -> Iterator[tuple[Host, Host]]:
    """They reach each other by a cable; the second has its own, empty ``hidden`` folders.

    Args:
        folder: For what they are set up with.
        hidden: Existing folders.
    """
    names = [f"fattr{os.getpid()}{letter}" for letter in "ab"]
    addresses = [f"{BRIDGE_NET}.{number}" for number in (1, 2)]
    know = _knowing(folder, dict(zip(names, addresses, strict=True)))
    own = [f"mount -t tmpfs none {shlex.quote(str(path))}" for path in hidden]
    with _namespaces(names):
        _ip("link", "add", "eth0", "netns", names[0], "type", "veth", "peer", "name", "eth0",
            "netns", names[1])  # fmt: skip
        for name, address in zip(names, addresses, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
        first, second = names
        yield Host(first, addresses[0], (know,)), Host(second, addresses[1], (know, *own))


def _knowing(folder: Path, addresses: Mapping[str, str]) -> str:
    """What has a host know others, and itself, by name."""
    book = folder / "hosts"
    lines = [f"{address} {name}" for name, address in addresses.items()]
    book.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    return f"mount --bind {shlex.quote(str(book))} /etc/hosts"


@contextmanager
def _namespaces(names: Sequence[str]) -> Iterator[None]:
    made = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in made:
            Host(name, "").end_all()
            _ip("netns", "delete", name)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
