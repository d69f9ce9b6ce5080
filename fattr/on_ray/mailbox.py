"""Words from workers to the driver while a Ray job runs: for progress, never for results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

POLL_SECONDS = 0.5


class _Mailbox:
    def __init__(self) -> None:
        self._items: list[Any] = []

    def post(self, item: Any) -> None:  # noqa: ANN401
        self._items.append(item)

    def take(self) -> list[Any]:
        items, self._items = self._items, []
        return items


class Sender:
    """What a worker holds of a mailbox; can be pickled."""

    def __init__(self, actor: Any) -> None:  # noqa: ANN401
        self._actor = actor

    def post(self, item: Any) -> None:  # noqa: ANN401
        """Send and forget."""
        self._actor.post.remote(item)


@contextmanager
def mailbox(on_item: Callable[[Any], None]) -> Iterator[Sender]:
    """A sender whose items reach ``on_item`` on a thread of the driver, all by the block's end."""
    actor: Any = ray.remote(_Mailbox)  # typed as the plain class by Ray
    actor = actor.options(num_cpus=0).remote()
    done = threading.Event()

    def deliver() -> None:
        for item in ray.get(actor.take.remote()):
            on_item(item)

    def poll() -> None:
        while not done.wait(POLL_SECONDS):
            deliver()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield Sender(actor)
    finally:
        done.set()
        thread.join()
    deliver()
