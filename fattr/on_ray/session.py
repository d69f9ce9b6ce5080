"""One Ray session a job: the cluster that is there, or a local one of sane size."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray._private import node, ray_constants, services
from ray.exceptions import RayError

from fattr.build import cpu_count
from fattr.errors import UsageError

# Ray Train asks the dashboard whether its controller is alive. A cluster without one has nobody to
# ask, but asks at the default port, where the dashboard of another cluster on the machine answers
# that it knows no such actor: the run was ended. Nothing answers at the discard port.
NO_DASHBOARD = "http://127.0.0.1:9"

STARTING_AT_ONCE = (
    16  # of workers; with as many as cores, Ray warns on a small machine of its own tasks
)

TRAIN_POLL_S = 0.5  # Ray Train looks after its workers, and takes a report from each; else 2 s
TRAIN_START_S = 20  # it waits for room, then looks at the cluster again; else 60 s

# Each process of Ray wakes a hundred times a second: what a machine's own session does without is
# what its cores would lose to it, a tenth of a training on two of them.
QUIET = {
    "RAY_event_stats": "0",  # counts and times of Ray's own handlers, for its own log
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # of nodes that a provider takes back
}

PRESTART = "RAY_prestart_worker_first_driver"

ANSWER_S = 10  # within which a cluster's head takes a connection; Ray itself tries for minutes

MIN_LOGICAL_CPUS = 4  # actors and Ray Data's own tasks each hold a slot: two slots can deadlock


@contextmanager
def ray_session(
    worker_env: Mapping[str, str] | None = None, *, prestart: int = 0
) -> Iterator[None]:
    """Connect to the cluster named by RAY_ADDRESS (as under ``ray job submit``), or start one here.

    A local cluster opens no dashboard, listens on the loopback interface only, sends no usage
    statistics, and ends with the block. Other clusters on the machine do not matter to it. The
    processes of a session that begins here have ``worker_env`` in their environment. With
    ``prestart``, a local cluster has at least so many logical CPUs and starts a worker for each at
    once, if this process may use all of the machine's: tasks and actors to come take seconds less,
    but where there are none, workers only get in the way.

    Raises:
        UsageError: There is no cluster at RAY_ADDRESS, or none that this installation fits.
    """
    if ray.is_initialized():
        yield
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(TRAIN_POLL_S))
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(TRAIN_START_S))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's own coming default
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # fattr keeps the records
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # it would end a search as a failure
    with _our_sigterm():
        if os.environ.get("RAY_ADDRESS"):
            _connect(os.environ["RAY_ADDRESS"], worker_env)
        else:
            is_whole = cpu_count() == os.cpu_count()
            wanted = os.environ.get(PRESTART) or str(int(prestart > 0 and is_whole))
            with _environment({PRESTART: wanted, **(worker_env or {})}):
                _start_local(max(MIN_LOGICAL_CPUS, prestart, os.cpu_count() or 1))
    try:
        yield
    finally:
        ray.shutdown()


def _start_local(logical_cpus: int) -> None:
    os.environ.setdefault("RAY_API_SERVER_ADDRESS", NO_DASHBOARD)
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(STARTING_AT_ONCE))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with (
        _on_loopback(),
        _without(services, "start_api_server", result=("", None)),
        _without(node.Node, "start_log_monitor"),
        _without(node.Node, "start_monitor"),
    ):
        ray.init(
            address="local",
            num_cpus=logical_cpus,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,  # workers speak through on_ray.mailbox; logs stay in files
        )


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """What SIGTERM does stays as it was, whatever the block changes.

    Ray's own handler prints a stack and aborts the process 3 s later, whatever it is clearing up.
    """
    ours = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():  # no other may set it
        signal.signal(signal.SIGTERM, ours)


def _connect(address: str, worker_env: Mapping[str, str] | None) -> None:
    """Begin a session in a cluster that is there.

    Raises:
        UsageError: See ``ray_session``.
    """
    runtime_env = {"env_vars": dict(worker_env)} if worker_env else None
    try:
        _knock(address)
        ray.init(logging_level=logging.ERROR, log_to_driver=False, runtime_env=runtime_env)
    except (OSError, ValueError, RuntimeError, RayError) as err:
        said = " ".join(str(getattr(err, "strerror", None) or err).split())
        first_sentence = said.partition(". ")[0].removesuffix(".")
        raise UsageError(
            f"RAY_ADDRESS={address}: {first_sentence}; HOST:PORT of a running cluster's head"
            " expected, or auto on one of its nodes; unset it to work on this machine alone"
        ) from err


def _knock(address: str) -> None:
    """Whether anybody takes a connection there.

    Raises:
        OSError: Nobody does, or there is no such host.
        ValueError: This is no address.
    """
    if "://" in address:  # Ray Client's, which gives up by itself
        return
    if place := services.canonicalize_bootstrap_address(address):
        host, _, port = place.rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that start meanwhile have these, and so have theirs.

    Ray's ``runtime_env`` does as much, and takes two seconds of every start.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have a cluster that starts meanwhile listen on 127.0.0.1 alone, as it does on a laptop.

    On Linux its node is otherwise found by the address that leads to the internet, and whoever
    reaches that reads the metrics. Ray takes no argument for it: 127.0.0.1 is replaced.
    """
    with (
        _environment({ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}),  # for all that start now
        replaced(ray_constants, "ENABLE_RAY_CLUSTER", False),
    ):
        yield


@contextmanager
def replaced(owner: object, name: str, instead: object) -> Iterator[None]:
    """Have an attribute of Ray's be something else for the block, where Ray takes no argument.

    Raises:
        KeyError: This Ray's ``owner``, a module or class, has none of that name of its own.
    """
    own = vars(owner)[name]  # a static method as it is kept, not as it is called
    setattr(owner, name, instead)
    try:
        yield
    finally:
        setattr(owner, name, own)


@contextmanager
def _without(owner: object, starter: str, *, result: object = None) -> Iterator[None]:
    """Have a cluster that starts meanwhile do without a process for which Ray takes no argument.

    The dashboard's, which even without dashboard and usage statistics asks three clouds' metadata
    services where it is; the log monitor, which sends to a driver what ours does not print; the
    autoscaler, which adds nodes.
    """
    with replaced(owner, starter, lambda *_, **__: result):
        yield


def is_local() -> bool:
    """Whether this session's cluster is one machine that nobody else adds nodes to."""
    return not os.environ.get("RAY_ADDRESS") and len(ray.nodes()) == 1
