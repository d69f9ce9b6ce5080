"""Drawn faces whose attributes are exactly known, for tests and demonstrations.

    ROOT/images/*.png    ROOT/labels.csv

They are DiceBear's "Avataaars". Only parts that leave no doubt are drawn: a mouth smiles or it does
not, a hat hides all hair. What a part hides or leaves open has no label.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fattr import storage
from fattr.attributes import VOCABULARY
from fattr.datasets.split import (
    SPLITS,
    DatasetSplit,
    check_split,
    malformed,
    parse_csv,
    read_label_file,
)
from fattr.errors import UsageError
from fattr.records import Sample

if TYPE_CHECKING:
    from dicebear import Style

LICENCE = "Avataaars by Pablo Stanley, free for personal and commercial use (avataaars.com)"

_LABELS = "labels.csv"
_IMAGES = "images"
_SMILING = ("smile", "twinkle")
_OPEN = ("smile", "screamOpen", "concerned")
_BEARDS = ("beardLight", "beardMajestic", "beardMedium")  # each with hair on the upper lip
_MOUSTACHES = ("moustacheFancy", "moustacheMagnum")
_GLASSES = ("kurt", "prescription01", "prescription02", "round", "sunglasses", "wayfarers")
_HATS = ("hat", "turban", "winterHat1", "winterHat02", "winterHat03", "winterHat04")
_BALD = "sides"
_HAIR = ("bob", "bun", "curly", "dreads01", "fro", "shortCurly", "shortFlat", "straight01")
_HAIR_COLOURS = {
    "#141210": "black_hair",
    "#e8c65a": "blond_hair",
    "#5b3420": "brown_hair",
    "#b4b4b4": "gray_hair",
    "#d9480f": None,  # red, for which the vocabulary has no word
}
_SKIN_TONES = {"#ffdbb4": "light", "#d08b5b": "medium", "#a0522d": "dark"}
_NAMES = (
    "bald",
    *(name for name in _HAIR_COLOURS.values() if name),
    "eyeglasses",
    "mouth_slightly_open",
    "mustache",
    "no_beard",
    "smiling",
    "wearing_hat",
)
_GROUPS = ("skin_tone", "head")
_OPTIONS = {
    "backgroundColor": ["#b6c7d6", "#e4dccf", "#8aa18c"],
    "skinColor": list(_SKIN_TONES),
    "hairColor": list(_HAIR_COLOURS),
    "facialHairColor": ["#141210"],
    "accessoriesColor": ["#262e33"],
    "hatColor": ["#25557c", "#3c4f5c", "#ff488e"],
    "topVariant": {**dict.fromkeys(_HAIR, 3), **dict.fromkeys(_HATS, 2), _BALD: 8},
    "mouthVariant": [*_SMILING, "screamOpen", "concerned", "serious"],
    "eyesVariant": ["default", "side", "surprised"],
    "accessoriesVariant": list(_GLASSES),
    "accessoriesProbability": 40,
    "facialHairVariant": [*_BEARDS, *_MOUSTACHES],
    "facialHairProbability": 40,
}


def write(root: str | Path, num_images: int, seed: int, *, image_px: int = 224) -> None:
    """Draw ``num_images`` faces and their labels; the same seed draws the same faces.

    Of each ten images, eight are in ``train``, one in ``valid``, one in ``test``.

    Raises:
        UsageError: the packages that draw are not installed.
    """
    faces = _draw(num_images, seed, image_px)
    folder = Path(root)
    (folder / _IMAGES).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str | int]] = []
    for index, (png, drawn) in enumerate(faces):
        file = f"{index:06d}.png"
        (folder / _IMAGES / file).write_bytes(png)
        rows.append({"file": file, "split": _split(index), **_targets(drawn), **_groups(drawn)})
    with (folder / _LABELS).open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, ("file", "split", *_NAMES, *_GROUPS))
        table.writeheader()
        table.writerows(rows)


def read(root: str, split: str) -> DatasetSplit:
    """The faces of ``split``, in the order drawn.

    Groups are ``skin_tone`` and what is on the ``head``, as drawn.

    Raises:
        UsageError: the label file is missing or has another header, or the split is unknown.
    """
    check_split(split)
    uri, text = read_label_file("synthetic", root, _LABELS)
    images = storage.join(storage.canonical_uri(root), _IMAGES)

    def parse(line: int, row: Mapping[str, str]) -> Sample | None:
        if row["split"] not in SPLITS:
            raise malformed(uri, line, f"split must be {', '.join(SPLITS)}: {row['split']!r}")
        return _sample(images, uri, line, row) if row["split"] == split else None

    samples, problems = parse_csv(uri, text, ("file", "split", *_NAMES, *_GROUPS), parse)
    return DatasetSplit(
        name="synthetic",
        split=split,
        attributes=tuple(VOCABULARY[name] for name in _NAMES),
        samples=samples,
        licence=LICENCE,
        research_only=False,
        problems=problems,
    )


def _draw(num_images: int, seed: int, image_px: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """PNG bytes of each face, and the options that were drawn; what is missing is told at once."""
    try:
        import resvg_py
        from dicebear import Avatar

        style = _style()
    except ImportError as err:
        raise UsageError(f"drawing faces needs {err.name}: pip install 'fattr[test]'") from err

    def face(index: int) -> tuple[bytes, dict[str, Any]]:
        drawn = Avatar(style, {**_OPTIONS, "seed": f"{seed}-{index}"}).to_json()
        png = resvg_py.svg_to_bytes(
            svg_string=drawn["svg"], width=image_px, height=image_px, skip_system_fonts=True
        )
        return bytes(png), drawn["options"]

    return map(face, range(num_images))


@functools.cache  # a second to validate
def _style() -> Style:
    from dicebear import Style

    definition = importlib.resources.files("dicebear_styles") / "avataaars.json"
    return Style(json.loads(definition.read_text(encoding="utf-8")))


def _split(index: int) -> str:
    return {8: "valid", 9: "test"}.get(index % 10, "train")


def _targets(drawn: Mapping[str, Any]) -> dict[str, int]:
    """What the options say about each attribute; a moustache alone is no beard."""
    top, mouth, beard = drawn["topVariant"], drawn["mouthVariant"], drawn.get("facialHairVariant")
    return _hair_colours(drawn) | {
        "bald": int(top == _BALD),
        "eyeglasses": int("accessoriesVariant" in drawn),
        "mouth_slightly_open": int(mouth in _OPEN),
        "mustache": int(beard is not None),
        "no_beard": int(beard not in _BEARDS),
        "smiling": int(mouth in _SMILING),
        "wearing_hat": int(top in _HATS),
    }


def _hair_colours(drawn: Mapping[str, Any]) -> dict[str, int]:
    """Each hair colour's label, where there is hair on the top of the head to see."""
    if drawn["topVariant"] not in _HAIR:
        return {}
    colour = _HAIR_COLOURS[drawn["hairColor"][0]]
    return {name: int(name == colour) for name in _HAIR_COLOURS.values() if name}


def _groups(drawn: Mapping[str, Any]) -> dict[str, str]:
    heads = {_BALD: "bald", **dict.fromkeys(_HATS, "hat")}
    return {
        "skin_tone": _SKIN_TONES[drawn["skinColor"][0]],
        "head": heads.get(drawn["topVariant"], "hair"),
    }


def _sample(images: str, uri: str, line: int, row: Mapping[str, str]) -> Sample:
    labels = {name: row[name] for name in _NAMES if row[name]}
    if strange := [name for name, label in labels.items() if label not in ("0", "1")]:
        raise malformed(uri, line, f"{strange[0]} must be 0, 1 or empty: {labels[strange[0]]!r}")
    return Sample(
        storage.join(images, row["file"]),
        {name: int(label) for name, label in labels.items()},
        {column: row[column] for column in _GROUPS},
    )
