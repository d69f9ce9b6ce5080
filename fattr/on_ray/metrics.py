"""What an actor tells Ray's metrics, to be read at the Prometheus endpoint of its node."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from ray.util.metrics import Counter, Histogram

from fattr import tables
from fattr.published.publish import count_rows

BOUNDARIES_S = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100]


class StageMetrics:
    """Counts and seconds of the rows that an actor stages."""

    def __init__(self) -> None:
        self._images = Counter("fattr_images_total", "Images done, by status.", ("status",))
        self._faces = Counter("fattr_faces_total", "Faces found.")
        self._bytes = Counter("fattr_bytes_total", "Bytes of the images done.")
        self._seconds = Histogram(
            "fattr_stage_seconds", "Mean seconds an image of a block.", BOUNDARIES_S, ("stage",)
        )

    def add(self, staged: pa.Table) -> None:
        """Count a block."""
        counts = count_rows(staged)
        for status in set(staged.column("status").to_pylist()):
            self._images.inc(counts[status], {"status": status})
        if faces := pc.sum(staged.column("num_faces")).as_py():
            self._faces.inc(faces)
        if num_bytes := pc.sum(staged.column("size_bytes")).as_py():
            self._bytes.inc(num_bytes)
        for name in tables.STAGE_SECONDS:
            seconds = pc.mean(staged.column(name)).as_py()
            self._seconds.observe(seconds, {"stage": name.removesuffix("_s")})
