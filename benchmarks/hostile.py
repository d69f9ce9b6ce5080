"""Ten thousand damaged and hostile files: each is a row, and the run ends as any other.

    python -m benchmarks.hostile --files 10000 [--more DIR]

Photographs in eight formats are damaged by seed: flipped bits, cut ends, spliced halves, headers
edited, sides of billions of pixels, chunks swapped, repeated or dropped. Files of ``--more`` are
added as they are.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import tyro

from benchmarks.faults import annotating
from benchmarks.faults.annotating import unless
from benchmarks.faults.pictures import KINDS, encoded, picture
from benchmarks.faults.verdict import Verdict, conclude, room

NUM_ORIGINALS = 12  # photographs in each format
HEADER = 512  # the first bytes, where the sides and the kinds of things are said
MAX_MUTATIONS = 3
HUGE = (0, 1, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, 30_000, 178_956_970)
MARKERS = {  # what stands at the start of a chunk of each format
    "JPEG": (b"\xff",),
    "PNG": (b"IHDR", b"IDAT", b"IEND"),
    "GIF": (b"\x21", b"\x2c", b"\x00"),
    "WEBP": (b"VP8 ", b"RIFF", b"WEBP"),
    "BMP": (b"BM", b"\x28\x00\x00\x00"),
    "TIFF": (b"\x00\x01", b"\x01\x00"),
    "AVIF": (b"ftyp", b"meta", b"iloc", b"ispe", b"mdat", b"iprp", b"av1C"),
    "HEIF": (b"ftyp", b"meta", b"iloc", b"ispe", b"mdat", b"iprp", b"hvcC"),
}

Mutation = Callable[[bytes, str, np.random.Generator], bytes]


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    files: int = 10_000
    """How many damaged files."""
    more: str = ""
    """A folder of files to add as they are."""
    engine: str = "ray"
    image_timeout: float = 20.0
    """Seconds that one image may take, on the Ray engine."""
    seed: int = 0
    report: str = ""
    """File for the verdict as JSON."""
    folder: str = ""
    """Where to work; empty: a temporary folder."""


# What is done to a file


def flip_bits(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """One to 64 bits, anywhere."""
    damaged = bytearray(data)
    for place in rng.integers(0, len(data), int(rng.integers(1, 65))):
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def edit_header(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """One to eight bytes of the first few hundred become others."""
    damaged = bytearray(data)
    for place in rng.integers(0, min(HEADER, len(data)), int(rng.integers(1, 9))):
        damaged[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    return bytes(damaged)


def cut_end(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Cut anywhere, often near the start or the end."""
    return data[: int(len(data) * rng.beta(0.5, 0.5))]


