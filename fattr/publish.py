"""From staged rows to the two tables, counted on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from fattr import tables
from fattr.attributes import Attribute
from fattr.errors import RunError
from fattr.parts import PartWriter


def count_rows(staged: pa.Table) -> Counter[str]:
    """How many staged rows have which status, and under ``faces`` their faces."""
    counts = Counter(staged.column("status").to_pylist())
    counts["faces"] = pc.sum(staged.column("num_faces")).as_py() or 0
    return counts


@dataclass
class Totals:
    """What a run saw."""

    by_status: Counter[str] = field(default_factory=Counter)
    num_faces: int = 0
    stage_seconds: dict[str, float] = field(  # summed over workers
        default_factory=lambda: dict.fromkeys(tables.STAGE_SECONDS, 0.0)
    )

    @property
    def num_images(self) -> int:
        """Rows of the table ``images``."""
        return self.by_status.total()

    def add(self, staged: pa.Table) -> None:
        """Count staged rows."""
        counts = count_rows(staged)
        self.num_faces += counts.pop("faces")
        self.by_status.update(counts)
        for name in tables.STAGE_SECONDS:
            self.stage_seconds[name] += pc.sum(staged.column(name)).as_py() or 0.0


def publish(
    staged: Iterable[pa.Table],
    *,
    images_uri: str,
    faces_uri: str,
    attributes: Sequence[Attribute],
    model_id: str,
    metadata: Mapping[str, str],
) -> Totals:
    """Write both tables from staged rows; ``metadata`` goes into every file."""
    images_schema = _with_metadata(tables.IMAGES, metadata)
    faces_schema = _with_metadata(tables.faces_schema(attributes), metadata)
    totals = Totals()
    with (
        PartWriter(images_uri, images_schema) as images,
        PartWriter(faces_uri, faces_schema) as faces,
    ):
        for rows in staged:
            totals.add(rows)
            images.write(tables.images_table(rows).cast(images_schema))
            faces.write(tables.faces_table(rows, faces_schema, model_id))
    return totals


def _with_metadata(schema: pa.Schema, metadata: Mapping[str, str]) -> pa.Schema:
    return schema.with_metadata({**(schema.metadata or {}), **metadata})


def check_counts(num_images: int, totals: Totals) -> None:
    """Every image of the manifest must be accounted for, once.

    Raises:
        RunError: some are missing or doubled.
    """
    if totals.num_images != num_images:
        raise RunError(
            f"{num_images} images in the manifest, {totals.num_images} rows made: "
            f"{dict(totals.by_status)}; run again into another --output"
        )
