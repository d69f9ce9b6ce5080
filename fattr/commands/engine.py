"""Which engine does an annotate run, and what a cluster's actors are and hold."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from typing import Literal

from fattr.build import AnnotatePlan
from fattr.config import AnnotateConfig
from fattr.errors import UsageError
from fattr.sizing import Sizing, size_for

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


def fit_to_cluster(
    plan: AnnotatePlan, *, num_images: int, total_bytes: int
) -> tuple[AnnotatePlan, Sizing]:
    """The plan for the devices that the actors of this Ray session hold, and their sizing.

    With ``--device auto``, a session of this machine uses what is found here. In a cluster the
    driver's machine says nothing of the others, and often is the only one without a GPU: there,
    actors that hold GPUs use them, and cannot start where that fails.

    Raises:
        UsageError: The cluster has no room, or not what is asked for.
    """
    from fattr.on_ray.pool import resources

    config, has = plan.config, resources()
    wanted = plan.device if has.is_local else config.device
    sizing = size_for(
        "cpu" if config.preset == "auto" and wanted == "cpu" else config.preset,
        has,
        num_images=num_images,
        mean_bytes=total_bytes / num_images,
        actors=config.actor_range,
    )
    device = "cuda" if sizing.gpus_per_actor else "cpu"
    if wanted not in ("auto", device) and (config.device != "auto" or device == "cuda"):
        raise UsageError(
            f"networks on {wanted}, but --preset {sizing.preset} has them on {device} (Ray knows of"
            f" {has.gpus:g} GPUs): leave --device and --preset to fattr, or have them agree"
        )
    return replace(plan, device=device), sizing
