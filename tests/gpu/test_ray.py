"""Ray gives workers and trials their GPUs; selected without one, these fail."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
import training

from fattr.on_ray.session import ray_session
from fattr.on_ray.tune import Search, search_on_ray
from fattr.train import checkpoint
from fattr.train.context import LocalContext
from fattr.train.loop import fit
from fattr.tuning.room import Room
from fattr.tuning.trials import State, Trial, begin_search

pytestmark = pytest.mark.gpu
TIMEOUT_S = 300
EPOCHS = 2


@pytest.fixture(scope="module", autouse=True)
def gpu():
    assert torch.cuda.is_available(), "selected with -m gpu, but there is no CUDA device"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one worker learns on the GPU without Ray."""
    context = LocalContext(tmp_path_factory.mktemp("alone"), device=torch.device("cuda"))
    fit(context, training.plan_of(EPOCHS), *training.data())
    return checkpoint.newest(context.checkpoints())


def test_a_worker_with_a_gpu_learns_what_one_without_ray_does(alone, tmp_path):
    """A group of one, over NCCL."""
    uri = str(tmp_path / "checkpoints")
    asked = json.dumps({"workers": [1, 1], "epochs": EPOCHS, "use_gpu": True})
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", training.__file__, "learn", uri, asked],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.stdout.splitlines()[-1] == "done", ended.stdout + ended.stderr
    assert training.losses(training.last_state(uri)) == pytest.approx(
        training.losses(alone), rel=1e-2
    )


def test_two_trials_share_a_gpu(alone, tmp_path):
    plan = training.plan_of(EPOCHS)
    recipes = [dataclasses.replace(plan.recipe, learning_rate=rate) for rate in (1e-2, 1e-3)]
    plans = {n: dataclasses.replace(plan, recipe=recipe) for n, recipe in enumerate(recipes)}
    output = (tmp_path / "search").as_uri()
    begin_search(output, {})
    search = Search(
        output=output,
        plans=plans,
        room=Room(num_trials=2, cpus=1.0, gpus=0.5, num_threads=1),
        grace_epochs=EPOCHS,
        reduction=2,
    )
    trials = [
        Trial(number=n, settings={"learning_rate": its.recipe.learning_rate})
        for n, its in plans.items()
    ]
    with ray_session():
        first, second = search_on_ray(search, trials, *training.data(), lambda trial: None)
    assert first.state == second.state == State.FINISHED
    assert [row["train_loss"] for row in first.history] == pytest.approx(
        [row["train_loss"] for row in alone.history], rel=1e-2
    )
