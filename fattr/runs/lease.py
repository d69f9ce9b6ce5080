"""One command at a time writes an OUTPUT: the lease in ``_runs/lease.json``.

Its owner renews it every 20 s, each time for 60 s. Each write is conditional on the version last
seen, so of several that want it exactly one gets it, and an owner that lost it gets to know. An
expiry is told by the owner's clock and judged by another machine's: the 60 s that are waited beyond
it are how far the two may disagree.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from fattr import storage
from fattr.errors import FattrError, RunError, UsageError
from fattr.runs.audit import who

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """Seconds between renewals, that each lasts, and that others wait once it is expired."""

    renew_s: float = 20.0
    lifetime_s: float = 60.0
    grace_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Process:
    """One process of one boot of one machine; a number that is used again starts at another tick.

    Linux alone tells all of it; ``boot`` is empty elsewhere, where no process is ever known dead.
    """

    host: str = ""
    boot: str = ""
    namespace: str = ""  # of process ids: a container counts its own
    number: int = 0
    start_ticks: int = 0

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        number, host = os.getpid(), who()["host"]
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return cls(host, boot, _namespace(), number, _state(number)[1])
        except OSError:
            return cls(host=host, number=number)

    def is_known_dead(self) -> bool:
        """Whether it ran on this very machine and does not any more; False where unsure."""
        here = Process.this()
        if not self.boot or (self.host, self.boot, self.namespace) != (
            here.host,
            here.boot,
            here.namespace,
        ):
            return False
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # another user's, so it is there
        try:
            state, start_ticks = _state(self.number)
        except OSError:  # hidden from us, or gone this moment
            return False
        return state in "ZX" or start_ticks != self.start_ticks  # a zombie only waits to be counted


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


def _state(number: int) -> tuple[str, int]:
    """State letter and start time of a process; see proc_pid_stat(5)."""
    after_name = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return after_name[0], int(after_name[19])


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """What the lease says of who holds it."""

    run_id: str
    owner: str
    expires: datetime
    released: bool
    token: str  # tells two leases of one process apart
    process: Process = field(default_factory=Process)

    def to_bytes(self) -> bytes:
        """As JSON."""
        content = asdict(self) | {"expires": self.expires.isoformat(timespec="milliseconds")}
        return json.dumps(content, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Holder:
        """What ``to_bytes`` told.

        Raises:
            ValueError: It is something else.
        """
        try:
            content = json.loads(data)
            content["expires"] = datetime.fromisoformat(content["expires"]).astimezone(UTC)
            content["process"] = Process(**content["process"])
            return cls(**content)
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from None


class Lease:
    """The right to write an OUTPUT, renewed in the background."""

    def __init__(
        self,
        uri: str,
        holder: Holder,
        version: str,
        *,
        times: LeaseTimes,
        clock: Callable[[], float],
    ) -> None:
        self._uri, self._holder, self._version = uri, holder, version
        self._times, self._clock = times, clock
        self._lock = threading.Lock()
        self._lost = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that it is still held; costs nothing while it is renewed in time.

        Raises:
            RunError: It was lost.
        """
        if not self._lost and self._clock() >= self._holder.expires.timestamp():
            # This process may have been asleep. If nobody took the lease, nothing is lost.
            try:
                self._renew()
            except FattrError as error:
                self._lost = f"it could not be renewed: {error}"
        if self._lost:
            raise RunError(
                f"{self._uri} was lost ({self._lost}): what is done is kept;"
                " run the same command again when no other runs"
            )

    def name_run(self, run_id: str) -> None:
        """Say which run it is held for.

        Raises:
            RunError: It was lost.
        """
        with self._lock:
            self._holder = replace(self._holder, run_id=run_id)
        self._try_to_renew()
        self.check()

    def release(self) -> None:
        """Let others have it at once; a lease that was lost is left to who has it."""
        self._stop.set()
        self._thread.join()
        if self._lost:
            return
        try:
            self._renew(released=True)
        except FattrError as error:  # it expires by itself
            log.warning("the lease could not be released: %s", error)

    def _keep(self) -> None:
        wait_s = self._times.renew_s
        while not self._stop.wait(wait_s) and not self._lost:
            wait_s = self._times.renew_s if self._try_to_renew() else self._times.renew_s / 5

    def _try_to_renew(self) -> bool:
        try:
            self._renew()
        except FattrError as error:  # ``check`` says so once the lease is over
            log.warning("the lease could not be renewed, trying again: %s", error)
            return False
        return True

    def _renew(self, *, released: bool = False) -> None:
        with self._lock:
            if self._lost:
                return
            lifetime_s = 0.0 if released else self._times.lifetime_s
            expires = datetime.fromtimestamp(self._clock() + lifetime_s, UTC)
            renewed = replace(self._holder, expires=expires, released=released)
            version = storage.replace(self._uri, renewed.to_bytes(), self._version)
            if version is None:
                version, renewed = self._own_version(renewed)
            if version is not None:
                self._holder, self._version = renewed, version

    def _own_version(self, renewed: Holder) -> tuple[str | None, Holder]:
        """The version of a write of ours whose answer never came; None where the lease is lost."""
        found = _read(self._uri)
        if found is not None and found[0].token == renewed.token:
            return found[1], found[0]
        self._lost = "it is gone" if found is None else f"{_said(found[0])} took it over"
        return None, renewed


