"""The lease: one holder at a time, on a folder and on S3, whatever becomes of the holder."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fattr import storage
from fattr.errors import FattrError, RunError, StorageError, UsageError
from fattr.runs.lease import Holder, LeaseTimes, Process, hold_lease

NEVER = LeaseTimes(renew_s=3600)  # no renewal disturbs the test
QUICK = LeaseTimes(renew_s=0.02)
NOW = datetime(2026, 11, 23, 21, 17, 0, tzinfo=UTC)
STRANGER = Holder(
    run_id="run-7", owner="eva@far, process 7", expires=NOW, released=False, token="t7"
)  # on a machine of which nothing is known


@pytest.fixture(params=["folder", "s3"])
def output(request, tmp_path):
    if request.param == "folder":
        return storage.canonical_uri(str(tmp_path / "tables"))
    return storage.join(request.getfixturevalue("s3_bucket"), "tables")


class Clock:
    def __init__(self, now=NOW):
        self.now = now.timestamp()

    def __call__(self):
        return self.now


def lease_uri(output):
    return storage.join(output, "_runs", "lease.json")


def read(output):
    return Holder.from_bytes(storage.read_bytes(lease_uri(output)))


def put(output, holder):
    storage.write_bytes(lease_uri(output), holder.to_bytes())


def is_within_seconds(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_a_lease_says_who_holds_it_and_is_released(output):
    clock = Clock()
    with hold_lease(output, clock=clock) as lease:
        lease.name_run("run-1")
        lease.check()
        content = json.loads(storage.read_bytes(lease_uri(output)))
        assert content["run_id"] == "run-1"
        assert content["owner"].endswith(f", process {os.getpid()}")
        assert content["expires"] == "2026-11-23T21:18:00.000+00:00"
        assert content["process"]["number"] == os.getpid()
        assert not content["released"]
    assert read(output).released
    with hold_lease(output, clock=clock):  # at once
        assert not read(output).released


def test_a_held_lease_is_refused_with_owner_run_and_expiry(output):
    with hold_lease(output, run_id="run-1", clock=Clock()) as lease:
        with pytest.raises(UsageError) as refusal, hold_lease(output, clock=Clock()):
            pass
        lease.check()
        said = str(refusal.value)
        assert f"{lease_uri(output)} is held by {read(output).owner} for run run-1" in said
        assert "2026-11-23T21:18:00Z" in said
        assert "\n" not in said


@pytest.mark.parametrize("seconds", [-30, 0, 59])
def test_an_expired_lease_of_a_stranger_is_left_for_a_minute(output, seconds):
    put(output, STRANGER)
    clock = Clock()
    clock.now += seconds
    with pytest.raises(UsageError, match="eva@far, process 7 for run run-7"):
        hold_lease(output, clock=clock).__enter__()
    assert read(output) == STRANGER


def test_then_it_is_taken_over(output, caplog):
    put(output, STRANGER)
    clock = Clock()
    clock.now += 60
    with hold_lease(output, clock=clock) as lease:
        lease.check()
        assert read(output).owner != STRANGER.owner
    assert "took over the lease of eva@far, process 7, run run-7: it expired at" in caplog.text


def test_a_released_lease_of_a_stranger_is_free(output):
    put(output, replace(STRANGER, expires=NOW.replace(year=2030), released=True))
    with hold_lease(output, clock=Clock()) as lease:
        lease.check()


def test_it_is_renewed_in_the_background(output):
    clock = Clock()
    with hold_lease(output, times=QUICK, clock=clock) as lease:
        for _ in range(3):
            clock.now += 50
            wanted = clock.now + 60
            assert is_within_seconds(lambda: read(output).expires.timestamp() == wanted)  # noqa: B023
            lease.check()


def test_the_block_s_own_error_comes_out_and_the_lease_is_released(output):
    with pytest.raises(KeyError, match="mine"), hold_lease(output):
        raise KeyError("mine")
    assert read(output).released


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"owner": 1}', b"\xff"])
def test_something_else_in_its_place_is_refused(output, content):
    storage.write_bytes(lease_uri(output), content)
    with pytest.raises(UsageError, match="is no lease: expected one that fattr wrote; delete it"):
        hold_lease(output).__enter__()
    assert storage.read_bytes(lease_uri(output)) == content


# Many that want it


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        known = known_process(process.pid)
    finally:
        process.communicate()
    return known


def stat_of(number):
    """What follows the name in /proc/PID/stat: from field 3 on, see proc_pid_stat(5)."""
    return Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2].split()


def known_process(number):
    return replace(Process.this(), number=number, start_ticks=int(stat_of(number)[22 - 3]))


STATES = {
    "absent": None,
    "released": replace(STRANGER, released=True),
    "expired": STRANGER,
    "dead": "dead",
}


@pytest.mark.parametrize("state", STATES)
def test_of_many_threads_that_race_for_it_one_wins(output, state):
    clock = Clock()
    clock.now += 61
    for _ in range(5):
        holder = STATES[state]
        if holder == "dead":
            holder = replace(STRANGER, expires=NOW.replace(year=2030), process=dead_process())
        if holder is None:
            storage.delete_tree(storage.join(output, "_runs"))
        else:
            put(output, holder)
        assert race(output, clock, num_threads=8) == 1


def race(output, clock, num_threads):
    """How many threads held it at once; none lets go before all have tried."""
    start, end = threading.Barrier(num_threads), threading.Barrier(num_threads)
    won, unexpected = [], []

    def run(number):
        start.wait()
        try:
            with hold_lease(output, run_id=f"run-{number}", times=NEVER, clock=clock) as lease:
                end.wait()
                lease.check()
                won.append(read(output).run_id == f"run-{number}")
        except UsageError:
            end.wait()
        except (FattrError, threading.BrokenBarrierError) as error:
            unexpected.append(error)
            end.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unexpected == []
    assert all(won)
    return len(won)


HOLD = """
import sys, time
from fattr.errors import RunError, UsageError
from fattr.runs.lease import LeaseTimes, hold_lease
output, run_id, begin = sys.argv[1:]
time.sleep(max(0, float(begin) - time.time()))
try:
    with hold_lease(output, run_id=run_id, times=LeaseTimes(renew_s=0.1)) as lease:
        print("held", flush=True)
        for _ in range(int(input())):
            lease.check()
            time.sleep(0.01)
        print("still held", flush=True)
