"""Which engine a job gets that leaves it to fattr."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fattr.commands.engine import RAY_FROM, engine_for
from fattr.config import AnnotateConfig

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
