"""How many of what: against what Ray's scheduler could ever place."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import pytest

from fattr.errors import UsageError
from fattr.sizing import (
    FILTER_CPUS,
    MAX_BLOCK_BYTES,
    Resources,
    count_actors,
    describe,
    rows_per_block,
    size_for,
)


def cluster(cpus, gpus=0.0, nodes=1, is_local=True, usable_cpus=None, **more) -> Resources:
    usable = int(cpus) if usable_cpus is None else usable_cpus
    return Resources(
        cpus=cpus, gpus=gpus, nodes=nodes, is_local=is_local, usable_cpus=usable, **more
    )


def sized(resources, preset="auto", num_images=10**6, mean_bytes=2e5, actors=None):
    return size_for(preset, resources, num_images=num_images, mean_bytes=mean_bytes, actors=actors)


CLUSTERS = [
    cluster(cpus, gpus, nodes, is_local)
    for cpus, gpus, (nodes, is_local) in itertools.product(
        (1, 2, 3, 4, 6, 8, 16, 64, 96, 640), (0, 1, 8), ((1, True), (1, False), (5, False))
    )
    if cpus >= gpus * 3
]


@pytest.mark.parametrize("resources", CLUSTERS, ids=str)
def test_a_resumed_run_always_finds_cpus_for_each_of_its_tasks(resources):
    """All initial actors and filters hold theirs, and one task of each kind fits beside them."""
    presets = ["auto", "cpu"] + ["gpu"] * (resources.gpus > 0)
    presets += ["mixed"] * (resources.gpus > 0 and resources.cpus > 3 * resources.gpus)
    for preset in presets:
        sizing = sized(resources, preset)
        held = sizing.initial_actors * sizing.cpus_per_actor + sizing.num_filters * FILTER_CPUS
        held += sizing.num_decoders * 0.8
        needs = sizing.fetch_cpus + 3 * sizing.io_cpus  # reading, re-blocking, writing
        assert held + needs <= resources.cpus + 1e-9, preset
        assert sizing.initial_actors * sizing.gpus_per_actor <= resources.gpus
        assert 1 <= sizing.min_actors <= sizing.initial_actors
        assert sizing.max_actors is None or sizing.initial_actors <= sizing.max_actors


@pytest.mark.parametrize(
    ("resources", "actors"),
    [
        pytest.param(cluster(4, usable_cpus=2), 2, id="more-logical-than-real"),
        pytest.param(cluster(1), 1, id="one"),
        pytest.param(cluster(2), 2, id="two"),
        pytest.param(cluster(8), 8, id="a-laptop"),
        pytest.param(cluster(64), 64, id="a-server"),
        pytest.param(cluster(16, nodes=4, is_local=False, usable_cpus=4), 16, id="a-cluster"),
    ],
)
def test_every_core_has_an_actor(resources, actors):
    assert sized(resources).initial_actors == actors


def test_a_local_pool_is_fixed_and_a_clusters_grows_with_it():
    local = sized(cluster(8))
    assert (local.min_actors, local.max_actors) == (8, 8)
    shared = sized(cluster(64, nodes=8, is_local=False))
    assert (shared.min_actors, shared.max_actors) == (1, None)


def test_a_small_clusters_pool_can_make_room_for_a_filter_when_a_node_is_lost():
    """Sized for three nodes: two of them would hold nothing but actors that may not shrink."""
    small = sized(cluster(6, nodes=3, is_local=False))
    assert (small.min_actors, small.initial_actors, small.max_actors) == (1, 5, 5)


def test_where_little_is_there_only_filters_hold_cpus():
    sizing = sized(cluster(2))
    assert (sizing.cpus_per_actor, sizing.fetch_cpus, sizing.io_cpus) == (0, 0, 0)
    assert sizing.max_fetches  # else nothing would bound them
    assert sized(cluster(3, is_local=False)).max_fetches is None


def test_a_machine_of_its_own_starts_few_processes():
    """Each takes a core more than a second: fourteen fetches at once took half a minute."""
    assert sized(cluster(4)).max_fetches == 2
    assert sized(cluster(64)).max_fetches * 300 >= 40 * sized(cluster(64)).initial_actors
    assert sized(cluster(2), num_images=300).num_reads == 1
    assert sized(cluster(64, is_local=False), num_images=10**8).num_reads == 2000


def test_a_machine_of_its_own_holds_some_blocks_for_each_actor_and_no_more():
    small, large = sized(cluster(4), mean_bytes=2e4), sized(cluster(64), mean_bytes=5e6)
    assert small.store_bytes == 160 << 20
    blocks = large.store_bytes / (large.rows_per_block * 5e6)
    assert blocks == pytest.approx(8 * large.initial_actors)
    assert sized(cluster(64), mean_bytes=0).store_bytes is None
    assert sized(cluster(64, nodes=2, is_local=False)).store_bytes is None
    assert sized(cluster(64, gpus=1)).store_bytes is None


def test_actors_as_asked_for():
    sizing = sized(cluster(64, nodes=8, is_local=False), actors=(4, 32))
    assert (sizing.min_actors, sizing.initial_actors, sizing.max_actors) == (4, 32, 32)
    with pytest.raises(UsageError, match=r"--actors 40: the cluster has room for 8 \(8 CPUs"):
        sized(cluster(8), actors=(40, 80))


def test_gpus_are_taken_where_there_are_some():
    assert sized(cluster(16)).preset == "cpu"
    sizing = sized(cluster(32, gpus=2))
    assert (sizing.preset, sizing.initial_actors, sizing.gpus_per_actor) == ("gpu", 4, 0.5)
    assert sized(cluster(32, gpus=2), "cpu").gpus_per_actor == 0
    for preset in ("gpu", "mixed"):
        with pytest.raises(UsageError, match=f"--preset {preset}: the cluster has no GPU"):
            sized(cluster(16), preset)


def test_threads_that_decode_are_those_of_the_gpus_own_node():
    """A large CPU node elsewhere is no help: the actor would fit nowhere."""
    sizing = sized(cluster(104, gpus=2, nodes=3, is_local=False, cpus_per_gpu=4.0))
    assert sizing.decode_threads == 2
    assert 2 * sizing.cpus_per_actor <= 4  # two actors share a GPU, and its node's CPUs


def test_mixed_without_cpus_to_decode_on_is_refused():
    with pytest.raises(UsageError, match="3 CPUs leave none to decode on; take --preset gpu"):
        sized(cluster(3, gpus=1), "mixed")


def test_mixed_decodes_on_what_cpus_are_left():
    sizing = sized(cluster(64, gpus=2, nodes=5, is_local=False), "mixed")
    assert (sizing.initial_actors, sizing.decode_threads) == (4, 0)
    assert 50 <= sizing.num_decoders <= 75


@pytest.mark.parametrize(
    ("num_images", "num_actors", "mean_bytes", "rows"),
    [
        (10**6, 2, 0, 30),
        (10**6, 60, 0, 120),
        (10**6, 600, 0, 256),
        (100, 2, 0, 12),
        (10, 2, 0, 8),
        (0, 2, 0, 8),
        (10**6, 2, 2e5, 30),
        (10**6, 2, 2**22, 16),
        (10**6, 2, 2**30, 1),
    ],
)
def test_a_block_is_small_in_rows_and_in_bytes(num_images, num_actors, mean_bytes, rows):
    assert rows_per_block(num_images, num_actors, mean_bytes) == rows
    assert rows == 1 or rows * mean_bytes <= MAX_BLOCK_BYTES


def test_blocks_of_a_gpu_last_as_long_and_a_driver_is_not_asked_too_often():
    assert rows_per_block(10**6, 2, kind="gpu") == 256
    for num_actors in (1, 10, 100):
        seconds = rows_per_block(10**6, num_actors) / 40
        assert seconds >= 0.75
        assert num_actors / seconds <= 20


def test_a_staged_file_waits_for_well_under_a_minute_of_work():
    for cpus in (2, 64):
        sizing = sized(cluster(cpus))
        assert 10 <= sizing.rows_per_write / (sizing.initial_actors * 40) <= 30
        assert sizing.rows_per_write >= sizing.rows_per_block


@pytest.mark.parametrize(
    ("resources", "use_gpu", "count"),
    [
        (cluster(4, usable_cpus=2), False, 2),
        (cluster(12, nodes=3, is_local=False, usable_cpus=2), False, 12),
        (cluster(12, gpus=3), True, 3),
        (cluster(0.5), False, 1),
    ],
)
def test_actors_for_scoring(resources, use_gpu, count):
    assert count_actors(resources, use_gpu=use_gpu) == count


def test_the_description_names_every_number_that_matters():
    sizing = sized(cluster(64, gpus=2, nodes=5, is_local=False), "mixed")
    text = "\n".join(describe(sizing, batch_size=13))
    for name in ("preset", "initial_actors", "num_decoders", "rows_per_block", "num_in_flight"):
        assert str(asdict(sizing)[name]) in text, name
    assert "batches of 13" in text
    assert "as the cluster grows" in text