except UsageError as error:
    print("refused", flush=True)
except RunError as error:
    print("lost", flush=True)
"""


def start_holder(output, run_id="run-p", begin=0.0):
    command = [sys.executable, "-c", HOLD, output, run_id, str(begin)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_of_many_processes_that_race_for_it_one_wins(output):
    begin = time.time() + 2
    holders = [start_holder(output, f"run-{number}", begin) for number in range(5)]
    said = [holder.stdout.readline().strip() for holder in holders]
    assert sorted(said) == ["held", *["refused"] * 4]
    assert read(output).run_id == f"run-{said.index('held')}"
    for holder in holders:
        assert "lost" not in holder.communicate("1")[0]


# What becomes of the holder


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_killed_process_is_taken_over_at_once(output, is_counted):
    holder = start_holder(output)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match="for run run-p"), hold_lease(output):
        pass
    holder.kill()
    if is_counted:
        holder.wait()
    else:  # a zombie, whose parent has not asked yet
        assert is_within_seconds(lambda: stat_of(holder.pid)[0] == "Z")
    with hold_lease(output) as lease:
        lease.check()
    holder.communicate()


def test_a_suspended_process_keeps_it_until_it_is_over_and_then_gets_to_know(output):
    holder = start_holder(output)
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGSTOP)
    assert is_within_seconds(lambda: stat_of(holder.pid)[0] == "T")
    with pytest.raises(UsageError), hold_lease(output):
        pass
    with hold_lease(output, run_id="run-2", clock=lambda: time.time() + 121) as lease:
        holder.send_signal(signal.SIGCONT)
        assert holder.communicate("500") == ("lost\n", "")
        lease.check()
        assert read(output).run_id == "run-2"


@pytest.mark.parametrize(
    ("changes", "is_dead"),
    [
        ({}, False),
        ({"start_ticks": 1}, True),
        ({"number": 4_194_305}, True),  # more than Linux gives
        ({"number": 4_194_305, "boot": "another"}, False),
        ({"number": 4_194_305, "namespace": "pid:[1]"}, False),
        ({"number": 4_194_305, "host": "another"}, False),
        ({"number": 4_194_305, "boot": ""}, False),
    ],
)
def test_only_a_process_of_this_very_machine_is_known_dead(changes, is_dead):
    assert replace(Process.this(), **changes).is_known_dead() == is_dead


def test_another_user_s_process_is_not_dead():
    assert not known_process(1).is_known_dead()


# A lease that is lost


def test_a_lease_that_somebody_took_is_noticed_and_left_alone(output):
    taken = replace(STRANGER, expires=NOW.replace(year=2030))
    with hold_lease(output, run_id="run-1", times=QUICK) as lease:
        lease.check()
        put(output, taken)
        assert is_within_seconds(lambda: is_lost(lease))
        with pytest.raises(RunError, match=r"eva@far, process 7, run run-7 took it over.*again"):
            lease.check()
        with pytest.raises(RunError):
            lease.name_run("run-2")
    assert read(output) == taken


def is_lost(lease):
    try:
        lease.check()
    except RunError:
        return True
    return False


def test_a_deleted_lease_is_lost(output):
    with hold_lease(output, times=QUICK) as lease:
        storage.delete_tree(storage.join(output, "_runs"))
        assert is_within_seconds(lambda: is_lost(lease))
    assert not storage.exists(lease_uri(output))


def test_a_machine_that_slept_goes_on_if_nobody_took_it(output):
    clock = Clock()
    with hold_lease(output, times=NEVER, clock=clock) as lease:
        clock.now += 8 * 3600
        lease.check()
        assert read(output).expires.timestamp() == clock.now + 60


def test_a_machine_that_slept_stops_if_somebody_took_it(output):
    clock = Clock()
    with hold_lease(output, times=NEVER, clock=clock) as lease:
        clock.now += 8 * 3600
        with (
            hold_lease(output, run_id="run-2", clock=clock),
            pytest.raises(RunError, match="run run-2 took it over"),
        ):
            lease.check()
        assert is_lost(lease)  # for good


@pytest.fixture
def failing(monkeypatch):
    """A switch: while it is on, no lease can be replaced."""
    plain, switch = storage.replace, threading.Event()

    def replace_or_fail(uri, data, version):
        if switch.is_set():
            raise StorageError("unavailable", uri, "HTTP 503")
        return plain(uri, data, version)

    monkeypatch.setattr(storage, "replace", replace_or_fail)
    return switch


def test_a_store_that_fails_for_a_while_is_tried_again(output, failing, caplog):
    clock = Clock()
    with hold_lease(output, times=QUICK, clock=clock) as lease:
        failing.set()
        assert is_within_seconds(lambda: "trying again" in caplog.text)
        clock.now += 59
        lease.check()  # still ours
        failing.clear()
        wanted = clock.now + 60
        assert is_within_seconds(lambda: read(output).expires.timestamp() == wanted)


def test_a_store_that_fails_until_the_expiry_loses_the_lease(output, failing):
    clock = Clock()
    with hold_lease(output, times=QUICK, clock=clock) as lease:
        failing.set()
        clock.now += 60
        with pytest.raises(RunError, match=r"could not be renewed: .*HTTP 503"):
            lease.check()
        failing.clear()
        assert is_lost(lease)


def test_a_release_that_fails_is_a_warning(output, failing, caplog):
    caplog.set_level(logging.WARNING, "fattr.runs.lease")
    with hold_lease(output, times=NEVER):
        failing.set()
    assert "could not be released" in caplog.text


def test_a_write_whose_answer_never_came_loses_nothing(output, monkeypatch):
    plain_new, plain_replace = storage.write_new, storage.replace

    def unheard(write):
        def call(*args):
            write(*args)  # done, tried again by the client, and then refused

        return call

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_new", unheard(plain_new))
        with hold_lease(output, times=NEVER) as lease:
            patch.setattr(storage, "replace", unheard(plain_replace))
            lease.name_run("run-1")
            patch.setattr(storage, "replace", plain_replace)
            lease.name_run("run-2")
            assert read(output).run_id == "run-2"
    assert read(output).released
