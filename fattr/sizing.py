"""How many actors and tasks a run gets, from what the cluster has. Pure: knows no Ray.

Logical CPUs are Ray's, which only count who may start; cores are what there is to keep busy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from fattr.errors import UsageError

Preset: TypeAlias = Literal["auto", "cpu", "gpu", "mixed"]

MAX_ROWS_PER_BLOCK, MIN_ROWS_PER_BLOCK = 256, 8
# The first images are done, and the last actor ends, so much later.
SECONDS_PER_BLOCK = {"cpu": 0.75, "gpu": 1.5}
BLOCKS_PER_SECOND = 20  # of up to 128 actors on CPUs: each costs the driver some ten milliseconds
ROWS_PER_READ = 50_000  # of a manifest, by one task
MAX_BLOCK_BYTES = 64 << 20  # of compressed images
BLOCKS_PER_ACTOR = 4  # at the least, so that all end at about the same time

# What waits in the object store, on one machine. An actor's resident memory comes to hold all of
# the store that its blocks have ever been in, and Ray Data by itself fetches a minute ahead.
BLOCKS_AHEAD = 8  # for each actor in all; Ray Data shares them out among its steps
MIN_STORE_BYTES = 160 << 20

# Logical CPUs. An actor keeps a core busy but holds less than one; tasks that wait for storage hold
# little. Fetch differs from the actors, else Ray would fuse the two and waits would block a model.
ACTOR_CPUS, FETCH_CPUS, IO_CPUS = 0.5, 0.2, 0.1
CLUSTER_ACTOR_CPUS = 0.8  # where the pool may grow with the cluster, there is no other limit
FILTER_CPUS = 1.0  # what an actor of Ray Data's CheckpointFilter holds; only a resumed run has any
RESERVED_CPUS = 2 * FETCH_CPUS + IO_CPUS  # some of each task must always find room
MAX_FILTERS, CPUS_PER_FILTER = 10, 8
MIN_CPUS = 3  # with fewer, only filters hold any: nothing can wait for CPUs that actors hold

NUM_IN_FLIGHT = 32  # requests of a fetch task
IMAGES_PER_FETCH = 300  # a second, from S3: that many requests, each 50 to 100 ms
ACTORS_PER_GPU = 2  # one prepares while the other one's networks run
MAX_DECODE_THREADS = 16

# What a kill may cost: the rows that one staged file waits for, in seconds of all actors' work.
SECONDS_PER_WRITE = 20
IMAGES_PER_SECOND = {"cpu": 40, "gpu": 300}  # of an actor, roughly
MAX_ROWS_PER_WRITE = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What there is."""

    cpus: float  # logical, of all nodes
    gpus: float
    nodes: int
    is_local: bool  # Ray was started for this run, on this machine
    usable_cpus: int  # cores that this process may use
    cpus_per_gpu: float = 0.0  # logical, where they are fewest


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """Who does the work. Actors label; with ``num_decoders``, others decode for them."""

    preset: Literal["cpu", "gpu", "mixed"]
    min_actors: int
    initial_actors: int
    max_actors: int | None  # None: as many as the cluster grows to
    cpus_per_actor: float  # logical
    gpus_per_actor: float
    decode_threads: int  # of an actor, ahead of its networks; 0: none
    num_decoders: int  # actors that only decode, at first
    fetch_cpus: float
    io_cpus: float
    num_filters: int
    num_in_flight: int
    num_reads: int
    rows_per_block: int
    rows_per_write: int
    max_fetches: int | None  # at a time; None: as many as there is room for
    store_bytes: int | None  # of all blocks on their way; None: as many as Ray Data sees fit


