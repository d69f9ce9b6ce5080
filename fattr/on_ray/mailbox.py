"""Words from workers to the driver while a Ray job runs: for progress, never for results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

POLL_SECONDS = 0.5
TAKE_TIMEOUT_S = 10.0


def beside_driver(actor_class: type[Any]) -> Any:  # noqa: ANN401
    """A small actor on the driver's node, made again, empty, if its process is killed."""
    here = ray.get_runtime_context().get_node_id()
    actor: Any = ray.remote(actor_class)  # typed as the plain class by Ray
    return actor.options(
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
    ).remote()


class Mailbox:
    """An actor's class: holds items until they are taken, and why no more are wanted."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._why_stop = ""

    def stop(self, words: str) -> None:
        """No more items are wanted."""
        self._why_stop = words

    def why_stop(self) -> str:
        """Empty as long as they are."""
        return self._why_stop

    def post(self, item: Any) -> None:  # noqa: ANN401
        """Hold one more."""
        self._items.append(item)

    def take(self) -> list[Any]:
        """All, once."""
        items, self._items = self._items, []
        return items


class Sender:
    """What a worker holds of a mailbox; can be pickled."""

    def __init__(self, actor: Any) -> None:  # noqa: ANN401
        self.actor = actor

    def post(self, item: Any) -> None:  # noqa: ANN401
        """Send and forget."""
        self.actor.post.remote(item)

    def asked_to_stop(self) -> str:
        """Why the driver wants no more of it, in a line; empty as long as it does."""
        try:
            return str(ray.get(self.actor.why_stop.remote(), timeout=TAKE_TIMEOUT_S))
        except ray.exceptions.GetTimeoutError:
            return ""  # its process is being made again


@contextmanager
def mailbox(
    on_item: Callable[[Any], None],
    check: Callable[[], None] = lambda: None,
    *,
    actor_class: type[Mailbox] = Mailbox,
) -> Iterator[Sender]:
    """A sender whose items reach ``on_item`` on a thread of the driver, all by the block's end.

    What ``on_item``, or ``check`` in that thread, raises is raised at the block's end, instead of
    what the block itself raises; no more items reach it, and who asks a sender is told to stop. The
    items wait in an actor of ``actor_class``.
    """
    actor = beside_driver(actor_class)
    done = threading.Event()
    raised: list[BaseException] = []

    def deliver() -> None:
        try:
            items = ray.get(actor.take.remote(), timeout=TAKE_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            return  # its process is being made again; if its node is lost, so is the run
        for item in items:
            on_item(item)

    def poll() -> None:
        while not done.wait(POLL_SECONDS):
            try:
                if raised:  # again: the actor may have been made again
                    actor.stop.remote(_line(raised[0]))
                else:
                    check()
                    deliver()
            except BaseException as err:  # noqa: BLE001 -- raised in the thread that waits for it
                raised.append(err)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield Sender(actor)
    finally:
        done.set()
        thread.join()
        if raised and not isinstance(raised[0], ray.exceptions.RayError):
            raise raised[0]
    if raised:
        raise raised[0]
    deliver()


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
