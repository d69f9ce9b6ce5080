"""Ray Data in a machine's own session, without what only a cluster or a dashboard needs.

Three actors help it, each a process: a second of a core at the start, and a hundred wakings a
second from then on. One asks for more nodes, one knows on which of them an actor is, one keeps
figures for the dashboard. Ray takes no argument for any of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import ray
from ray.data import ExecutionResources
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.operators import actor_pool_map_operator
from ray.data._internal.stats import _StatsManager

from fattr.on_ray.session import is_local, replaced


class _AsItIs(ClusterAutoscaler):
    """A cluster that stays as large as it is, and that nobody else works on."""

    def __init__(self, *_: object, **__: object) -> None:
        self._all: ExecutionResources = ExecutionResources.from_resource_dict(
            ray.cluster_resources()
        )

    def try_trigger_scaling(self) -> None:
        """There is nothing to scale."""

    def on_executor_shutdown(self) -> None:
        """Nothing was asked for."""

    def get_total_resources(self) -> ExecutionResources:
        """All there is."""
        return self._all


class _Tracker:
    """In place of the handle to which an actor tells its node: there is but one."""

    @property
    def update_actor_location(self) -> _Tracker:
        return self

    def remote(self, *_: object) -> None:
        """The call."""


def _nothing(*_: object, **__: object) -> None:
    pass


_INSTEAD: tuple[tuple[object, str, Any], ...] = (
    (streaming_executor, "create_cluster_autoscaler", _AsItIs),
    (actor_pool_map_operator, "get_or_create_actor_location_tracker", _Tracker),
    (actor_pool_map_operator, "get_actor_locations", lambda _: {}),
    (_StatsManager, "register_dataset_to_stats_actor", _nothing),
    (_StatsManager, "update_execution_metrics", _nothing),
    (_StatsManager, "update_iteration_metrics", _nothing),
)


@contextmanager
def without_helpers() -> Iterator[None]:
    """For the block, in a session that is this machine's own; in any other nothing changes."""
    with ExitStack() as stack:
        for owner, name, instead in _INSTEAD if is_local() else ():
            stack.enter_context(replaced(owner, name, instead))
        yield
