"""Training on Ray that loses workers, drivers, nodes and checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import training
from ray.cluster_utils import Cluster

from fattr.build import cpu_count
from fattr.errors import UsageError
from fattr.on_ray.train import check_room
from fattr.train import checkpoint
from fattr.train.context import LocalContext
from fattr.train.loop import fit

pytestmark = pytest.mark.ray

TIMEOUT_S = 300
STORE_BYTES = 100 << 20


class Driver:
    """A training as a process of its own; the lines that it says."""

    def __init__(self, what: str, uri: str, *, environment: dict[str, str], **asked: object):
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", training.__file__, what, uri, json.dumps(asked)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | environment,
        )
        self.said: list[str] = []

    def wait_for(self, line: str) -> None:
        """Until it says a line of which this is the beginning."""
        late = threading.Timer(TIMEOUT_S, self.process.kill)
        late.start()
        try:
            while not (said := self.process.stdout.readline()).startswith(line):
                assert said, f"ended without {line}: {self.said}"
                self.said.append(said.strip())
            self.said.append(said.strip())
        finally:
            late.cancel()

    def end(self) -> list[str]:
        self.said += self.process.communicate(timeout=TIMEOUT_S)[0].splitlines()
        return self.said

    def workers(self, name: str = "RayTrainWorker") -> list[int]:
        """The processes of its own session of Ray that train, or do something else."""
        found = subprocess.run(
            ["pgrep", "-f", "-s", str(self.process.pid), f"ray::.*{name}"],
            capture_output=True,
            text=True,
            check=False,
        )
        return [int(pid) for pid in found.stdout.split()]


@contextmanager
def driver(
    uri: str, *, what: str = "learn", environment: dict[str, str] | None = None, **asked: object
) -> Iterator[Driver]:
    started = Driver(what, uri, environment=environment or {}, **asked)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def trained(uri: str, **asked: object) -> checkpoint.TrainState:
    """The last state of a training that nothing disturbs."""
    with driver(uri, **asked) as undisturbed:
        said = undisturbed.end()
    assert said[-1] == "done", said
    return training.last_state(uri)


def kill_at(uri: str, line: str, **asked: object) -> None:
    """Start a driver and kill -9 it once it has said this."""
    with driver(uri, **asked) as killed:
        killed.wait_for(line)
        killed.process.kill()
        stop = time.monotonic() + TIMEOUT_S
        while killed.workers() and time.monotonic() < stop:  # they go on for a moment
            time.sleep(0.1)
        assert killed.workers() == []


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> checkpoint.TrainState:
    """Of one worker without Ray, on as many threads: their number decides how sums are added."""
    folder, threads = tmp_path_factory.mktemp("local"), torch.get_num_threads()
    torch.set_num_threads(cpu_count())
    fit(LocalContext(folder), training.PLAN, *training.data())
    torch.set_num_threads(threads)
    return checkpoint.newest(LocalContext(folder).checkpoints())


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> checkpoint.TrainState:
    """Of two workers on Ray."""
    return trained(str(tmp_path_factory.mktemp("pair") / "checkpoints"), workers=[2, 2])


@pytest.mark.full
def test_two_workers_learn_what_one_does_without_ray(local, pair):
    assert pair.epoch == training.EPOCHS
    assert training.losses(pair) == pytest.approx(training.losses(local), rel=1e-3)


@pytest.mark.drills  # in small, with drivers and nodes, in tests/faults
def test_a_killed_worker_changes_no_bit(pair, tmp_path):
    uri = str(tmp_path / "checkpoints")
    with driver(uri, workers=[2, 2]) as disturbed:
        disturbed.wait_for("epoch 2")
        os.kill(disturbed.workers()[1], signal.SIGKILL)
        said = disturbed.end()
    assert said.count("workers 2") == 2
    assert any("of the workers failed" in line for line in said)
    assert training.differences(training.last_state(uri), pair) == []


@pytest.mark.full
def test_a_killed_driver_is_gone_on_with_from_the_checkpoint_before_a_damaged_one(pair, tmp_path):
    uri = str(tmp_path / "checkpoints")
    kill_at(uri, "epoch 3", workers=[2, 2])
    newest, before = training.store_of(uri).names()[:2]
    (tmp_path / "checkpoints" / newest / "state.pt").write_bytes(b"damaged")
    (tmp_path / "checkpoints" / "checkpoint_manager_snapshot.json").write_text('{"half')
    with driver(uri, workers=[2, 2]) as rerun:
        said = rerun.end()
    assert said[-1] == "done", said
    reason = "state.pt is not the one whose hash is in state.json"
    assert f"checkpoint {newest} is damaged: {reason}; {before} is used" in said
    assert "epoch 1" not in said
    assert before < newest
    assert training.differences(training.last_state(uri), pair) == []


@pytest.mark.full
def test_a_killed_controller_ends_the_run_with_one_line(tmp_path):
    with driver(str(tmp_path / "checkpoints"), workers=[1, 1], epochs=99) as failing:
        failing.wait_for("epoch 1")
        (controller,) = failing.workers("TrainController")
        os.kill(controller, signal.SIGKILL)
        said = failing.end()
    assert failing.process.returncode == 3
    assert said[-1].startswith("RunError: training failed: The actor")
    assert said[-1].endswith("; what is done is kept: run the same command again")


@pytest.mark.full
def test_a_driver_that_cannot_go_on_ends_the_run(tmp_path):
    """And not only when all epochs are done."""
    asked = {"workers": [1, 1], "epochs": 99, "refused": 1}
    with driver(str(tmp_path / "checkpoints"), **asked) as failing:
        said = failing.end()
    assert failing.process.returncode == 3
    assert said[-2:] == ["epoch 1", "RunError: the lease was lost"]
    assert training.last_state(str(tmp_path / "checkpoints")).epoch < 99


@pytest.mark.drills
def test_a_killed_driver_is_gone_on_with_in_a_bucket(local, s3_bucket):
    uri = f"{s3_bucket}/model/checkpoints"
    kill_at(uri, "epoch 3", workers=[1, 1])
    with driver(uri, workers=[1, 1]) as rerun:
        said = rerun.end()
    assert said[-1] == "done", said
    assert "epoch 1" not in said
    assert training.differences(training.last_state(uri), local) == []
    assert len(training.store_of(uri).names()) <= 3  # the newest two and the best


@pytest.mark.drills
@pytest.mark.parametrize(
    ("asked", "starts", "message"),
    [
        pytest.param(
            {"error": "bug"}, 5, "training failed 5 times without getting on: a bug", id="a-bug"
        ),
        pytest.param({"error": "own"}, 2, "a bug", id="what-fattr-raises"),
        pytest.param(
            {"error": "own", "rank": 1, "num_workers": 2}, 2, "a bug", id="while-others-wait"
        ),
    ],
)
def test_what_fails_every_time_ends(asked, starts, message, tmp_path):
    with driver(str(tmp_path / "checkpoints"), what="raise", **asked) as failing:
        said = failing.end()
    assert failing.process.returncode == 3
    again = f"1 of the workers failed ({message.rpartition(': ')[2]}): all begin again at"
    assert said[-1] == f"RunError: {message}"
    assert sum(line.startswith(again) for line in said) == starts - 1


@pytest.mark.drills
def test_a_checkpoint_that_can_never_be_stored_ends_the_run(tmp_path):
    with driver(str(tmp_path / "checkpoints"), what="report-in-vain") as failing:
        said = failing.end()
    assert failing.process.returncode == 3
    assert said[-1].startswith("RunError: no checkpoint could be written: ")
    assert "No space left on device; what is done is kept" in said[-1]
    assert {line for line in said[:-1] if not line.startswith("{")} == set()


@pytest.mark.drills
def test_checkpoints_that_come_faster_than_they_are_stored_are_left_out(tmp_path):
    """But for one on its way, and the one after the epoch."""
    uri = str(tmp_path / "checkpoints")
    with driver(uri, what="report", count=12, num_workers=2) as reporting:
        said = reporting.end()
    assert said[-1] == "done", said
    assert training.store_of(uri).names() == [
        f"epoch-00000-position-{position:010}" for position in (12, 0)
    ]


@contextmanager
def nodes(count: int) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A head for the driver and nodes of one CPU: the address, what kills one, what adds one."""
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    added = []

    def add() -> None:
        added.append(cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES))

    def lose() -> None:
        node = added.pop()
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)

    try:
        for _ in range(count):
            add()
        cluster.wait_for_nodes()
        yield cluster.address, lose, add
    finally:
        cluster.shutdown()


