"""Progress: the figures that are shown, on a terminal and in a log."""

import logging
import os
import pty
import re
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

from fattr.progress import AnnotateBar, Bar, ListingBar, Rate, time_left, track


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log_lines(caplog):
    caplog.set_level(logging.INFO, "fattr.progress")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("num_left", "per_second", "shown"),
    [
        (0, 5.0, ""),
        (10, 0.0, ""),
        (590, 10.0, "59 s left"),
        (600, 10.0, "1 min left"),
        (3600, 1.0, "1 h 00 min left"),
        (3600 * 47 + 59 * 60, 1.0, "47 h 59 min left"),
        (100_000_000, 100.0, "11.6 days left"),
    ],
)
def test_time_left(num_left, per_second, shown):
    assert time_left(num_left, per_second) == shown


def test_the_rate_is_that_of_the_window(clock):
    rate = Rate(window_s=60, clock=clock)
    assert rate.per_second() == 0
    for _ in range(200):  # 10 a second for 200 s, then 3 a second for 60 s
        clock.now += 1
        rate.add(10)
    assert rate.per_second() == pytest.approx(10, rel=0.05)
    for _ in range(61):
        clock.now += 1
        rate.add(3)
    assert rate.per_second() == pytest.approx(3, rel=0.05)
    clock.now += 61
    assert rate.per_second() == 0


def test_the_memory_of_a_rate_does_not_grow_with_its_speed(clock):
    rate = Rate(clock=clock)
    for _ in range(100_000):
        clock.now += 0.001
        rate.add(1)
    assert rate.per_second() == pytest.approx(1000, rel=0.05)
    assert len(rate._recent) <= 62


def test_a_log_line_every_20_seconds(clock, log_lines):
    with Bar("counting", 100, unit="things", clock=clock) as bar:
        for _ in range(45):
            clock.now += 1
            bar.advance(1, "a note")
    assert log_lines() == [
        "counting: 20 of 100 (20.0%), 1.0 things/s, 1 min left, a note",
        "counting: 40 of 100 (40.0%), 1.0 things/s, 1 min left, a note",
    ]


def test_a_resumed_run_counts_what_was_done_but_not_its_speed(clock, log_lines):
    with AnnotateBar(1000, initial=900, clock=clock) as bar:
        clock.now += 20
        bar.add(Counter({"ok": 30, "no_face": 10, "faces": 60}))
        assert bar.done == 940
    assert log_lines() == [
        "annotating: 940 of 1,000 (94.0%), 2.0 images/s, 30 s left, 3.0 faces/s; ok 30 no_face 10"
    ]


def test_seconds_of_stages_are_shown_as_shares(clock, log_lines):
    with AnnotateBar(4, clock=clock) as bar:
        bar.add({"ok": 1, "faces": 1, "fetch_s": 0.5, "detect_s": 0.5})
        clock.now += 20
        bar.add({"ok": 1, "faces": 1, "fetch_s": 0.0, "detect_s": 1.0})
    assert log_lines()[-1].endswith("; ok 2; busy: fetch 25% detect 75%")


def test_empty_counts_are_a_sign_of_life(clock, log_lines):
    with AnnotateBar(10, clock=clock) as bar:
        bar.add({"ok": 5})
        clock.now += 70
        bar.add({})
    assert log_lines() == ["annotating: 5 of 10 (50.0%), 0.0 faces/s; ok 5"]


def test_a_listing_has_no_total(clock, log_lines):
    with ListingBar(clock=clock) as count:
        clock.now += 20
        count.reach(1_000_000)
        clock.now += 20
        count.advance(234_567)
    assert log_lines() == [
        "listing: 1,000,000 images, 50,000/s",
        "listing: 1,234,567 images, 30,864/s",
    ]


def test_nothing_to_do_is_no_error(log_lines):
    with AnnotateBar(0) as bar:
        bar.add({})
    assert list(track(iter([]), what="nothing", total=0)) == []
    assert log_lines() == []


SETUP = """
import logging, sys
logging.basicConfig(format="%(message)s", stream=sys.stderr)
logging.getLogger("fattr").setLevel(logging.INFO)
from fattr import progress
from fattr.progress import *
progress.LOG_EVERY_S = 0
"""


def painted(code, *, is_terminal=True):
    """The lines that a program leaves on a terminal of 100 columns, or in a log."""
    reader, writer = pty.openpty() if is_terminal else os.pipe()
    environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    command = [sys.executable, "-c", SETUP + textwrap.dedent(code)]
    with subprocess.Popen(command, stderr=writer, env=environment) as process:
        os.close(writer)
        text = b"".join(iter(lambda: read_or_nothing(reader), b"")).decode()
        os.close(reader)
    assert process.returncode == 0, text
    frames = text.replace("\r", "\n").split("\n")
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in frames]


def read_or_nothing(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # so Linux says that the other end of a terminal is closed
        return b""


ANNOTATE = """
    with AnnotateBar(1_000_000, initial=250_000) as bar:
        bar.add({"ok": 1000, "no_face": 50, "faces": 2000, "detect_s": 3.0, "fetch_s": 1.0})
        logging.getLogger("fattr").info("something happened")
"""
NOTE = re.compile(r"[\d,.]+ faces/s; ok 1,000 no_face 50; busy: detect 75% fetch 25%")


def test_a_terminal_shows_the_bar_its_note_below_and_other_lines_above():
    lines = painted(ANNOTATE)
    assert any("251,050/1,000,000" in line for line in lines)
    assert any(NOTE.fullmatch(line) for line in lines)
    assert "something happened" in lines
    assert not any("of 1,000,000" in line for line in lines)  # no log line beside the bar


def test_a_log_shows_lines_only():
    lines = painted(ANNOTATE, is_terminal=False)
    assert "something happened" in lines
    [line] = {line for line in lines if "faces/s; ok 1,000" in line}
    assert line.startswith("annotating: 251,050 of 1,000,000 (25.1%), ")
    assert "\u2501" not in "".join(lines)


def test_a_terminal_shows_a_listing_and_a_bar_of_nothing():
    lines = painted("""
        with ListingBar() as count:
            count.advance(1_230_000)
        with Bar("nothing", 0):
            pass
    """)
    assert any("listing" in line and "1,230,000 images" in line for line in lines)
    assert any("nothing" in line and "0/0" in line for line in lines)
