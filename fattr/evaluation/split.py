"""Annotate in two places: decoding where there are CPUs, labelling where there is a GPU.

What passes between the two are rows again: pixels at the size that the detector wants, and the
file's bytes only where a face may need a finer decode.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from fattr.images import DecodedImage
from fattr.stages import Decode, Decoded, Label, Seen

DECODED_COLUMNS = (
    pa.field("pixels", pa.large_binary()),  # RGB of ``decoded_height`` rows; null: no image
    pa.field("decoded_height", pa.int32()),
    pa.field("decoded_width", pa.int32()),
    pa.field("full_height", pa.int32()),
    pa.field("full_width", pa.int32()),
    pa.field("scale", pa.int32()),
    pa.field("decode_status", pa.string(), nullable=False),
    pa.field("decode_reason", pa.string(), nullable=False),
    pa.field("decode_s", pa.float32(), nullable=False),
)


class DecodeRows:
    """Rows with bytes -> rows with pixels, ``DECODED_COLUMNS``."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode

    def __call__(self, fetched: pa.Table) -> pa.Table:
        """See the class; bytes are left out where the pixels are those of full resolution."""
        decoded = list(self._decode(fetched))
        values = list(zip(*map(_packed, decoded), strict=True)) or [()] * len(DECODED_COLUMNS)
        for column, items in zip(DECODED_COLUMNS, values, strict=True):
            fetched = fetched.append_column(column, pa.array(items, column.type))
        data = [d.data if isinstance(d, Decoded) and d.image.scale > 1 else None for d in decoded]
        index = fetched.schema.get_field_index("image_bytes")
        return fetched.set_column(index, "image_bytes", pa.array(data, pa.large_binary()))


class LabelRows:
    """Rows with pixels -> rows with faces and their attributes."""

    def __init__(self, label: Label) -> None:
        self._label = label

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """See the class; the result has ``tables.staged_schema``."""
        return self._label(_unpacked(decoded), decoded)


def _packed(item: Decoded | Seen) -> tuple[object, ...]:
    if isinstance(item, Seen):
        return None, None, None, None, None, None, str(item.status), item.reason, item.decode_s
    image = item.image
    sizes = (*image.pixels.shape[:2], *image.full_size_hw, image.scale)
    return np.ascontiguousarray(image.pixels).tobytes(), *sizes, "", "", item.seconds


def _unpacked(decoded: pa.Table) -> Iterator[Decoded | Seen]:
    names = [column.name for column in DECODED_COLUMNS]
    wanted = decoded.select([*names, "image_bytes", "fetch_status", "fetch_reason"])
    for start in range(wanted.num_rows):
        (row,) = wanted.slice(start, 1).to_pylist()
        yield _seen(row) if row["pixels"] is None else _decoded(row)


def _seen(row: dict[str, object]) -> Seen:
    """An image without pixels: not decoded, or lost since, which ``mark_failed`` says."""
    kind = "decode" if row["decode_status"] else "fetch"
    seconds = float(str(row["decode_s"]))
    return Seen(str(row[f"{kind}_status"]), str(row[f"{kind}_reason"]), decode_s=seconds)


def _decoded(row: dict[str, object]) -> Decoded:
    height, width, full_height, full_width, scale = (
        int(str(row[name]))
        for name in ("decoded_height", "decoded_width", "full_height", "full_width", "scale")
    )
    assert isinstance(row["pixels"], bytes)
    pixels = np.frombuffer(row["pixels"], np.uint8).reshape(height, width, 3)
    image = DecodedImage(pixels, (full_height, full_width), scale)
    data = row["image_bytes"]
    assert data is None or isinstance(data, bytes)
    return Decoded(image, data or b"", float(str(row["decode_s"])))