@pytest.mark.drills
def test_workers_follow_the_nodes(local, tmp_path, monkeypatch):
    """Two, one after a node was killed, two again once another has come."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    uri = str(tmp_path / "checkpoints")
    with (
        nodes(2) as (address, lose, add),
        driver(
            uri, environment={"RAY_ADDRESS": address}, workers=[1, 2], epochs=12, wait_s=0.01
        ) as disturbed,
    ):
        disturbed.wait_for("workers 2")
        disturbed.wait_for("epoch")
        lose()
        disturbed.wait_for("workers 1")
        add()
        disturbed.wait_for("workers 2")
        said = disturbed.end()
    assert said[-1] == "done", said
    epochs = [line for line in said if line.startswith("epoch")]
    assert list(dict.fromkeys(epochs)) == [f"epoch {n}" for n in range(1, 13)]
    state = training.last_state(uri)
    undisturbed = tmp_path / "undisturbed"
    fit(LocalContext(undisturbed), training.plan_of(12), *training.data())
    alone = checkpoint.newest(LocalContext(undisturbed).checkpoints())
    assert training.losses(state) == pytest.approx(training.losses(alone), rel=1e-2)


@pytest.mark.parametrize(
    ("num_workers", "use_gpu", "message"),
    [
        pytest.param(1, True, "--gpus: the cluster has no GPU", id="no-gpu"),
        pytest.param(99, False, "--workers 99: the cluster has 4 CPUs", id="too-many"),
    ],
)
def test_what_the_cluster_cannot_hold_is_refused_at_once(
    ray_cluster, num_workers, use_gpu, message
):
    with pytest.raises(UsageError, match=message):
        check_room(num_workers, use_gpu=use_gpu)
