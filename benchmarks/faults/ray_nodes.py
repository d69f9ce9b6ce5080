"""A Ray cluster of three nodes on this machine, to kill parts of.

The head node runs nothing of the job: it stands for the machine that a real cluster must not lose.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.cluster_utils import Cluster  # noqa: TID251 -- the drill's own cluster

NUM_WORKER_NODES = 2
STORE_BYTES = 200 << 20
ANNOTATES = "AnnotateActor"  # in the title of the process of every actor that does
TRAINS = "RayTrainWorker"


class Nodes:
    """The nodes, by their processes."""

    def __init__(self, cpus_per_node: int, actor_word: str) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray's processes inherit it
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._cpus, self._actor_word = cpus_per_node, actor_word
        self._workers = [self._new_node() for _ in range(NUM_WORKER_NODES)]

    @property
    def address(self) -> str:
        """For ``RAY_ADDRESS``."""
        address: str = self._cluster.address
        return address

    def kill_node(self, number: int) -> None:
        """SIGKILL to the raylet of a worker node; another node takes its place."""
        self.lose_node(number)
        self.add_node()

    def lose_node(self, number: int) -> None:
        """SIGKILL to the raylet of a worker node; nothing takes its place."""
        node = self._workers.pop(number)
        os.kill(_raylet_pid(node), signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)

    def add_node(self) -> None:
        """One more worker node."""
        self._workers.append(self._new_node())

    def actor_pids(self) -> list[int]:
        """Processes of the actors that do the work, on any of the nodes."""
        raylets = {_raylet_pid(node) for node in self._workers}
        return sorted(pid for pid in _children(raylets) if self._actor_word in _title(pid))

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()

    def _new_node(self):  # noqa: ANN202 -- Ray gives the type no public name
        return self._cluster.add_node(num_cpus=self._cpus, object_store_memory=STORE_BYTES)


@contextmanager
def ray_nodes(cpus_per_node: int = 2, actor_word: str = ANNOTATES) -> Iterator[Nodes]:
    """The cluster, for as long as the block lasts."""
    nodes = Nodes(cpus_per_node, actor_word)
    try:
        yield nodes
    finally:
        nodes.close()


def wait_for_actors(nodes: Nodes, timeout_s: float) -> list[int]:
    """Processes that do the work, as soon as there are any; none where the time runs out."""
    stop = time.monotonic() + timeout_s
    while not (pids := nodes.actor_pids()) and time.monotonic() < stop:
        time.sleep(0.1)
    return pids


def _raylet_pid(node) -> int:  # noqa: ANN001 -- see ``_new_node``
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid


def _children(parents: set[int]) -> list[int]:
    """Processes whose parent is one of these."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if int(stat.rpartition(")")[2].split()[1]) in parents:
            found.append(int(folder.name))
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""
