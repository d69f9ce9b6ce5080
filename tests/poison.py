"""Images that end the process that looks at them, for stages built as workers build them."""

from __future__ import annotations

import ctypes
import functools
import multiprocessing
import os
import signal

import pyarrow as pa

from fattr import tables
from fattr.on_ray import actor
from fattr.stages import Pulse, Stage

SEGFAULT, EXIT, HANG, RAISE, KILL_PARENT = b"SEGFAULT", b"EXIT", b"HANG", b"RAISE", b"KILL PARENT"


def look_at(data: bytes | None) -> None:
    """Do what the bytes say."""
    match data:
        case b"SEGFAULT":
            ctypes.string_at(0)
        case b"EXIT":
            os._exit(7)
        case b"HANG":
            while True:
                pass
        case b"RAISE":
            raise ValueError("such an image was not foreseen")
        case b"KILL PARENT":
            if multiprocessing.parent_process():  # an actor's is the whole node's
                os.kill(os.getppid(), signal.SIGKILL)
            os._exit(1)


class Poisoned:
    """A stage that looks at each image before it does its work."""

    def __init__(self, stage: Stage, pulse: Pulse) -> None:
        self._stage, self._pulse = stage, pulse

    def __call__(self, rows: pa.Table) -> pa.Table:
        for data in rows["image_bytes"].to_pylist():
            self._pulse()
            look_at(data)
        return self._stage(rows)


class Unlabelled:
    """Fetched rows to staged ones in which no image has a face; loads nothing."""

    def __init__(self, attributes) -> None:
        self._attributes = attributes

    def __call__(self, rows: pa.Table) -> pa.Table:
        statuses = rows["fetch_status"].to_pylist()
        nothing = [0] * rows.num_rows
        made = dict.fromkeys(("num_faces", *tables.STAGE_SECONDS), nothing) | {
            "status": ["no_face" if status == "ok" else status for status in statuses],
            "reason": rows["fetch_reason"].combine_chunks(),
            "width": [None] * rows.num_rows,
            "height": [None] * rows.num_rows,
            "faces": [[] for _ in nothing],
        }
        return tables.staged_table(rows, made, self._attributes)


class Bug:
    """Code that is broken: it raises whatever the image; or even where there is none."""

    def __init__(self, attributes=(), *, even_without_bytes: bool = False) -> None:
        self._stage, self._always = Unlabelled(attributes), even_without_bytes

    def __call__(self, rows: pa.Table) -> pa.Table:
        if self._always or rows["image_bytes"].null_count < rows.num_rows:
            raise ZeroDivisionError("a secret")
        return self._stage(rows)


def buggy_stage(plan, pulse: Pulse) -> Stage:
    return Bug(plan.attributes)


def fixed_stage(plan, pulse: Pulse) -> Stage:
    return Unlabelled(plan.attributes)


def annotate_stage(plan, pulse: Pulse) -> Stage:
    return Poisoned(actor.annotate_stage(plan, pulse), pulse)


def decode_stage(plan, pulse: Pulse) -> Stage:
    return Poisoned(actor.decode_stage(plan, pulse), pulse)


def builds(plan, decode_threads):
    return actor.builds(plan, decode_threads) | {
        "annotate": functools.partial(annotate_stage, plan),
        "decode": functools.partial(decode_stage, plan),
    }


def crash_on_load(plan, pulse: Pulse) -> Stage:
    os._exit(9)


def fail_on_load(plan, pulse: Pulse) -> Stage:
    raise ValueError("no such operator in this runtime")


def hang_on_load(plan, pulse: Pulse) -> Stage:
    while True:
        pass
