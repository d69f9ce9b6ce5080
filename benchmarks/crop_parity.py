"""Does a face in a photograph get the labels that the data set's own picture of it gets?

    python benchmarks/crop_parity.py --model celeba40 --data celeba:DIR
    python benchmarks/crop_parity.py --model demographics --data fairface:DIR

Faces of the test split, enlarged 1 to 2 times and turned by up to 20 degrees, are pasted at a
random place of smooth 1024 x 768 backgrounds, saved as JPEG, and sent through the whole of
annotate. The target is an accuracy within 2 points of that on the data set's own crops. A face
that is not found again counts as wrong. Give a bundle the data set whose crops it was made for:
the own crops of another are cut otherwise.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from numpy.typing import NDArray
from PIL import Image

from fattr import bundle as bundles
from fattr import images
from fattr.attributes import Attribute, Kind
from fattr.build import build_classifier, build_detector, cpu_count
from fattr.bundle import Bundle
from fattr.commands.annotate import annotate
from fattr.commands.evaluate import shared_attributes
from fattr.config import AnnotateConfig, EvaluateConfig
from fattr.datasets import DatasetSplit, read_dataset, read_image
from fattr.detect import source as detectors
from fattr.labelled_crops import labelled_crops, targets_of
from fattr.records import FloatArray, Sample, UInt8Array

CANVAS_WH = (1024, 768)
BLOBS_WH = (8, 6)  # the background is this many random colours, blown up
NOISE_LEVELS = 4.0
MAX_TURN_DEG = 20.0
MAX_ENLARGED = 2.0
JPEG_QUALITY = 95
MISSED = 99  # bins off, for a face that was not found


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    model: str
    """Shipped name, bundle folder or training output."""
    data: tuple[str, ...]
    """Data set as NAME:DIR."""
    count: int = 300
    """Faces of each data set."""
    seed: int = 0
    """Seed of the choice of faces, their places and the backgrounds."""


def background(rng: np.random.Generator) -> UInt8Array:
    """A photograph of nothing (H, W, 3): smooth colours and a little noise."""
    blobs = rng.integers(0, 256, (*BLOBS_WH[::-1], 3), np.uint8)
    smooth = Image.fromarray(blobs).resize(CANVAS_WH, Image.Resampling.BICUBIC)
    noise = rng.normal(0, NOISE_LEVELS, (*CANVAS_WH[::-1], 3))
    return np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)


def photograph(face: UInt8Array, rng: np.random.Generator) -> tuple[Image.Image, FloatArray]:
    """The face (h, w, 3) somewhere on a background, and the centre (x, y) of where it is."""
    enlarged = rng.uniform(1, MAX_ENLARGED)
    size_wh = (round(face.shape[1] * enlarged), round(face.shape[0] * enlarged))
    patch = Image.fromarray(face).resize(size_wh, Image.Resampling.BICUBIC).convert("RGBA")
    turn = rng.uniform(-MAX_TURN_DEG, MAX_TURN_DEG)
    patch = patch.rotate(turn, Image.Resampling.BICUBIC, expand=True)
    room = np.array(CANVAS_WH) - np.array(patch.size)
    corner = rng.integers(0, room, endpoint=True)
    picture = Image.fromarray(background(rng))
    picture.paste(patch, (int(corner[0]), int(corner[1])), patch)
    return picture, np.asarray(corner + np.array(patch.size) / 2, np.float32)


def write_photographs(samples: Sequence[Sample], folder: Path, seed: int) -> FloatArray:
    """``0000.jpg`` and so on; the centres (N, 2) of the pasted faces."""
    rng = np.random.default_rng(seed)
    centres = []
    for i, sample in enumerate(samples):
        face = images.decode(read_image(sample.image_uri)).pixels
        picture, centre = photograph(face, rng)
        picture.save(folder / f"{i:04d}.jpg", quality=JPEG_QUALITY)
        centres.append(centre)
    return np.asarray(centres, np.float32).reshape(-1, 2)


def annotated_rows(model: str, bundle: Bundle, folder: Path) -> list[dict[str, Any]]:
    """Rows of ``faces`` that annotate writes for the photographs in ``folder``."""
    sensitive = ",".join(a.name for a in bundle.spec.attributes if a.sensitive)
    with tempfile.TemporaryDirectory() as parent:
        output = Path(parent) / "tables"
        config = AnnotateConfig(
            images=str(folder),
            output=str(output),
            model=(model,),
            engine="local",
            sensitive=sensitive,
            purpose="crop parity benchmark" if sensitive else "",
            min_face_px=0,
        )
        if code := annotate(config):
            raise SystemExit(code)
        rows: list[dict[str, Any]] = pq.read_table(output / "faces").to_pylist()
    return rows


def pasted_faces(
    rows: Sequence[Mapping[str, Any]], centres: FloatArray
) -> list[Mapping[str, Any] | None]:
    """Of each photograph the face whose box holds the pasted centre, the nearest; None: missed."""
    nearest: list[tuple[float, Mapping[str, Any] | None]] = [(np.inf, None)] * len(centres)
    for row in rows:
        index = int(Path(row["image_uri"]).stem)
        x, y = centres[index]
        x1, y1, x2, y2 = (row[f"box_{side}"] for side in ("x1", "y1", "x2", "y2"))
        distance = float(np.hypot((x1 + x2) / 2 - x, (y1 + y2) / 2 - y))
        if x1 <= x <= x2 and y1 <= y <= y2 and distance < nearest[index][0]:
            nearest[index] = (distance, row)
    return [row for _, row in nearest]


def probs_of_row(row: Mapping[str, Any], attribute: Attribute) -> Any:  # noqa: ANN401
    """The probability of true, or all classes', as ``predict_proba`` gives them."""
    return row[f"{attribute.name}_prob{'' if attribute.kind is Kind.BINARY else 's'}"]


