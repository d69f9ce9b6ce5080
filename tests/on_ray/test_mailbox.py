"""Words from workers to the driver, and back: that it wants no more."""

from __future__ import annotations

import time

import pytest

from fattr.errors import RunError
from fattr.on_ray.mailbox import mailbox

pytestmark = pytest.mark.ray


def until_asked_to_stop(sender) -> str:
    stop = time.monotonic() + 60
    while not (words := sender.asked_to_stop()) and time.monotonic() < stop:
        time.sleep(0.1)
    return words


def test_items_arrive_in_order_and_nobody_is_stopped(ray_cluster):
    got = []
    with mailbox(got.append) as sender:
        for item in ("a", 2, {"c": 3}):
            sender.post(item)
        assert sender.asked_to_stop() == ""
    assert got == ["a", 2, {"c": 3}]


def test_what_cannot_be_heard_stops_who_asks_and_is_what_the_block_raises(ray_cluster):
    def full(item):
        raise OSError(28, "No space left on device")

    def work():
        with mailbox(full) as sender:
            sender.post("an item")
            raise RunError(until_asked_to_stop(sender))

    with pytest.raises(OSError, match="No space left"):
        work()


def test_a_check_that_fails_stops_who_asks(ray_cluster):
    def check():
        raise RunError("the lease was lost")

    with pytest.raises(RunError, match="the lease was lost"), mailbox(print, check) as sender:
        assert until_asked_to_stop(sender) == "the lease was lost"
