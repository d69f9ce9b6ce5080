"""Stages that put down where they did what: a line for each image, in a file for each process."""

from __future__ import annotations

import functools
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import ray

from fattr.on_ray import actor, annotate
from fattr.spans import seconds_since
from fattr.stages import Stage

STAGES = {
    "annotate": actor.annotate_stage,
    "decode": actor.decode_stage,
    "label": actor.label_stage,
}


def put_down(folder: str, stage: str, rows: pa.Table) -> None:
    """That these rows of the manifest went through a stage on this process's node."""
    node = ray.get_runtime_context().get_node_id()
    with (Path(folder) / f"{stage}-{node}-{os.getpid()}").open("a") as file:
        file.writelines(f"{image_id}\n" for image_id in rows["image_id"].to_pylist())


def read(folder: Path) -> dict[str, dict[str, Counter[int]]]:
    """By stage and node, how often each image went through."""
    found = defaultdict(lambda: defaultdict(Counter))
    for path in folder.iterdir():
        stage, node, _ = path.name.split("-")
        lines = path.read_text().splitlines(keepends=True)
        found[stage][node].update(int(line) for line in lines if line.endswith("\n"))
    return found


class PutDown:
    """A stage that takes its time, and tells."""

    def __init__(self, stage: Stage, name: str, folder: str, seconds_an_image: float) -> None:
        self._stage, self._name, self._folder = stage, name, folder
        self._seconds = seconds_an_image

    def __call__(self, rows: pa.Table) -> pa.Table:
        put_down(self._folder, "begun", rows)
        made = self._stage(rows)
        time.sleep(self._seconds * rows.num_rows)
        put_down(self._folder, self._name, rows)
        return made


def build(plan, name, folder, seconds_an_image, pulse, *, took=seconds_since):
    stage = STAGES[name](plan, pulse, took=took)
    return PutDown(stage, name, folder, seconds_an_image)


def use(folder: str, seconds_an_image: float) -> None:
    """Have the engine of this process build such stages."""
    fetching = annotate.fetching

    def builds(plan, decode_threads):
        return {
            name: functools.partial(build, plan, name, folder, seconds_an_image) for name in STAGES
        }

    def fetching_and_telling(fetch, on_spans=None):
        fetch_block = fetching(fetch, on_spans)

        def fetch_and_tell(rows: pa.Table) -> Iterator[pa.Table]:
            put_down(folder, "fetch", rows)
            yield from fetch_block(rows)

        return fetch_and_tell

    annotate.builds, annotate.fetching = builds, fetching_and_telling
