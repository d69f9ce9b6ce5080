"""A Ray cluster of several nodes on this machine, as a script that is told what happens to them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STORE_BYTES = 150 << 20


class Nodes:
    """The cluster's nodes, by their ids; the head has no CPUs for anybody, as in Kubernetes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._answer()
        self.there: set[str] = set()

    def add(self, *, cpus: int, gpus: int = 0) -> str:
        """One more node; its GPUs are only said to be there."""
        self.there.add(node := self._ask(f"add {cpus} {gpus}"))
        return node

    def kill(self, node: str) -> None:
        """SIGKILL to its raylet, which takes its workers along."""
        self._ask(f"kill {node}")
        self.there.remove(node)

    def drain(self, node: str, within_s: int) -> None:
        """Say that it will be taken away, as a provider does of a spot machine."""
        self._ask(f"drain {node} {within_s}")

    def _ask(self, line: str) -> str:
        print(line, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        for line in self._process.stdout:  # Ray's own words may come between
            if line.startswith("answer "):
                return line.split()[1]
        raise AssertionError("the cluster has ended")


@contextmanager
def nodes() -> Iterator[Nodes]:
    """A head; it and its nodes end with the block."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Nodes(process)
        finally:
            try:
                process.communicate("end\n", timeout=120)
            finally:
                process.kill()


def main() -> None:
    os.environ |= {"RAY_prestart_worker_first_driver": "0"}  # else one for each CPU at once
    from ray.cluster_utils import Cluster

    there = {}
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print("answer", cluster.address, flush=True)
    for line in sys.stdin:
        match line.split():
            case ["add", cpus, gpus]:
                node = cluster.add_node(
                    num_cpus=int(cpus), num_gpus=int(gpus), object_store_memory=STORE_BYTES
                )
                there[node.node_id] = node
                print("answer", node.node_id, flush=True)
            case ["kill", name]:
                cluster.remove_node(there.pop(name), allow_graceful=False)
                print("answer killed", flush=True)
            case ["drain", name, within_s]:
                print("answer", drain(cluster.address, name, int(within_s)), flush=True)
            case _:
                break
    cluster.shutdown()


def drain(address: str, name: str, within_s: int) -> bool:
    """Whether Ray agreed; what ``ray drain-node`` does for an autoscaler."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int(1000 * (time.time() + within_s))
    is_accepted, why_not = GcsClient(address=address).drain_node(name, reason, "spot", deadline_ms)
    assert is_accepted, why_not
    return is_accepted


if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if path != str(Path(__file__).parent)]
    main()
