"""Steps put down by threads, and the trace that viewers open."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from fattr.spans import Recorder, Span, Trace, seconds_since


def span(step="detect", started_s=0.0, seconds=1.0, host="a", process=1, thread=1) -> Span:
    return Span(step, started_s, seconds, host, process, thread)


def events_of(trace: Trace, kind: str = "X") -> list[dict]:
    return [event for event in json.loads(trace.to_json())["traceEvents"] if event["ph"] == kind]


def test_a_step_is_put_down_when_and_where_it_was():
    told = []
    recorder = Recorder(told.append)
    before, started = time.time(), time.perf_counter()
    time.sleep(0.02)
    seconds = recorder.took("decode", started)
    after = time.time()
    assert told == []  # nobody is told in the middle of the work
    recorder.tell()
    ((step,),) = told
    assert step.step == "decode"
    assert step.seconds == seconds >= 0.02
    assert before - 0.01 <= step.started_s <= step.started_s + step.seconds <= after + 0.01
    where = (socket.gethostname(), os.getpid(), threading.get_native_id())
    assert (step.host, step.process, step.thread) == where


def test_nothing_is_told_twice_nor_of_nothing():
    told = []
    recorder = Recorder(told.append)
    recorder.tell()
    recorder.took("crop", time.perf_counter())
    recorder.tell()
    recorder.tell()
    assert [[step.step for step in steps] for steps in told] == [["crop"]]


def test_of_each_thread_the_first_steps_are_kept_however_often_they_are_told():
    told, both = [], threading.Barrier(2)
    recorder = Recorder(told.extend, max_steps=3)

    def work(name: str) -> int:
        both.wait(10)  # else one thread may do the work of both
        seconds = [recorder.took(f"{name}{n}", time.perf_counter()) for n in range(5)]
        assert min(seconds) >= 0  # those that are not put down have their seconds, too
        return threading.get_native_id()

    with ThreadPoolExecutor(2) as pool:
        threads = dict(zip("ab", pool.map(work, "ab"), strict=True))
        recorder.tell()
        list(pool.map(work, "ab"))
        recorder.tell()
    steps = {name: [s.step for s in told if s.thread == threads[name]] for name in threads}
    assert steps == {name: [f"{name}{n}" for n in range(3)] for name in "ab"}


def test_without_a_recorder_only_the_seconds_are_known():
    assert 0 <= seconds_since("detect", time.perf_counter()) < 10


# The trace


def test_a_trace_holds_the_first_that_come():
    trace = Trace(max_spans=5)
    for first in (0, 3, 6, 9):
        trace.add([span(started_s=float(first + n)) for n in range(3)])
    assert [step.started_s for step in trace.spans] == [0, 1, 2, 3, 4]
    assert len(events_of(trace)) == 5


def test_an_empty_trace_is_one():
    assert json.loads(Trace().to_json())["traceEvents"] == []


def test_an_event_says_what_when_how_long_and_where_in_microseconds():
    trace = Trace()
    trace.add([span("fetch", 1_795_711_646.25, 0.5, "b", 7, 70)])
    trace.add([span("detect", 1_795_711_647.0, 0.125, "a", 8, 80)])
    assert events_of(trace) == [
        {"name": n, "ph": "X", "ts": ts, "dur": dur, "pid": pid, "tid": tid}
        for n, ts, dur, pid, tid in [
            ("fetch", 1_795_711_646_250_000, 500_000, 2, 70),
            ("detect", 1_795_711_647_000_000, 125_000, 1, 80),
        ]
    ]


def test_tracks_are_named_by_host_and_process():
    trace = Trace()
    trace.add([span(host="b", process=7, thread=70), span(host="a", process=8, thread=80)] * 2)
    names = {(e["name"], e["pid"], e.get("tid")): e["args"]["name"] for e in events_of(trace, "M")}
    assert names == {
        ("process_name", 1, None): "host a",
        ("process_name", 2, None): "host b",
        ("thread_name", 1, 80): "process 8",
        ("thread_name", 2, 70): "process 7",
    }


@pytest.mark.parametrize("seconds", [1e-7, 4e-7, 6e-7, 1.4e-6, 0.0123456789])
def test_steps_that_follow_each_other_do_not_overlap(seconds):
    """A viewer takes events of a track that overlap for nested ones."""
    trace, now = Trace(), 1_795_711_646.0
    for _ in range(200):
        trace.add([span(started_s=now, seconds=seconds)])
        now += seconds
    events = events_of(trace)
    assert all(one["ts"] + one["dur"] <= other["ts"] for one, other in pairwise(events))
    total = sum(event["dur"] for event in events)
    assert total == pytest.approx(200e6 * seconds, abs=200)
