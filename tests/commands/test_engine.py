"""Which engine a job gets that names none."""

from __future__ import annotations

import pytest

from fattr.commands.engine import RAY_FROM, choose_engine


@pytest.mark.parametrize(
    ("num_images", "has_begun", "address", "engine"),
    [
        pytest.param(RAY_FROM - 1, False, "", "local", id="a-small-job"),
        pytest.param(RAY_FROM, False, "", "ray", id="a-large-one"),
        pytest.param(1, True, "", "ray", id="one-that-died"),
        pytest.param(1, False, "auto", "ray", id="on-a-cluster"),
    ],
)
def test_who_asks_for_no_engine_gets_the_one_that_fits(
    num_images, has_begun, address, engine, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert choose_engine("auto", num_images, has_begun=has_begun) == engine


@pytest.mark.parametrize("asked", ["ray", "local"])
def test_an_engine_asked_for_is_taken(asked, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for num_images in (1, 10 * RAY_FROM):
        assert choose_engine(asked, num_images, has_begun=True) == asked
