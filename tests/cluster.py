"""A Ray cluster of several nodes on this machine, as a script that is told to lose one."""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    worker = cluster.add_node(num_cpus=4)
    cluster.wait_for_nodes()
    print("address", cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        cluster.remove_node(worker, allow_graceful=False)
        worker = cluster.add_node(num_cpus=4)
    cluster.shutdown()


if __name__ == "__main__":
    main()