@contextmanager
def hold_lease(
    output: str,
    *,
    run_id: str = "",
    times: LeaseTimes | None = None,
    clock: Callable[[], float] = time.time,
) -> Iterator[Lease]:
    """Hold the lease of an OUTPUT for as long as the block lasts.

    It is taken over once it has been expired for ``grace_s``, and at once where its owner released
    it or was a process of this very machine that is dead.

    Args:
        output: The OUTPUT's URI.
        run_id: The run that it is held for, where it is known.
        times: Other than 20, 60 and 60 s.
        clock: Seconds since 1970; each machine has its own.

    Raises:
        UsageError: Somebody else holds it.
        StorageError: It cannot be read or written.
    """
    times = times or LeaseTimes()
    uri = storage.join(output, "_runs", "lease.json")
    me = who()
    holder = Holder(
        run_id=run_id,
        owner=f"{me['user']}@{me['host']}, process {os.getpid()}",
        expires=datetime.fromtimestamp(clock() + times.lifetime_s, UTC),
        released=False,
        token=secrets.token_hex(8),
        process=Process.this(),
    )
    version = _acquire(uri, holder, times, clock)
    lease = Lease(uri, holder, version, times=times, clock=clock)
    try:
        yield lease
    finally:
        lease.release()


def _acquire(uri: str, mine: Holder, times: LeaseTimes, clock: Callable[[], float]) -> str:
    version = storage.write_new(uri, mine.to_bytes())
    while version is None:
        found = _read(uri)
        if found is None:  # deleted this moment
            version = storage.write_new(uri, mine.to_bytes())
            continue
        holder, seen = found
        if holder.token == mine.token:  # a write whose answer never came was tried again
            return seen
        why = _why_free(holder, times, clock())
        if not why:
            raise _taken(uri, holder, times)
        version = storage.replace(uri, mine.to_bytes(), seen)
        if version is not None and not holder.released:
            log.warning("took over the lease of %s: %s", _said(holder), why)
    return version


def _read(uri: str) -> tuple[Holder, str] | None:
    found = storage.read_version(uri)
    if found is None:
        return None
    try:
        return Holder.from_bytes(found[0]), found[1]
    except ValueError:
        raise UsageError(
            f"{uri} is no lease: expected one that fattr wrote; delete it if nothing runs"
        ) from None


def _why_free(holder: Holder, times: LeaseTimes, now: float) -> str:
    """Why the lease may be taken; empty where it may not."""
    if holder.released:
        return "it was released"
    if holder.process.is_known_dead():
        return "that process is dead"
    is_over = now >= holder.expires.timestamp() + times.grace_s
    return f"it expired at {_time(holder)}" if is_over else ""


def _time(holder: Holder) -> str:
    return f"{holder.expires:%Y-%m-%dT%H:%M:%SZ}"


def _taken(uri: str, holder: Holder, times: LeaseTimes) -> UsageError:
    run = f"run {holder.run_id}" if holder.run_id else "a command"
    return UsageError(
        f"{uri} is held by {holder.owner} for {run}, until {_time(holder)} or longer:"
        f" wait for its end, or choose another --output; if it died, run again"
        f" {times.grace_s:g} s after that time"
    )


def _said(holder: Holder) -> str:
    return f"{holder.owner}, run {holder.run_id or 'not yet named'}"
