"""The stage of evaluation: bytes of labelled images -> logits of the face nearest the centre.

It stands where ``stages.Annotate`` stands, behind the same fetch, in a loop or in an actor; a
failed image is a row with a status. ``gather`` puts the rows of all models back into the order of
the data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fattr import boxes, images
from fattr.attributes import Attribute
from fattr.classify.calibration import logit_slices
from fattr.classify.classifier import AttributeClassifier
from fattr.crop import central_crop, crop_face
from fattr.datasets import read_image
from fattr.detect.detector import FaceDetector
from fattr.errors import ImageError, RunError, StorageError, UsageError
from fattr.evaluation.scores import ROWS_PER_GROUP, Scores, scores_schema, scores_table
from fattr.labelled_crops import central_face, targets_of
from fattr.records import CropRule, Detections, FloatArray, Sample, Status, UInt8Array

# All attributes of a model in the order of its logits, and those of them to keep.
ModelAttributes: TypeAlias = tuple[tuple[Attribute, ...], tuple[Attribute, ...]]

MAX_SCORES_IN_MEMORY = 10_000_000  # float32 each; beyond, they are kept in files


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """A bundle to measure: its classifier and how its crops are cut."""

    classifier: AttributeClassifier
    crop_rule: CropRule


def samples_table(samples: Sequence[Sample]) -> pa.Table:
    """What the engines read: one row a sample, in order; ``stages.Fetch`` adds the bytes."""
    return pa.table(
        {
            "index": pa.array(range(len(samples)), pa.int64()),
            "image_uri": pa.array([s.image_uri for s in samples], pa.string()),
            "size_bytes": pa.nulls(len(samples), pa.int64()),
        }
    )


def scored_schema(num_models: int) -> pa.Schema:
    """One row a sample; ``logits_i`` are those of the i-th model, null where there is no image."""
    fields = [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # "ok", or why there is no image
        pa.field("reason", pa.string(), nullable=False),
        pa.field("found", pa.bool_(), nullable=False),
        pa.field("face_px", pa.float32()),
    ]
    return pa.schema(
        fields + [pa.field(f"logits_{i}", pa.list_(pa.float32())) for i in range(num_models)]
    )


def read_labelled(uri: str) -> bytes:
    """A data set's image for ``stages.Fetch``, which takes one kind of error.

    Raises:
        StorageError: it cannot be had.
    """
    try:
        return read_image(uri)
    except UsageError as err:
        raise StorageError(Status.UNREADABLE, uri, str(err)) from err


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What is kept of an image once its pixels are gone."""

    status: str
    reason: str = ""
    face_px: float | None = None
    crops: tuple[UInt8Array, ...] = ()  # one a model


class ScoreFaces:
    """Rows with bytes -> ``scored_schema``. Without a detector, pictures are taken for crops."""

    def __init__(self, detector: FaceDetector | None, models: Sequence[ScoredModel]) -> None:
        self._detector, self._models = detector, models

    def __call__(self, fetched: pa.Table) -> pa.Table:
        """See the class."""
        rows = fetched.select(["image_bytes", "fetch_status", "fetch_reason"]).to_pylist()
        seen = [self._see(*row.values()) for row in rows]
        columns = {
            "index": fetched.column("index").combine_chunks(),
            "status": [image.status for image in seen],
            "reason": [image.reason for image in seen],
            "found": [image.face_px is not None for image in seen],
            "face_px": [image.face_px for image in seen],
        }
        for i, model in enumerate(self._models):
            columns[f"logits_{i}"] = self._logits(
                model, [s.crops[i] if s.crops else None for s in seen]
            )
        return pa.table(columns, schema=scored_schema(len(self._models)))

    def _see(self, data: bytes | None, status: str, reason: str) -> _Seen:
        if data is None:
            return _Seen(status, reason)
        try:
            image = images.decode(data).pixels
        except ImageError as err:
            return _Seen(err.status, err.reason)
        face = central_face(image, self._detector) if self._detector else Detections.empty()
        rules = [model.crop_rule for model in self._models]
        if not len(face):
            return _Seen(Status.OK, crops=tuple(central_crop(image, rule) for rule in rules))
        return _Seen(
            Status.OK,
            face_px=float(boxes.short_sides(face.boxes_xyxy)[0]),
            crops=tuple(crop_face(image, face.landmarks[0], rule) for rule in rules),
        )

    def _logits(
        self, model: ScoredModel, crops: Sequence[UInt8Array | None]
    ) -> list[FloatArray | None]:
        present = [crop for crop in crops if crop is not None]
        empty = np.zeros((0, *model.crop_rule.size_hw, 3), np.uint8)
        logits = iter(model.classifier.logits(np.stack(present) if present else empty))
        return [None if crop is None else next(logits) for crop in crops]


