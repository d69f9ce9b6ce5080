import builtins
import csv
import io
from pathlib import Path
from urllib.request import url2pathname

import numpy as np
import pytest
from PIL import Image

from fattr.datasets import synthetic
from fattr.errors import UsageError

NUM_IMAGES = 60


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    synthetic.write(folder, NUM_IMAGES, seed=1, image_px=64)
    return folder


def label_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open() as lines:
        return list(csv.DictReader(lines))


def samples(folder: Path, split: str):
    return synthetic.read(str(folder), split).samples


def test_every_image_is_in_one_split(drawn):
    uris = [s.image_uri for split in ("train", "valid", "test") for s in samples(drawn, split)]
    assert [len(samples(drawn, split)) for split in ("train", "valid", "test")] == [48, 6, 6]
    assert len(set(uris)) == NUM_IMAGES
    for uri in uris:
        with Image.open(url2pathname(uri.removeprefix("file://"))) as image:
            assert image.size == (64, 64)


def test_labels_follow_what_a_face_can_show(drawn):
    split = synthetic.read(str(drawn), "train")
    colours = {"black_hair", "blond_hair", "brown_hair", "gray_hair"}
    for sample in split.samples:
        shown = {name for name, value in sample.targets.items() if value}
        head = sample.groups["head"]
        assert (head == "hat") == ("wearing_hat" in shown)
        assert (head == "bald") == ("bald" in shown)
        assert colours & set(sample.targets) == (colours if head == "hair" else set())
        assert len(colours & shown) <= 1
        assert "mustache" in shown or "no_beard" in shown
    for attribute in split.attributes:  # else a test that trains on them learns nothing
        labels = [s.targets[attribute.name] for s in split.samples if attribute.name in s.targets]
        assert 0 < sum(labels) < len(labels), attribute.name


def test_same_seed_draws_the_same_faces(drawn, tmp_path):
    synthetic.write(tmp_path / "same", 3, seed=1, image_px=64)
    synthetic.write(tmp_path / "other", 3, seed=2, image_px=64)
    names = [f"images/{i:06d}.png" for i in range(3)]
    first, same, other = (
        [(folder / name).read_bytes() for name in names]
        for folder in (drawn, tmp_path / "same", tmp_path / "other")
    )
    assert same == first
    assert other != first
    assert label_rows(tmp_path / "same") == label_rows(drawn)[:3]


MOUTH = np.s_[113:142, 90:135]  # rows, columns of a picture of 224 px
EYES = np.s_[70:105, 75:150]
TOP = np.s_[30:50, 85:140]


def pixels(part, **options) -> np.ndarray:
    """A part of one face, drawn with ``options`` and otherwise always the same."""
    import resvg_py
    from dicebear import Avatar

    fixed = {"skinColor": "#ffdbb4", "hairColor": "#141210", "topVariant": "shortFlat"}
    face = {
        **synthetic._OPTIONS,
        "accessoriesProbability": 0,
        "facialHairProbability": 0,
        "mouthVariant": "serious",
        **fixed,
        **options,
    }
    svg = str(Avatar(synthetic._style(), {**face, "seed": "one"}))
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=224, height=224))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int16)[part]


MOUTHS = synthetic._OPTIONS["mouthVariant"]


@pytest.mark.parametrize("mouth", MOUTHS)
def test_an_open_mouth_shows_its_inside(mouth):
    """What the labels call open has tongue or teeth in it; a closed mouth is a dark line."""
    part = pixels(MOUTH, mouthVariant=mouth)
    inside = (part[..., 0] - part[..., 1] > 100) | (part.min(-1) > 240)
    assert bool(inside.sum() > 20) == (mouth in synthetic._OPEN)


@pytest.mark.parametrize("mouth", MOUTHS)
def test_a_smile_is_wider_above_than_below(mouth):
    part = pixels(MOUTH, mouthVariant=mouth)
    is_mouth = np.abs(part - part[0, 0]).max(-1) > 40
    widths = [np.ptp(np.flatnonzero(row)) for row in is_mouth if row.any()]
    half = len(widths) // 2
    is_smile = bool(np.mean(widths[:half]) > 1.1 * np.mean(widths[-half:]))
    assert is_smile == (mouth in synthetic._SMILING)


@pytest.mark.parametrize("glasses", synthetic._GLASSES)
def test_glasses_are_visible(glasses):
    """All are drawn in a dark colour; the style's own pale ones vanish on pale skin."""
    worn = pixels(EYES, accessoriesVariant=glasses, accessoriesProbability=100)
    bare = pixels(EYES)
    assert (np.abs(worn - bare).max(-1) > 60).mean() > 0.05


@pytest.mark.parametrize("colour", synthetic._HAIR_COLOURS)
@pytest.mark.parametrize("top", [*synthetic._HAIR, *synthetic._HATS, synthetic._BALD])
def test_hair_colour_shows_exactly_where_it_is_labelled(top, colour):
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    part = pixels(TOP, topVariant=top, hairColor=colour)
    is_seen = bool((np.abs(part - wanted).max(-1) < 8).mean() > 0.05)
    assert is_seen == (top in synthetic._HAIR)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("smiling", "yes", "line 2: smiling must be 0, 1 or empty: 'yes'"),
        ("split", "val", "line 2: split must be train, valid, test: 'val'"),
    ],
)
def test_malformed_labels_are_listed(drawn, tmp_path, column, value, message):
    first, second = label_rows(drawn)[:2]
    rows = [first, first | {column: value}, second]
    text = "\n".join(",".join(cells) for cells in (first.keys(), *(r.values() for r in rows[1:])))
    (tmp_path / "labels.csv").write_text(text)
    train = synthetic.read(str(tmp_path), "train")
    assert [Path(sample.image_uri).name for sample in train.samples] == [second["file"]]
    assert [problem.partition(", ")[2] for problem in train.problems] == [message]


def test_a_header_without_an_attribute_is_refused(drawn, tmp_path):
    names = [name for name in label_rows(drawn)[0] if name != "smiling"]
    (tmp_path / "labels.csv").write_text(",".join(names))
    with pytest.raises(UsageError, match="line 1: header lacks smiling"):
        synthetic.read(str(tmp_path), "train")


@pytest.mark.parametrize("package", ["dicebear", "resvg_py"])
def test_without_the_drawing_packages_the_remedy_is_told(monkeypatch, tmp_path, package):
    real_import = builtins.__import__

    def import_all_but_one(name, *args, **kwargs):
        if name == package:
            raise ModuleNotFoundError(name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_all_but_one)
    with pytest.raises(UsageError, match=rf"needs {package}: pip install 'fattr\[test\]'"):
        synthetic.write(tmp_path / "new", 1, seed=0)
    assert not (tmp_path / "new").exists()