def cut_out(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A piece in the middle is gone."""
    start, stop = sorted(rng.integers(0, len(data) + 1, 2).tolist())
    return data[:start] + data[stop:]


def splice(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """The start of one file and the end of another, of any format."""
    other = original(str(rng.choice(KINDS)), int(rng.integers(NUM_ORIGINALS)))
    return data[: int(rng.integers(len(data) + 1))] + other[int(rng.integers(len(other))) :]


def huge_number(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A number of 2 or 4 bytes in the header becomes an extreme one, in either byte order."""
    layout = str(rng.choice([">I", "<I", ">H", "<H"]))
    size = struct.calcsize(layout)
    value = int(rng.choice(HUGE)) & ((1 << 8 * size) - 1)
    place = int(rng.integers(0, max(1, min(HEADER, len(data)) - size)))
    return data[:place] + struct.pack(layout, value) + data[place + size :]


def huge_sides(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Width and height are said to be extreme, wherever 300 is said in the header."""
    damaged = bytearray(data)
    for layout in (">I", "<I", ">H", "<H"):
        side, size = struct.pack(layout, 300), struct.calcsize(layout)
        place = damaged.find(side, 0, 4 * HEADER)
        while place >= 0:
            value = int(rng.choice(HUGE)) & ((1 << 8 * size) - 1)
            damaged[place : place + size] = struct.pack(layout, value)
            place = damaged.find(side, place + size, 4 * HEADER)
    return bytes(damaged)


def move_chunks(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Two chunks change places, or one is repeated, or dropped."""
    marker = MARKERS[kind][int(rng.integers(len(MARKERS[kind])))]
    pieces = data.split(marker)
    if len(pieces) < 3:
        return flip_bits(data, kind, rng)
    one, other = rng.integers(1, len(pieces), 2).tolist()
    fate = int(rng.integers(3))
    if fate == 0:
        pieces[one], pieces[other] = pieces[other], pieces[one]
    elif fate == 1:
        pieces.insert(one, pieces[other])
    else:
        del pieces[one]
    return marker.join(pieces)


def fill(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A stretch becomes zeros, ones or noise."""
    start = int(rng.integers(len(data)))
    length = int(min(len(data) - start, 2 ** rng.integers(1, 13)))
    filled = (bytes(length), b"\xff" * length, rng.bytes(length))[int(rng.integers(3))]
    return data[:start] + filled + data[start + length :]


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits,
    edit_header,
    cut_end,
    cut_out,
    splice,
    huge_number,
    huge_sides,
    move_chunks,
    fill,
)


@cache
def original(kind: str, number: int) -> bytes:
    """A sound photograph in one of ``KINDS``."""
    return encoded(picture(number), kind)


def hostile_file(seed: int, number: int) -> tuple[str, bytes]:
    """Name and bytes of a damaged file; the name says what was done."""
    rng = np.random.default_rng((seed, number))
    kind = KINDS[number % len(KINDS)]
    data, done = original(kind, int(rng.integers(NUM_ORIGINALS))), []
    for _ in range(int(rng.integers(1, MAX_MUTATIONS + 1))):
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        if data:
            data = mutation(data, kind, rng)
            done.append(mutation.__name__)
    return f"{number:05d}-{'-'.join(done)}.{kind.lower()}", data


def write_hostile(folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Damaged files, a thousand to a subfolder."""
    for number in range(count):
        name, data = hostile_file(seed, number)
        path = folder / f"{number // 1000:03d}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        yield path


# The run


def drill(settings: Settings, folder: Path) -> Verdict:
    """Run it in ``folder``."""
    verdict = Verdict("hostile")
    files, output = folder / "files", folder / "tables"
    num_files = sum(1 for _ in write_hostile(files / "made", settings.files, settings.seed))
    if settings.more:
        num_files += _copy_more(Path(settings.more), files / "more")
    timeout = ["--image-timeout", str(settings.image_timeout)]
    argv = annotating.command(str(files), str(output), *timeout, engine=settings.engine)
    ended = annotating.run(argv, folder / "run.log")
    verdict.check("the run ends with 0", *unless(0, ended))
    verdict.check(
        "fattr verify is content", *unless(0, annotating.verify(str(output), folder / "verify.log"))
    )
    if ended.code == 0:
        _count(verdict, output, num_files)
    verdict.figures |= {"files": num_files, "seconds": round(ended.seconds, 1)}
    return verdict


def _copy_more(source: Path, target: Path) -> int:
    """Files that a listing shows, copied; how many."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*", "_*"))
    return sum(path.is_file() for path in target.rglob("*"))


def _count(verdict: Verdict, output: Path, num_files: int) -> None:
    rows = annotating.current_rows(output, "images").to_pylist()
    uris = {row["image_uri"] for row in rows}
    one_each = len(rows) == len(uris) == num_files
    found = "" if one_each else f"{len(rows)} rows, {len(uris)} files of {num_files}"
    verdict.check("one row a file", found)
    no_reason = [
        row for row in rows if row["status"] not in ("ok", "no_face") and not row["reason"]
    ]
    found = f"{len(no_reason)} without, first {no_reason[0]['image_uri']}" if no_reason else ""
    verdict.check("every failure has a reason", found)
    poison = [row["image_uri"] for row in rows if row["status"] == "poison"]
    verdict.figures["statuses"] = dict(Counter(row["status"] for row in rows).most_common())
    verdict.figures["poison"] = json.dumps(poison[:20])


def main(settings: Settings) -> int:
    """The whole drill."""
    with room(settings.folder) as folder:
        return conclude(drill(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