def size_for(
    preset: Preset,
    resources: Resources,
    *,
    num_images: int,
    mean_bytes: float,
    actors: tuple[int, int] | None = None,
) -> Sizing:
    """The sizing of a run.

    Args:
        preset: ``auto`` takes GPUs where there are some.
        resources: What the cluster has now.
        num_images: How many there are to do.
        mean_bytes: Of an image, 0 where no size is known.
        actors: The least and the most, instead of what there is room for.

    Raises:
        UsageError: What is asked for is not there, or there is no room for the least actors.
    """
    kind = _kind(preset, resources)
    cpus_per_actor = _cpus_per_actor(kind, resources)
    is_tight = resources.cpus < MIN_CPUS
    room = _room(kind, resources, cpus_per_actor, is_tight=is_tight)
    least, most = actors or _default_range(kind, resources, room)
    if actors and least > max(1, room):
        raise UsageError(
            f"--actors {least}: the cluster has room for {max(1, room)}"
            f" ({resources.cpus:g} CPUs, {resources.gpus:g} GPUs); ask for fewer or add nodes"
        )
    initial = min(max(least, room, 1), most or room or 1)
    num_decoders = _num_decoders(resources) if kind == "mixed" else 0
    num_rows = rows_per_block(num_images, initial, mean_bytes, kind=kind)
    is_alone = resources.is_local and kind == "cpu"
    return Sizing(
        preset=kind,
        min_actors=least,
        initial_actors=max(least, initial),
        max_actors=most,
        cpus_per_actor=0.0 if is_tight else cpus_per_actor,
        gpus_per_actor=0.0 if kind == "cpu" else 1 / ACTORS_PER_GPU,
        decode_threads=_decode_threads(resources) if kind == "gpu" else 0,
        num_decoders=num_decoders,
        fetch_cpus=0.0 if is_tight else FETCH_CPUS,
        io_cpus=0.0 if is_tight else IO_CPUS,
        num_filters=_num_filters(resources),
        num_in_flight=NUM_IN_FLIGHT,
        num_reads=max(1, math.ceil(num_images / ROWS_PER_READ)),
        rows_per_block=num_rows,
        rows_per_write=rows_per_write(initial, kind),
        max_fetches=_max_fetches(initial, kind) if is_tight or resources.is_local else None,
        store_bytes=_store_bytes(initial, num_rows * mean_bytes) if is_alone else None,
    )


