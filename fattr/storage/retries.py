"""Trying again what may go away by itself: exponential backoff with full jitter."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import TypeVar

from fattr.errors import StorageError
from fattr.records import Status

FIRST_WAIT_S = 0.2  # the longest wait before the second attempt; it doubles with each attempt
LONGEST_WAIT_S = 20.0

T = TypeVar("T")


class TransientError(StorageError):
    """A busy or silent store; the same request may well be answered later."""


class Deadline:
    """When one object must have been read."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._ends = seconds, time.monotonic() + seconds

    def check(self, uri: str) -> None:
        """Give up once the time is over.

        Raises:
            StorageError: With status timeout.
        """
        if time.monotonic() >= self._ends:
            raise self.error(uri)

    def leaves(self, seconds: float) -> bool:
        """Whether that much time is left."""
        return time.monotonic() + seconds < self._ends

    def error(self, uri: str, reason: str = "") -> StorageError:
        """Too late; ``reason`` is what took the time."""
        because = f": {reason}" if reason else ""
        return StorageError(Status.TIMEOUT, uri, f"not read within {self._seconds:g} s{because}")


def retry(call: Callable[[], T], uri: str, *, attempts: int, deadline: Deadline | None = None) -> T:
    """What ``call`` returns; it is called again after a ``TransientError``.

    Raises:
        StorageError: The last error, with the number of attempts; or timeout at the deadline.
    """
    for attempt in itertools.count(1):
        try:
            return call()
        except TransientError as error:
            reason = error.reason if attempt == 1 else f"{error.reason}, {attempt} attempts"
            if attempt >= attempts:
                raise StorageError(error.status, uri, reason) from None
            wait_s = _wait_s(attempt)
            if deadline is not None and not deadline.leaves(wait_s):
                raise deadline.error(uri, reason) from None
        time.sleep(wait_s)
    raise AssertionError("unreachable")


def _wait_s(attempt: int) -> float:
    """Between nothing and a bound that doubles: many clients then do not come back together."""
    return random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)))
