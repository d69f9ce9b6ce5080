"""How long is waited before something is tried again."""

from __future__ import annotations

import time

import pytest

from fattr.errors import StorageError
from fattr.records import Status
from fattr.storage import retries


def test_waits_double_up_to_a_bound_and_are_random(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)

    def fail():
        raise retries.TransientError(Status.UNAVAILABLE, "s3://bucket/a", "busy")

    for _ in range(200):
        with pytest.raises(StorageError):
            retries.retry(fail, "s3://bucket/a", attempts=11)
    by_attempt = list(zip(*[iter(waits)] * 10, strict=True))
    for n, bound in enumerate([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 20, 20, 20]):
        column = [row[n] for row in by_attempt]
        assert 0 <= min(column) < bound / 10
        assert 0.9 * bound < max(column) <= bound