def rows_per_block(
    num_images: int, num_actors: int, mean_bytes: float = 0, *, kind: str = "cpu"
) -> int:
    """So few that every actor has several blocks, so many that a block is worth its overhead."""
    by = "cpu" if kind == "cpu" else "gpu"
    seconds = max(SECONDS_PER_BLOCK[by], num_actors / BLOCKS_PER_SECOND)
    worth = int(IMAGES_PER_SECOND[by] * seconds)
    rows = min(worth, num_images // (BLOCKS_PER_ACTOR * num_actors))
    rows = min(MAX_ROWS_PER_BLOCK, max(MIN_ROWS_PER_BLOCK, rows))
    return max(1, min(rows, int(MAX_BLOCK_BYTES / mean_bytes))) if mean_bytes else rows


def rows_per_write(num_actors: int, kind: str) -> int:
    """Rows of a staged file: some seconds of the cluster's work."""
    rate = IMAGES_PER_SECOND["cpu" if kind == "cpu" else "gpu"]
    return min(MAX_ROWS_PER_WRITE, SECONDS_PER_WRITE * rate * num_actors)


def _max_fetches(num_actors: int, kind: str) -> int:
    """On one machine: each is a process, which takes a second and more of a core to start."""
    rate = IMAGES_PER_SECOND["cpu" if kind == "cpu" else "gpu"] * num_actors
    return max(2, math.ceil(rate / IMAGES_PER_FETCH))


def _store_bytes(num_actors: int, block_bytes: float) -> int | None:
    """None where the size of a block is unknown."""
    ahead = int(BLOCKS_AHEAD * num_actors * block_bytes)
    return max(MIN_STORE_BYTES, ahead) if block_bytes else None


def count_actors(resources: Resources, *, use_gpu: bool) -> int:
    """One for each GPU, or for each core: of this machine if Ray was started here, else of all."""
    if use_gpu:
        return max(1, int(resources.gpus))
    cpus = int(resources.cpus)
    return max(1, min(resources.usable_cpus, cpus) if resources.nodes == 1 else cpus)


def describe(sizing: Sizing, *, batch_size: int) -> list[str]:
    """Lines for people: who does what, ``batch_size`` images being detected together."""
    most = "as the cluster grows" if sizing.max_actors is None else f"up to {sizing.max_actors}"
    each = f"{sizing.cpus_per_actor:g} logical CPUs"
    if sizing.gpus_per_actor:
        each += f" and {sizing.gpus_per_actor:g} GPU"
    if sizing.decode_threads:
        each += f", {sizing.decode_threads} threads decode ahead"
    lines = [f"preset {sizing.preset}: {sizing.initial_actors} actors, {most}, each {each}"]
    if sizing.num_decoders:
        lines.append(f"{sizing.num_decoders} actors decode on CPUs for those on GPUs")
    lines.append(
        f"blocks of {sizing.rows_per_block} images, batches of {batch_size} in the detector,"
        f" {sizing.num_in_flight} requests in flight a fetch, a staged file every"
        f" {sizing.rows_per_write} images"
    )
    return lines


def _kind(preset: Preset, resources: Resources) -> Literal["cpu", "gpu", "mixed"]:
    if preset == "auto":
        return "gpu" if resources.gpus >= 1 else "cpu"
    if preset != "cpu" and resources.gpus < 1:
        raise UsageError(f"--preset {preset}: the cluster has no GPU; take --preset cpu")
    return preset


def _cpus_per_actor(kind: str, resources: Resources) -> float:
    if kind == "gpu":
        return float(max(1, _decode_threads(resources)) * ACTOR_CPUS)
    return ACTOR_CPUS if resources.is_local or kind == "mixed" else CLUSTER_ACTOR_CPUS


def _room(kind: str, resources: Resources, cpus_per_actor: float, *, is_tight: bool) -> int:
    """How many actors fit, with the filters of a resumed run and tasks beside them."""
    if kind != "cpu":
        return int(resources.gpus) * ACTORS_PER_GPU
    cores = math.ceil(resources.cpus)
    if resources.is_local or resources.nodes == 1:
        cores = min(cores, resources.usable_cpus)
    if is_tight:
        return cores
    free = resources.cpus - _num_filters(resources) * FILTER_CPUS - RESERVED_CPUS
    return max(1, min(cores, int(free / cpus_per_actor + 1e-9)))


def _default_range(kind: str, resources: Resources, room: int) -> tuple[int, int | None]:
    """A local pool stays as it is; one of a cluster may shrink and grow with it.

    Shrink it must be able to: a node that was just lost may still be counted, and actors for it as
    well would leave a filter nowhere to start.
    """
    if resources.is_local:
        return max(1, room), max(1, room)
    return 1, max(1, room) if kind == "cpu" and resources.cpus < CPUS_PER_FILTER else None


def _num_filters(resources: Resources) -> int:
    return max(1, min(MAX_FILTERS, int(resources.cpus / CPUS_PER_FILTER)))


def _decode_threads(resources: Resources) -> int:
    """For each actor on a GPU its share of that node's cores."""
    cpus_per_gpu = resources.cpus_per_gpu or resources.cpus / max(1.0, resources.gpus)
    return max(1, min(MAX_DECODE_THREADS, int(cpus_per_gpu / ACTORS_PER_GPU)))


def _num_decoders(resources: Resources) -> int:
    free = resources.cpus - int(resources.gpus) * ACTORS_PER_GPU * ACTOR_CPUS
    free -= _num_filters(resources) * FILTER_CPUS + RESERVED_CPUS
    if free < CLUSTER_ACTOR_CPUS:
        raise UsageError(
            f"--preset mixed: {resources.cpus:g} CPUs leave none to decode on; take --preset gpu"
        )
    return int(free / CLUSTER_ACTOR_CPUS)
