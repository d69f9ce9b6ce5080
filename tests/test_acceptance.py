"""Real photographs with known answers, where they are at hand: faces found, odd files, engines."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from fattr import boxes, images
from fattr.build import build_detector
from fattr.cli import run_job
from fattr.config import AnnotateConfig
from fattr.detect import source

DATA = Path(__file__).parents[2] / "shared/data"
FOLDERS = ("london", "group_photos", "odd")
IOU = 0.4  # of a found face with a labelled one

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not all((DATA / name).is_dir() for name in FOLDERS),
        reason=f"needs the folders {', '.join(FOLDERS)} of photographs in {DATA}",
    ),
]


@pytest.fixture(scope="module")
def detector():
    config = AnnotateConfig(images="", output="")
    return build_detector(source.find(config.detector), config, device="cpu")


def found_in(detector, path):
    pixels = images.decode(path.read_bytes(), min_long_side=detector.long_side).pixels
    return detector.detect([pixels])[0], pixels.shape


def test_each_studio_portrait_shows_one_face(detector):
    counts = {p.name: len(found_in(detector, p)[0]) for p in (DATA / "london").glob("*.jpg")}
    assert len(counts) == 48
    assert set(counts.values()) == {1}


def num_matches(found_xyxy, labelled_xyxy):
    """Pairs of a found and a labelled box, each in one pair at most, best overlap first."""
    overlaps = np.array([boxes.iou(box, labelled_xyxy) for box in found_xyxy])
    pairs = 0
    while overlaps.size and overlaps.max() >= IOU:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        overlaps[row], overlaps[:, column] = 0, 0
        pairs += 1
    return pairs


def test_faces_of_groups_are_found(detector):
    labelled = defaultdict(list)
    with (DATA / "group_photos/boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            sides = ("xmin", "ymin", "xmax", "ymax")
            labelled[row["path"]].append([float(row[side]) for side in sides])
    num_found = num_labelled = num_right = 0
    for name, boxes_xyxy in labelled.items():
        faces, _ = found_in(detector, DATA / "group_photos" / name)
        num_found += len(faces)
        num_labelled += len(boxes_xyxy)
        num_right += num_matches(faces.boxes_xyxy, np.array(boxes_xyxy, np.float32))
    assert num_labelled == 43
    assert num_right / num_labelled >= 0.97
    assert num_right / num_found >= 0.93


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All the photographs, as links."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in FOLDERS:
        (folder / name).symlink_to(DATA / name)
    return folder


def annotate(folder, output, engine):
    sensitive = ["--sensitive", "age,perceived_gender_presentation", "--purpose", "tests"]
    argv = ["--images", str(folder), "--output", str(output), "--engine", engine, *sensitive]
    assert run_job("annotate", argv) == 0
    return output


@pytest.fixture(scope="module")
def tables(folder, tmp_path_factory):
    return annotate(folder, tmp_path_factory.mktemp("tables") / "out", "local")


def test_every_odd_file_has_its_status(tables, rows_of):
    statuses = {row["name"]: row["status"] for row in rows_of(tables, "images")}
    assert len(statuses) == sum(len(list((DATA / name).iterdir())) for name in FOLDERS)
    with (DATA / "odd/manifest.csv").open(newline="") as file:
        pillow = {row["file"]: row["pillow"] for row in csv.DictReader(file)}
    for name, said in pillow.items():
        if name == "tiny__small__heif.heif":  # newer than the manifest
            wanted = {"ok", "no_face"}
        elif said.startswith("DecompressionBombError"):
            wanted = {"too_large"}
        else:
            wanted = {"ok", "no_face"} if said == "ok" else {"unreadable"}
        assert statuses[name] in wanted, name


def test_orientation_changes_neither_box_nor_labels(tables, rows_of):
    rows = [r for r in rows_of(tables, "faces") if r["name"].startswith("face__exif")]
    assert len(rows) == 8
    for row in rows[1:]:
        for name, value in rows[0].items():
            if name.startswith("box_"):
                assert row[name] == pytest.approx(value, abs=2)
            elif name != "name" and isinstance(value, bool | str):
                assert row[name] == value, name


@pytest.mark.ray
def test_ray_gives_the_same_rows(ray_cluster, folder, tables, tmp_path, rows_of):
    output = annotate(folder, tmp_path / "out", "ray")
    for table in ("images", "faces"):
        assert rows_of(output, table) == rows_of(tables, table)
