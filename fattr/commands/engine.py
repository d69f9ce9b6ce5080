"""Which engine does an annotate run."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Literal

from fattr.config import AnnotateConfig

Engine = Literal["ray", "local"]
RAY_FROM = 1_000  # images; fewer are done in this process before Ray's workers have started
FOR_RAY = ("preset", "actors", "image_timeout")  # flags that mean nothing without


def engine_for(config: AnnotateConfig, num_images: int, *, is_risky: bool) -> Engine:
    """The engine asked for; auto is this process for a small job that was given no cluster.

    What ``is_risky`` is for Ray, which outlives an image that kills or hangs a process: a run that
    has begun before, or images that did so before.
    """
    if config.engine != "auto":
        return config.engine
    defaults = {field.name: field.default for field in fields(config)}
    asks = os.environ.get("RAY_ADDRESS") or any(
        getattr(config, name) != defaults[name] for name in FOR_RAY
    )
    return "local" if num_images < RAY_FROM and not asks and not is_risky else "ray"
