"""A labeller in Daft, as a class UDF in processes of its own.

    python -m benchmarks.annotate.daft_job LABELLER JOB.json OUT.json

JOB names the models' files, the images and the number of processes; OUT gets one row a chunk.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import daft

from benchmarks.annotate import labellers
from benchmarks.annotate.labellers import Models
from benchmarks.annotate.plain import IMAGES_AT_ONCE, timed


class Label:
    """The UDF."""

    def __init__(self, name: str, files: list[str]) -> None:
        self._label = getattr(labellers, name)(Models(*map(Path, files)))

    @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=IMAGES_AT_ONCE)
    def rows(self, paths: daft.Series) -> list[str]:
        """What was found in each image, as JSON; what is of the chunk stands in its first row."""
        names = paths.to_pylist()
        chunk = timed(self._label, [Path(name) for name in names])
        found: list[dict[str, Any]] = [{"boxes": boxes.tolist()} for boxes in chunk.labelled.boxes]
        found[0] |= {"times": [chunk.started, chunk.ended], "seconds": chunk.labelled.seconds}
        return [json.dumps(row) for row in found]


def main(name: str, job_file: str, out_file: str) -> None:
    """Label the images of the job."""
    daft.set_runner_native()
    job = json.loads(Path(job_file).read_text())
    make = daft.cls(Label, use_process=True, max_concurrency=job["num_processes"])
    images = daft.from_pydict({"path": job["paths"]}).into_batches(IMAGES_AT_ONCE)
    rows = images.with_column("row", make(name, job["models"]).rows(images["path"])).to_pydict()
    found = {path: json.loads(row) for path, row in zip(rows["path"], rows["row"], strict=True)}
    Path(out_file).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
