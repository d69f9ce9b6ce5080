"""The images: a folder as it is, or portraits, groups and collages whose faces have known places.

Places stand in ``positions.csv`` beside the folder: file, x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

import csv
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fattr.datasets import synthetic
from fattr.errors import UsageError
from fattr.records import FloatArray

NUM_COLLAGES, NUM_DRAWN = 243, 120
FACE_PX = (20, 200)  # shorter side
BACKGROUND_PX = (400, 1350)
MAX_FACES = 5  # of a collage, 1 at the least
TRIES = 20
POSITIONS = "positions.csv"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp")
COLUMNS = ("file", "x1", "y1", "x2", "y2")
# What the detector sees as the face of a chip, in shares of its side: medians over a hundred of
# FairFace's and sixty drawn ones, each in a large grey picture.
FAIRFACE_FACE = (0.10, 0.0, 0.88, 0.96)
DRAWN_FACE = (0.31, 0.20, 0.70, 0.69)

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Chips:
    """Square pictures of one face each, and where in them it is, in shares of the side."""

    files: tuple[Path, ...]
    face: Box

    def side_px(self, face_px: float) -> int:
        """Of the chip whose face has this shorter side."""
        x1, y1, x2, y2 = self.face
        return round(face_px / min(x2 - x1, y2 - y1))


# Making them


def make_pictures(folder: Path, data: str, seed: int) -> None:
    """``folder`` and the positions beside it; the same seed makes the same pictures.

    Raises:
        UsageError: what they are made from is not there.
    """
    if data and not Path(data, "group_photos", "boxes.csv").is_file():
        raise UsageError(f"--data {data}: london, group_photos and fairface/val expected in it")
    folder.mkdir(parents=True)
    if data:
        positions = dict(_copied(Path(data), folder))
        chips = Chips(tuple(sorted(Path(data, "fairface", "val").glob("*.jpg"))), FAIRFACE_FACE)
    else:
        positions = {}
        synthetic.write(folder.parent / "drawn", NUM_DRAWN, seed)
        drawn = sorted((folder.parent / "drawn" / "images").glob("*.png"))
        chips = Chips(tuple(drawn), DRAWN_FACE)
    for number in range(NUM_COLLAGES):
        name = f"collage_{number:03d}.jpg"
        picture, positions[name] = collage(chips, np.random.default_rng((seed, number)))
        picture.save(folder / name, quality=90)
    write_positions(folder.with_name(POSITIONS), positions)


def _copied(data: Path, folder: Path) -> Iterator[tuple[str, list[Box]]]:
    """Copy portraits and groups; the groups' places are known."""
    for path in sorted([*data.glob("london/*.jpg"), *data.glob("group_photos/*.jpg")]):
        shutil.copyfile(path, folder / path.name)
    with (data / "group_photos" / "boxes.csv").open() as file:
        places = defaultdict(list)
        for row in csv.DictReader(file):
            box = tuple(float(row[name]) for name in ("xmin", "ymin", "xmax", "ymax"))
            places[row["path"]] += [box] if row["ignore"] == "0" else []
    yield from places.items()


def collage(chips: Chips, rng: np.random.Generator) -> tuple[Image.Image, list[Box]]:
    """Faces that do not overlap on a blurred background, and their boxes."""
    size = (int(rng.integers(*BACKGROUND_PX)), int(rng.integers(*BACKGROUND_PX)))
    blots = rng.integers(0, 256, (6, 6, 3), np.uint8)
    picture = Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)
    taken: list[tuple[int, int, int]] = []
    for _ in range(int(rng.integers(1, MAX_FACES + 1))):
        side = min(chips.side_px(rng.uniform(*FACE_PX)), min(size) // 2)
        if (at := _free_place(size, side, taken, rng)) is None:
            continue
        with Image.open(chips.files[int(rng.integers(len(chips.files)))]) as chip:
            picture.paste(chip.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), at)
        taken.append((*at, side))
    return picture, [_box(place, chips.face) for place in taken]


def _free_place(
    size: tuple[int, int],
    side: int,
    taken: Sequence[tuple[int, int, int]],
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    for _ in range(TRIES):
        x, y = (int(rng.integers(0, room - side + 1)) for room in size)
        if all(x + side <= u or u + w <= x or y + side <= v or v + w <= y for u, v, w in taken):
            return x, y
    return None


def _box(place: tuple[int, int, int], face: Box) -> Box:
    x, y, side = place
    x1, y1, x2, y2 = face
    return x + side * x1, y + side * y1, x + side * x2, y + side * y2


# Positions


def write_positions(path: Path, positions: Mapping[str, Sequence[Box]]) -> None:
    """One line a face."""
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        for name, boxes in positions.items():
            lines.writerows([name, *(f"{side:.1f}" for side in box)] for box in boxes)


def read_positions(folder: Path) -> dict[str, FloatArray]:
    """Boxes (N, 4) by file name; empty where nothing is known."""
    path, found = folder.with_name(POSITIONS), defaultdict(list)
    if path.is_file():
        with path.open() as file:
            for row in csv.DictReader(file):
                found[row["file"]].append([float(row[name]) for name in COLUMNS[1:]])
    return {name: np.array(boxes, np.float32) for name, boxes in found.items()}


# Choosing among them


def gathered(folder: Path, into: Path, *, count: int, copies: int) -> list[Path]:
    """``count`` images of the folder (0: all), evenly spread, each ``copies`` times, in ``into``.

    The first copy keeps its name, by which its positions are known.

    Raises:
        UsageError: there is no image.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"{folder}: no image found, {', '.join(SUFFIXES)} expected")
    indices = np.linspace(0, len(files) - 1, min(count or len(files), len(files)))
    into.mkdir()
    paths = []
    for path in (files[round(index)] for index in indices):
        for copy in range(copies):
            paths.append(into / (path.name if copy == 0 else f"copy_{copy:03d}_{path.name}"))
            shutil.copyfile(path, paths[-1])
    return sorted(paths)