def predicted(attribute: Attribute, probs: FloatArray, bundle: Bundle) -> NDArray[np.int64]:
    """Class of each face (N,), abstention ignored as in evaluate."""
    if attribute.kind is not Kind.BINARY:
        return np.asarray(probs.argmax(axis=1), np.int64)
    threshold = bundle.spec.calibration.thresholds.get(attribute.name, 0.5)
    return np.asarray(probs >= threshold, np.int64)


def bins_off(
    bundle: Bundle,
    attributes: Sequence[Attribute],
    targets: NDArray[np.int64],
    probs: Mapping[str, FloatArray],
) -> NDArray[np.int64]:
    """How far each prediction (N, A) is from its target: 0 is right."""
    columns = [predicted(a, probs[a.name], bundle) for a in attributes]
    off: NDArray[np.int64] = np.abs(np.stack(columns, axis=1) - targets)
    return off


def off_in_photographs(
    bundle: Bundle,
    attributes: Sequence[Attribute],
    targets: NDArray[np.int64],
    faces: Sequence[Mapping[str, Any] | None],
) -> NDArray[np.int64]:
    """As ``bins_off``, from rows of ``faces``; ``MISSED`` where there is none."""
    off = np.full(targets.shape, MISSED, np.int64)
    found = [i for i, row in enumerate(faces) if row is not None]
    rows = [row for row in faces if row is not None]
    probs = {
        a.name: np.array([probs_of_row(row, a) for row in rows], np.float32) for a in attributes
    }
    if rows:
        off[found] = bins_off(bundle, attributes, targets[found], probs)
    return off


def off_in_own_pictures(
    bundle: Bundle, attributes: Sequence[Attribute], split: DatasetSplit, *, detect: bool
) -> NDArray[np.int64]:
    """As ``bins_off``, on the data set's pictures: as crops, or cropped around the face in them."""
    config = EvaluateConfig(model="", data="", output="")
    source = detectors.find(config.detector)
    faces = labelled_crops(
        split.samples,
        attributes,
        bundle.spec.crop_rule,
        detector=build_detector(source, config, device="cpu") if detect else None,
        num_threads=cpu_count(),
        progress=lambda items: items,
    )
    classifier = build_classifier(bundle, device="cpu", num_threads=cpu_count())
    return bins_off(bundle, attributes, faces.targets, classifier.predict_proba(faces.crops))


def hits(
    attributes: Sequence[Attribute], off: NDArray[np.int64], targets: NDArray[np.int64]
) -> dict[str, FloatArray]:
    """Per face (N,) the share of right labels, for each figure that is reported."""
    right = np.where(targets >= 0, off == 0, np.nan)
    by_name = {a.name: right[:, i] for i, a in enumerate(attributes)}
    counted = [by_name[a.name] for a in attributes if a.kind is not Kind.AGE]
    shares = {f"macro over {len(counted)}": np.nanmean(counted, axis=0)} if counted else {}
    for i, a in enumerate(attributes):
        if a.kind is Kind.AGE:
            shares |= {"age": right[:, i], "age, one bin off": (off[:, i] <= 1).astype(float)}
    return shares


def chosen_faces(spec: str, *, count: int, seed: int) -> DatasetSplit:
    """That many of the test split, at random."""
    split = read_dataset(spec, "test")
    chosen = np.random.default_rng(seed).permutation(len(split.samples))[:count]
    return dataclasses.replace(split, samples=tuple(split.samples[i] for i in chosen))


def compare(settings: Settings, spec: str) -> None:
    """Print the figures on own crops, on own pictures with detection, and pasted."""
    bundle = bundles.find(settings.model)
    split = chosen_faces(spec, count=settings.count, seed=settings.seed)
    attributes = shared_attributes(bundle, split)
    targets = targets_of(split.samples, attributes)
    with tempfile.TemporaryDirectory() as folder:
        centres = write_photographs(split.samples, Path(folder), settings.seed)
        rows = annotated_rows(settings.model, bundle, Path(folder))
    faces = pasted_faces(rows, centres)
    off = [
        off_in_own_pictures(bundle, attributes, split, detect=False),
        off_in_own_pictures(bundle, attributes, split, detect=True),
        off_in_photographs(bundle, attributes, targets, faces),
    ]
    num_missed = sum(row is None for row in faces)
    print(f"{bundle.spec.name} on {split.name}: {len(faces)} faces, {num_missed} missed")
    print_figures(*(hits(attributes, one, targets) for one in off))


def print_figures(
    own: Mapping[str, FloatArray], found: Mapping[str, FloatArray], pasted: Mapping[str, FloatArray]
) -> None:
    """A line a figure, from the share of right labels per face on each kind of crop."""
    print(f"{'':>22} {'own':>7} {'found':>7} {'pasted':>7} {'pasted - own, points':>22}")
    for name in own:
        change = 100 * (pasted[name] - own[name])
        error = change.std() / np.sqrt(len(change))  # of a mean of paired differences
        means = [one[name].mean() for one in (own, found, pasted)]
        cells = " ".join(f"{mean:7.4f}" for mean in means)
        print(f"{name:>22} {cells} {change.mean():+13.2f} +- {error:.2f}")


def main() -> int:
    """Compare for each data set."""
    logging.basicConfig(level=logging.WARNING)
    settings = tyro.cli(Settings, config=(tyro.conf.UseAppendAction,))
    for spec in settings.data:
        compare(settings, spec)
    return 0


if __name__ == "__main__":
    sys.exit(main())
