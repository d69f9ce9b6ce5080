"""The timeline of a run: bounded, growing over continued runs."""

import json
import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from fattr.runs.timeline import MAX_EVENTS, Timeline

START = datetime(2026, 11, 23, 21, 17, 0, 123456, UTC)


def test_events_are_told_in_order_with_their_details():
    timeline = Timeline()
    timeline.event("listed", START, num_images=7)
    timeline.event("finished", START + timedelta(hours=3))
    assert timeline.to_json()["events"] == [
        {"at": "2026-11-23T21:17:00+00:00", "event": "listed", "num_images": 7},
        {"at": "2026-11-24T00:17:00+00:00", "event": "finished"},
    ]


def test_nothing_happened_yet():
    told = Timeline.from_json(None).to_json()
    assert told == Timeline().to_json()
    assert told["events"] == told["throughput"] == []


def test_few_samples_are_all_kept():
    timeline = Timeline()
    for second in range(10):
        timeline.sample(second + 0.04, 5 * second)
    assert timeline.to_json()["throughput"] == [[float(s), 5 * s] for s in range(10)]


@pytest.mark.parametrize("num_samples", [16, 17, 100, 10_000])
@pytest.mark.parametrize("seed", range(5))
def test_samples_are_bounded_spread_evenly_and_true(num_samples, seed):
    rng = random.Random(seed)
    seconds = np.cumsum([rng.expovariate(1.0) for _ in range(num_samples)])
    timeline, fed = Timeline(max_samples=16), {}
    for done, second in enumerate(seconds):
        timeline.sample(second, done)
        fed[round(second, 1)] = done
        kept = timeline.to_json()["throughput"]
        assert len(kept) <= 16
        assert kept[-1] == [round(second, 1), done]  # the newest is there at all times
    assert kept[0][0] == round(seconds[0], 1)
    assert all(fed[second] >= done for second, done in kept)
    assert [done for _, done in kept] == sorted(done for _, done in kept)
    if num_samples >= 100:
        assert len(kept) >= 5
        gaps = np.diff([second for second, _ in kept[:-1]])
        assert gaps.max() <= 6 * seconds[-1] / 16  # no part of the run is left out


def test_a_continued_run_goes_on_with_its_timeline():
    whole, first = Timeline(max_samples=8), Timeline(max_samples=8)
    for second in range(50):
        whole.sample(second, second)
        first.sample(second, second)
    second_half = Timeline.from_json(json.loads(json.dumps(first.to_json())), max_samples=8)
    for timeline in (whole, second_half):
        for second in range(50, 120):
            timeline.sample(second, second)
        timeline.event("finished", START)
    assert second_half.to_json() == whole.to_json()


def test_a_run_continued_time_and_again_keeps_its_first_and_newest_events():
    timeline = Timeline()
    for number in range(1000):
        timeline.event("continued", START, number=number)
    numbers = [event["number"] for event in timeline.to_json()["events"]]
    half = MAX_EVENTS // 2
    assert numbers == [*range(half), *range(1000 - half, 1000)]
