"""Which engine a job gets that leaves it to fattr."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fattr.build import AnnotatePlan
from fattr.commands.engine import RAY_FROM, engine_for, fit_to_cluster
from fattr.config import AnnotateConfig
from fattr.errors import UsageError
from fattr.sizing import Resources

AUTO = AnnotateConfig(images="in", output="out", engine="auto")


@pytest.mark.parametrize(
    ("num_images", "flags", "is_risky", "address", "engine"),
    [
        pytest.param(RAY_FROM - 1, {}, False, "", "local", id="a-small-job"),
        pytest.param(RAY_FROM, {}, False, "", "ray", id="a-large-one"),
        pytest.param(1, {}, True, "", "ray", id="what-may-kill-a-process"),
        pytest.param(1, {}, False, "auto", "ray", id="on-a-cluster"),
        pytest.param(1, {"actors": "2:4"}, False, "", "ray", id="with-actors"),
        pytest.param(1, {"image_timeout": 5}, False, "", "ray", id="with-a-time-limit"),
    ],
)
def test_auto_is_the_engine_that_fits(num_images, flags, is_risky, address, engine, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert engine_for(replace(AUTO, **flags), num_images, is_risky=is_risky) == engine


@pytest.mark.parametrize("asked", ["ray", "local"])
def test_an_engine_asked_for_is_taken(asked, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for num_images in (1, 10 * RAY_FROM):
        assert engine_for(replace(AUTO, engine=asked), num_images, is_risky=True) == asked


def test_who_asks_for_nothing_gets_the_engine_that_outlives_its_images():
    assert AnnotateConfig(images="in", output="out").engine == "ray"


def fitted(monkeypatch, gpus, is_local, flags, here):
    """A plan and its sizing, where torch finds the device ``here`` on the driver's machine."""
    has = Resources(
        cpus=32, gpus=gpus, nodes=1 if is_local else 3, is_local=is_local, usable_cpus=32
    )
    monkeypatch.setattr("fattr.on_ray.pool.resources", lambda: has)
    config = replace(AUTO, **flags)
    device = here if config.device == "auto" else config.device  # as plan_annotate finds it
    plan = AnnotatePlan(config, None, (), device)
    return fit_to_cluster(plan, num_images=10**4, total_bytes=10**9)


@pytest.mark.parametrize(
    ("gpus", "is_local", "flags", "here"),
    [
        pytest.param(0, False, {"device": "cuda"}, "cuda", id="no-gpu-in-the-cluster"),
        pytest.param(2, False, {"device": "cuda", "preset": "cpu"}, "cpu", id="none-held"),
        pytest.param(2, False, {"device": "cpu", "preset": "mixed"}, "cpu", id="held-for-nothing"),
        pytest.param(1, True, {"preset": "gpu"}, "cpu", id="torch-knows-none"),
    ],
)
def test_flags_that_contradict_what_is_there_are_refused(gpus, is_local, flags, here, monkeypatch):
    with pytest.raises(UsageError, match=r"^networks on c\w+, but --preset \w+ has them on c\w+"):
        fitted(monkeypatch, gpus, is_local, flags, here)


@pytest.mark.parametrize(
    ("gpus", "is_local", "flags", "here", "expected"),
    [
        pytest.param(0, False, {}, "cpu", ("cpu", "cpu"), id="none"),
        pytest.param(2, False, {}, "cpu", ("gpu", "cuda"), id="none-on-the-head"),
        pytest.param(0, False, {}, "cuda", ("cpu", "cpu"), id="only-outside-the-cluster"),
        pytest.param(2, False, {"device": "cpu"}, "cpu", ("cpu", "cpu"), id="not-wanted"),
        pytest.param(2, False, {"preset": "cpu"}, "cuda", ("cpu", "cpu"), id="none-held"),
        pytest.param(2, False, {"preset": "mixed"}, "cpu", ("mixed", "cuda"), id="mixed"),
        pytest.param(1, True, {}, "cuda", ("gpu", "cuda"), id="on-this-machine"),
        pytest.param(1, True, {}, "cpu", ("cpu", "cpu"), id="here-but-torch-knows-none"),
        pytest.param(0, True, {}, "cuda", ("cpu", "cpu"), id="here-but-ray-knows-none"),
    ],
)
def test_the_networks_run_where_the_actors_are(gpus, is_local, flags, here, expected, monkeypatch):
    plan, sizing = fitted(monkeypatch, gpus, is_local, flags, here)
    assert (sizing.preset, plan.device) == expected
    assert (sizing.gpus_per_actor > 0) == (plan.device == "cuda")
