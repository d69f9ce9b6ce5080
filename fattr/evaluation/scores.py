"""What a model said of labelled faces, beside what was labelled: the input of every figure.

One row a face. Columns are read one attribute at a time, so that what is in memory at once does
not grow with the number of attributes once the scores were spilled to a Parquet file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fattr.attributes import Attribute, Kind
from fattr.records import FloatArray

UNKNOWN = -1  # target of a face without a label
ROWS_PER_GROUP = 65_536


def target_column(name: str) -> str:
    """Column of an attribute's labelled class: int16, null where unknown."""
    return f"{name}_target"


def logits_column(name: str) -> str:
    """Column of the logits of an attribute: float32 if binary, else a list of one a class."""
    return f"{name}_logits"


def group_column(name: str) -> str:
    """Column of a group as annotated: string, "" where unknown."""
    return f"group_{name}"


def scores_schema(attributes: Sequence[Attribute], groups: Sequence[str]) -> pa.Schema:
    """One row a face, in the order of the data set."""
    fields = [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("found", pa.bool_(), nullable=False),
        pa.field("face_px", pa.float32()),
    ]
    for a in attributes:
        kind = pa.float32() if a.kind is Kind.BINARY else pa.list_(pa.float32(), a.num_logits)
        fields.append(pa.field(target_column(a.name), pa.int16()))
        fields.append(pa.field(logits_column(a.name), kind, nullable=False))
    return pa.schema(fields + [pa.field(group_column(g), pa.string()) for g in groups])


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """N scored faces; ``source`` holds ``scores_schema``, in memory or as a Parquet file."""

    attributes: tuple[Attribute, ...]
    source: pa.Table | Path

    def __len__(self) -> int:
        if isinstance(self.source, Path):
            return int(pq.read_metadata(self.source).num_rows)
        return int(self.source.num_rows)

    def write(self, path: Path) -> None:
        """Write them all as one Parquet file."""
        if isinstance(self.source, Path):
            shutil.copyfile(self.source, path)
        else:
            pq.write_table(self.source, path, row_group_size=ROWS_PER_GROUP, compression="zstd")

    def _column(self, name: str) -> pa.Array:
        if isinstance(self.source, Path):
            table = pq.read_table(self.source, columns=[name])
        else:
            table = self.source.select([name])
        return table.column(0).combine_chunks()

    @property
    def image_uris(self) -> list[str]:
        """Where each face's image is."""
        return list(self._column("image_uri").to_pylist())

    @property
    def found(self) -> NDArray[np.bool_]:
        """(N,); False where no face was detected and the picture's centre was scored."""
        return np.asarray(self._column("found").to_numpy(zero_copy_only=False), bool)

    @property
    def face_px(self) -> FloatArray:
        """(N,) shorter side of the face's box in pixels of its image; NaN where none was found."""
        return np.asarray(self._column("face_px").to_numpy(zero_copy_only=False), np.float32)

    def targets(self, attribute: Attribute) -> NDArray[np.int64]:
        """(N,) labelled class, -1 where unknown."""
        filled = self._column(target_column(attribute.name)).fill_null(UNKNOWN)
        return np.asarray(filled.to_numpy(zero_copy_only=False), np.int64)

    def logits(self, attribute: Attribute) -> FloatArray:
        """(N, L) uncalibrated logits of one attribute; L = 1 where it is binary."""
        column = self._column(logits_column(attribute.name))
        flat = column if attribute.kind is Kind.BINARY else column.flatten()
        values = np.asarray(flat.to_numpy(zero_copy_only=False), np.float32)
        return values.reshape(-1, attribute.num_logits)

    @property
    def group_names(self) -> tuple[str, ...]:
        """The group columns there are."""
        source = self.source
        names = pq.read_schema(source).names if isinstance(source, Path) else source.column_names
        own = len(scores_schema(self.attributes, ()))  # groups come last
        return tuple(n.removeprefix("group_") for n in names[own:])

    def groups(self, name: str) -> tuple[str, ...]:
        """The annotated value of each face in one group column, "" where unknown."""
        return tuple(self._column(group_column(name)).fill_null("").to_pylist())


def scores_table(
    attributes: Sequence[Attribute],
    *,
    image_uris: Sequence[str],
    found: NDArray[np.bool_],
    face_px: FloatArray,
    targets: NDArray[np.integer],
    logits: FloatArray,
    groups: Mapping[str, Sequence[str]],
) -> pa.Table:
    """Arrays of N faces as ``scores_schema``.

    ``targets`` is (N, A), -1 where unknown; ``logits`` (N, L) in the order of the attributes;
    ``face_px`` NaN where no face was found.
    """
    columns: list[pa.Array] = [
        pa.array(image_uris, pa.string()),
        pa.array(found),
        pa.array(face_px, pa.float32(), from_pandas=True),
    ]
    start = 0
    for i, a in enumerate(attributes):
        own = np.ascontiguousarray(logits[:, start : start + a.num_logits]).reshape(-1)
        start += a.num_logits
        values = pa.array(own, pa.float32())
        if a.kind is not Kind.BINARY:
            values = pa.FixedSizeListArray.from_arrays(values, a.num_logits)
        known = np.asarray(targets[:, i])
        columns += [pa.array(known.astype(np.int16), mask=known < 0), values]
    columns += [pa.array(values, pa.string()) for values in groups.values()]
    return pa.Table.from_arrays(columns, schema=scores_schema(attributes, tuple(groups)))
