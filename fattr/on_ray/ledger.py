"""What is under way in which try, kept outside of the processes that may end over it."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from typing import Any

import ray

from fattr.errors import RunError
from fattr.on_ray.mailbox import TAKE_TIMEOUT_S, Mailbox
from fattr.sandbox import RaisedError, Suspicion, refuse_bug

log = logging.getLogger(__name__)

MAX_STARTS = 3


class CountingMailbox(Mailbox):
    """Also counts how often each thing was begun since it was last ended, and what images raised.

    One actor for both: each is a process.
    """

    def __init__(self) -> None:
        super().__init__()
        self._begun: Counter[str] = Counter()
        self._suspicions: defaultdict[str, Suspicion] = defaultdict(Suspicion)
        self._traces: dict[str, str] = {}

    def begin(self, key: str) -> int:
        """See ``Ledger.begin``, as those below."""
        self._begun[key] += 1
        return self._begun[key]

    def end(self, key: str) -> None:
        """It is done."""
        self._begun.pop(key, None)

    def clear(self, stage: str) -> None:
        """An image got through."""
        self._suspicions[stage].clear()

    def raised(self, stage: str, image_id: int, kind: str, trace: str) -> int:
        """How many images have raised this kind."""
        self._traces.setdefault(kind, trace)
        return self._suspicions[stage].raised(kind, image_id)

    def traces(self) -> list[str]:
        """One of each kind."""
        return list(self._traces.values())


class Ledger:
    """Counts tries in a ``CountingMailbox``, where all begin anew if it is killed; may be pickled.

    Where the code ``is_cleared`` from the start, images may raise without end.
    """

    def __init__(self, actor: Any, *, is_cleared: bool = False) -> None:  # noqa: ANN401
        self._counts, self._is_cleared = actor, is_cleared

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

    def clear(self, stage: str) -> None:
        """An image got through a stage."""
        self._counts.clear.remote(stage)

    def raised(self, stage: str, image_id: int, error: RaisedError) -> None:
        """An image raised in a stage.

        Raises:
            BugError: many did, and none got through the stage.
        """
        asked = self._counts.raised.remote(stage, image_id, error.kind, error.trace)
        if not self._is_cleared:
            refuse_bug(error.kind, int(ray.get(asked)))

    def close(self) -> None:
        """No more of it is needed; log the first traceback of each kind of exception."""
        actor: Any = self._counts
        try:
            for trace in ray.get(actor.traces.remote(), timeout=TAKE_TIMEOUT_S):
                log.warning("an image raised what was not foreseen: please report it\n%s", trace)
        except ray.exceptions.RayError:
            log.warning("what images raised, if any did, is in the logs of Ray's workers alone")
