"""Which engine does an annotate run."""

from __future__ import annotations

import os
from typing import Literal

Engine = Literal["ray", "local"]
RAY_FROM = 1_000  # images; fewer are done in this process before Ray's workers have started


def choose_engine(
    asked: Literal["auto", "ray", "local"], num_images: int, *, has_begun: bool
) -> Engine:
    """The engine asked for; auto is this process for a small job that was given no cluster.

    A run that has begun goes on with Ray, which outlives an image that kills a process.
    """
    if asked != "auto":
        return asked
    is_small = num_images < RAY_FROM and not os.environ.get("RAY_ADDRESS")
    return "local" if is_small and not has_begun else "ray"
