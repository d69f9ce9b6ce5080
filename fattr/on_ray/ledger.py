"""What is under way in which try, kept outside of the processes that may end over it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray

from fattr.errors import RunError
from fattr.on_ray.mailbox import beside_driver

MAX_STARTS = 3


class _Counts:
    """How often each thing was begun since it was last ended."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, key: str) -> int:
        self._begun[key] += 1
        return self._begun[key]

    def end(self, key: str) -> None:
        self._begun.pop(key, None)


class Ledger:
    """Counts tries; may be pickled. If its actor is killed, all counts begin anew."""

    def __init__(self) -> None:
        self._counts = beside_driver(_Counts)

    def begin(self, key: str) -> int:
        """Which try this is of what ``key`` names, 1 at first; known before it begins."""
        return int(ray.get(self._counts.begin.remote(key)))

    def end(self, key: str) -> None:
        """It is done."""
        self._counts.end.remote(key)

    def begin_start(self) -> str:
        """An actor starts; the key to ``end`` once it has.

        Raises:
            RunError: its process ended at this a few times: Ray would try for ever.
        """
        key = f"start of {ray.get_runtime_context().get_actor_id()}"
        if self.begin(key) > MAX_STARTS:
            raise RunError(
                f"an actor's process ended {MAX_STARTS} times while it loaded its models"
            )
        return key

    def close(self) -> None:
        """No more of it is needed."""
        actor: Any = self._counts
        ray.kill(actor)
