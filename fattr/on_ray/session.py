"""One Ray session a job: the cluster that is there, or a local one of sane size."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

# Ray Train asks the dashboard whether its controller is alive. A cluster without one has nobody to
# ask, but asks at the default port, where the dashboard of another cluster on the machine answers
# that it knows no such actor: the run was ended. Nothing answers at the discard port.
NO_DASHBOARD = "http://127.0.0.1:9"

MIN_LOGICAL_CPUS = 4  # actors and Ray Data's own tasks each hold a slot: two slots can deadlock


@contextmanager
def ray_session() -> Iterator[None]:
    """Connect to the cluster named by RAY_ADDRESS (as under ``ray job submit``), or start one here.

    A local cluster opens no dashboard and sends no usage statistics, and ends with the block. Other
    clusters on the machine do not matter to it.
    """
    if ray.is_initialized():
        yield
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own coming default
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    else:
        os.environ.setdefault("RAY_API_SERVER_ADDRESS", NO_DASHBOARD)
        logical_cpus = max(MIN_LOGICAL_CPUS, os.cpu_count() or 1)
        ray.init(
            address="local",
            num_cpus=logical_cpus,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,  # workers speak through on_ray.mailbox; their logs stay in files
        )
    try:
        yield
    finally:
        ray.shutdown()