@dataclass(slots=True, eq=False)
class _Gathered:
    """Arrays that the rows of one model are put into, whatever their order."""

    found: NDArray[np.bool_]
    face_px: FloatArray
    logits: FloatArray  # (N, L); a file where it is large

    @classmethod
    def empty(cls, num_samples: int, num_logits: int, spill_to: Path | None) -> _Gathered:
        """Room for so many rows."""
        shape = (num_samples, num_logits)
        logits = np.memmap(spill_to, np.float32, "w+", shape=shape) if spill_to else None
        return cls(
            np.zeros(num_samples, bool),
            np.full(num_samples, np.nan, np.float32),
            np.empty(shape, np.float32) if logits is None else logits,
        )


def refuse_failed(scored: pa.Table, samples: Sequence[Sample]) -> None:
    """Refuse a labelled image that cannot be read: figures would be those of the rest.

    Raises:
        UsageError: an image is missing or damaged.
        RunError: the storage failed, perhaps only for now.
    """
    rows = scored.select(["index", "status", "reason"]).to_pylist()
    for row in rows:
        if row["status"] == Status.OK:
            continue
        uri = samples[row["index"]].image_uri
        if row["status"] in (Status.UNAVAILABLE, Status.TIMEOUT):
            raise RunError(f"{uri}: {row['reason']}; run again when the storage answers")
        raise UsageError(f"{uri}: {row['reason']}; mend or remove this labelled image")


def gather(
    parts: Iterable[pa.Table],
    samples: Sequence[Sample],
    models: Sequence[ModelAttributes],
    *,
    folder: Path,
) -> list[Scores]:
    """Scored rows in any order -> the scores of each model, in the order of the samples.

    Beyond ten million scores a model, they are kept in files under ``folder``.

    Raises:
        UsageError: an image is missing or damaged.
        RunError: the storage failed, or rows are missing.
    """
    slices = [logit_slices(every) for every, _ in models]
    columns = [
        np.concatenate([np.arange(s.start, s.stop) for s in (own[a.name] for a in kept)])
        for own, (_, kept) in zip(slices, models, strict=True)
    ]
    large = [len(samples) * len(own) > MAX_SCORES_IN_MEMORY for own in columns]
    spilled = [folder / f".scores-{i}" if big else None for i, big in enumerate(large)]
    gathered = [
        _Gathered.empty(len(samples), len(own), spill)
        for own, spill in zip(columns, spilled, strict=True)
    ]
    seen = np.zeros(len(samples), bool)
    for part in parts:
        refuse_failed(part, samples)
        _scatter(part, gathered, columns, seen)
    if not seen.all():
        raise RunError(f"{(~seen).sum()} of {len(seen)} images were not scored; run again")
    out = []
    for i, (rows, (_, kept)) in enumerate(zip(gathered, models, strict=True)):
        path = folder / f"scores-{i}.parquet" if large[i] else None
        out.append(_scores(rows, samples, kept, path))
        if path and (spill := spilled[i]):
            spill.unlink()
    return out


def _scatter(
    part: pa.Table,
    gathered: Sequence[_Gathered],
    columns: Sequence[NDArray[np.int64]],
    seen: NDArray[np.bool_],
) -> None:
    index = part.column("index").to_numpy()
    if not len(index):  # an engine may hand over a part without rows
        return
    seen[index] = True
    for i, (rows, own) in enumerate(zip(gathered, columns, strict=True)):
        rows.found[index] = part.column("found").to_numpy()
        rows.face_px[index] = part.column("face_px").to_numpy()
        flat = part.column(f"logits_{i}").combine_chunks().flatten().to_numpy()
        rows.logits[index] = flat.reshape(len(index), -1)[:, own]


def _scores(
    rows: _Gathered, samples: Sequence[Sample], attributes: tuple[Attribute, ...], path: Path | None
) -> Scores:
    """In memory, or a Parquet file at ``path``, written some rows at a time."""
    names = sorted({column for sample in samples for column in sample.groups})

    def table(start: int, stop: int) -> pa.Table:
        chosen = samples[start:stop]
        groups: Mapping[str, Sequence[str]] = {
            name: [s.groups.get(name, "") for s in chosen] for name in names
        }
        return scores_table(
            attributes,
            image_uris=[s.image_uri for s in chosen],
            found=rows.found[start:stop],
            face_px=rows.face_px[start:stop],
            targets=targets_of(chosen, attributes),
            logits=rows.logits[start:stop],
            groups=groups,
        )

    if path is None:
        return Scores(attributes, table(0, len(samples)))
    with pq.ParquetWriter(path, scores_schema(attributes, names), compression="zstd") as writer:
        for start in range(0, len(samples), ROWS_PER_GROUP):
            writer.write_table(table(start, start + ROWS_PER_GROUP))
    return Scores(attributes, path)
