import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fattr import storage
from fattr.attributes import Attribute, Kind, attribute
from fattr.crop import central_crop, named_rule
from fattr.datasets import read_dataset, read_image, table
from fattr.datasets.split import hashed_split, in_valid_tenth
from fattr.errors import UsageError
from fattr.labelled_crops import labelled_crops

PGP = "perceived_gender_presentation"
MAPPING = """
table = "labels/t.csv"
image = "file"
split = "part"
licence = "ours"

[labels.perceived_gender_presentation]
column = "sex"
values = { Male = "masculine", Female = "feminine", "?" = "" }

[labels.smiling]

[labels.age]
column = "years"

[labels.face_mask]
kind = "categorical"
classes = ["none", "cloth"]
sensitive = false
description = "what covers the mouth"

[groups]
race = "origin"
"""
HEADER = ("file", "part", "sex", "smiling", "years", "face_mask", "origin")
ROW = ("a.jpg", "test", "Male", "true", "34", "cloth", "x")


def write(root: Path, *rows: tuple[str, ...], mapping: str = MAPPING, header=HEADER) -> str:
    (root / "labels").mkdir(exist_ok=True)
    (root / "fattr.toml").write_text(mapping)
    with (root / "labels/t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(root)


def test_cells_become_targets_and_groups(tmp_path):
    rows = [
        ROW,
        ("sub/b.jpg", "TEST", "Female", "0", "70.5", "NONE", ""),
        ("/other/c.jpg", "test", "?", "", "3-9", "", "y"),
        ("d.jpg", "train", "Male", "1", "1", "cloth", "z"),
        ("e.jpg", "val", "", "", "", "", ""),
    ]
    root = write(tmp_path, *rows)
    test = read_dataset(f"table:{root}", "test")
    a, b, c = test.samples
    assert a.targets == {PGP: 1, "smiling": 1, "age": 4, "face_mask": 1}
    assert b.targets == {PGP: 0, "smiling": 0, "age": 8, "face_mask": 0}
    assert c.targets == {"age": 1}
    assert [sample.groups for sample in test.samples] == [{"race": "x"}, {}, {"race": "y"}]
    uri = storage.canonical_uri(root)
    assert [sample.image_uri for sample in test.samples] == [
        f"{uri}/labels/a.jpg",
        f"{uri}/labels/sub/b.jpg",
        "file:///other/c.jpg",
    ]
    assert test.problems == ()
    mask = Attribute(
        name="face_mask",
        kind=Kind.CATEGORICAL,
        description="what covers the mouth",
        classes=("none", "cloth"),
    )
    assert test.attributes == (attribute(PGP), attribute("smiling"), attribute("age"), mask)
    assert (test.licence, test.research_only) == ("ours", False)
    assert [s.targets["age"] for s in table.read(root, "train").samples] == [0]
    assert table.read(f"{root}/fattr.toml", "valid").samples[0].targets == {}


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("file", " ", "file names no image"),
        ("file", "http://u:p@host/a.jpg", "http://host/a.jpg cannot be used"),
        ("part", "dev", "part 'dev' is no split"),
        ("part", "", "part '' is no split"),
        ("sex", "male", "sex 'male' is none of Male, Female, ?"),
        ("sex", "masculine", "sex 'masculine' is none of Male"),
        ("smiling", "yes", "smiling 'yes' is none of false, true"),
        ("years", "-3", "years '-3' is none of 0-2, 3-9"),
        ("face_mask", "scarf", "face_mask 'scarf' is none of none, cloth"),
    ],
)
def test_an_unknown_value_is_a_problem_of_its_row(tmp_path, column, value, problem):
    bad = tuple(value if name == column else cell for name, cell in zip(HEADER, ROW, strict=True))
    root = write(tmp_path, ROW, bad, ("b.jpg", *ROW[1:]))
    test = table.read(root, "test")
    assert [sample.image_uri[-5:] for sample in test.samples] == ["a.jpg", "b.jpg"]
    (found,) = test.problems
    assert found.startswith(f"{storage.canonical_uri(root)}/labels/t.csv, line 3: {problem}")


def test_all_problems_are_in_one_report(tmp_path):
    row = ("a.jpg", "test", "X", "", "", "", "")
    root = write(tmp_path, row, ROW[:3], row, ROW)
    test = table.read(root, "test")
    assert sorted(problem.rpartition("/labels/")[2] for problem in test.problems) == [
        "t.csv, line 2: sex 'X' is none of Male, Female, ?",
        "t.csv, line 3: expected 7 cells, as in the header",
        "t.csv, line 4: sex 'X' is none of Male, Female, ?",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('table = "labels/t.csv"', "", "fattr.toml: table is missing: text expected"),
        ('table = "labels/t.csv"', 'table = "fattr.toml"', ": a .csv or .parquet file expected"),
        ('table = "labels/t.csv"', 'table = "no.csv"', "cannot list"),
        ('image = "file"', "", "one of image and image_bytes expected"),
        ('image = "file"', 'image = "file"\nimage_bytes = "b"', "one of image and image_bytes"),
        ('image = "file"', 'image_bytes = "file"', "image_bytes is for Parquet"),
        ('image = "file"', 'image = "path"', "t.csv, line 1: header lacks path"),
        ('split = "part"', "split = 1", "split must be text, got 1"),
        ('licence = "ours"', "", "licence is missing"),
        ('"masculine"', '"man"', "labels.perceived_gender_presentation]: values: 'man' is none of"),
        ('"masculine"', "[1]", "labels.perceived_gender_presentation.values]: Male must be text"),
        ('column = "years"', 'col = "years"', "[labels.age]: unknown key col: did you mean column"),
        ("[labels.smiling]", "[labels.smilling]", "unknown attribute smilling: did you mean"),
        ("[labels.face_mask]", "[labels.ethnicity]", "ethnicity is never predicted"),
        ('race = "origin"', "race = []", "[groups]: race must be text"),
        ('race = "origin"', 'race = "nothing"', "line 1: header lacks nothing"),
    ],
)
def test_a_wrong_mapping_is_refused(tmp_path, old, new, message):
    assert old in MAPPING
    with pytest.raises(UsageError) as caught:
        table.read(write(tmp_path, ROW, mapping=MAPPING.replace(old, new, 1)), "test")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_needs_labels(tmp_path):
    mapping = 'table = "labels/t.csv"\nimage = "file"\nlicence = ""\n'
    with pytest.raises(UsageError, match=r"fattr.toml: no labels: one \[labels.ATTRIBUTE\]"):
        table.read(write(tmp_path, ROW, mapping=mapping), "test")


SMALL = 'table = "labels/t.csv"\nimage = "file"\nlicence = ""\n{}\n[labels.smiling]\n'


def split_names(root: str, split: str) -> set[str]:
    folder = f"{storage.canonical_uri(root)}/labels"
    return {storage.relative_path(s.image_uri, folder) for s in table.read(root, split).samples}


def test_without_a_split_column_the_path_decides(tmp_path):
    files = [f"100% sub/{i}.jpg" for i in range(100)]
    root = write(
        tmp_path, *((f, "1") for f in files), mapping=SMALL.format(""), header=("file", "smiling")
    )
    for split in ("train", "valid", "test"):
        assert split_names(root, split) == {f for f in files if hashed_split(f) == split}


def test_the_subject_decides_where_one_is_named(tmp_path):
    rows = [(f"{i}.jpg", f"person {i // 4}", "1") for i in range(200)] + [("x.jpg", "", "1")]
    mapping = SMALL.format('subject = "who"')
    root = write(tmp_path, *rows, mapping=mapping, header=("file", "who", "smiling"))
    for split in ("train", "valid", "test"):
        wanted = {f for f, who, _ in rows if hashed_split(who or f) == split}
        assert split_names(root, split) == wanted


def test_valid_is_cut_from_train_where_the_column_has_none(tmp_path):
    rows = [(f"{i}.jpg", "test" if i < 20 else "training", "1") for i in range(120)]
    mapping, header = SMALL.format('split = "part"'), ("file", "part", "smiling")
    root = write(tmp_path, *rows, mapping=mapping, header=header)
    train = [f for f, _, _ in rows[20:]]
    assert split_names(root, "test") == {f for f, _, _ in rows[:20]}
    assert split_names(root, "valid") == {f for f in train if in_valid_tenth(f)}
    assert split_names(root, "train") == {f for f in train if not in_valid_tenth(f)}
    root = write(tmp_path, *rows, ("v.jpg", "val", "1"), mapping=mapping, header=header)
    assert split_names(root, "valid") == {"v.jpg"}
    assert split_names(root, "train") == set(train)


# Parquet

PARQUET = """
table = "parts"
image_bytes = "image"
licence = "ours"
[labels.smiling]
[labels.age]
[labels.perceived_gender_presentation]
column = "gender"
values = { 0 = "masculine", 1 = "feminine" }
"""


def png(red: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.full((40, 30, 3), 9, np.uint8)
    pixels[..., 0] = red
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def parquet_root(tmp_path) -> str:
    """Two files of 60 images, the red of each its number."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/notes.txt").touch()
    (tmp_path / "fattr.toml").write_text(PARQUET)
    for part in range(2):
        numbers = range(part * 60, part * 60 + 60)
        columns = {
            "image": pa.array([{"bytes": png(i), "path": f"{i}.png"} for i in numbers]),
            "smiling": pa.array([[None, True, False][i % 3] for i in numbers]),
            "age": pa.array([float(i) if i % 2 else float("nan") for i in numbers]),
            "gender": pa.array([0.0 if i % 5 else None for i in numbers]),  # as pandas writes gaps
        }
        pq.write_table(pa.table(columns), tmp_path / f"parts/{part}.parquet", row_group_size=7)
    return str(tmp_path)


def test_images_in_parquet_keep_their_labels(parquet_root):
    seen = Counter()
    for split in ("train", "valid", "test"):
        for sample in table.read(parquet_root, split).samples:
            with Image.open(io.BytesIO(read_image(sample.image_uri))) as image:
                i = image.getpixel((0, 0))[0]
            seen[i] += 1
            years = {"age": attribute("age").target_of(str(i))} if i % 2 else {}
            smiling = {} if i % 3 == 0 else {"smiling": i % 3 % 2}
            assert sample.targets == smiling | years | ({PGP: 1} if i % 5 else {})
    assert seen == Counter(range(120))


def test_crops_are_cut_from_images_in_parquet(parquet_root):
    samples = table.read(parquet_root, "test").samples
    rule = named_rule("celeba", (32, 26))
    got = labelled_crops(
        samples,
        (attribute("smiling"),),
        rule,
        detector=None,
        num_threads=4,
        progress=lambda items: items,
    )
    for sample, crop in zip(samples, got.crops, strict=True):
        with Image.open(io.BytesIO(read_image(sample.image_uri))) as image:
            np.testing.assert_array_equal(crop, central_crop(np.asarray(image), rule))


def test_a_parquet_table_of_paths_in_a_bucket(s3_bucket):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"file": ["a b.jpg", None], "smiling": [1, 0]}), buffer)
    storage.write_bytes(f"{s3_bucket}/set/t.parquet", buffer.getvalue())
    mapping = 'table = "t.parquet"\nimage = "file"\nlicence = ""\n[labels.smiling]\n'
    storage.write_bytes(f"{s3_bucket}/set/fattr.toml", mapping.encode())
    found = table.read(f"{s3_bucket}/set", hashed_split("a b.jpg"))
    assert [s.image_uri for s in found.samples] == [f"{s3_bucket}/set/a b.jpg"]
    assert found.problems == (f"{s3_bucket}/set/t.parquet, row 1: file names no image",)


def test_a_table_may_name_cells_of_parquet_files(parquet_root, tmp_path):
    """The images of another table, as their URIs have it; a path is no URI, whatever it holds."""
    named = {
        split: [sample.image_uri for sample in table.read(parquet_root, split).samples]
        for split in ("train", "valid", "test")
    }
    plain = "a.parquet#row=1&column=image"
    rows = [(uri, split, "1") for split, uris in named.items() for uri in uris]
    mapping, header = SMALL.format('split = "part"'), ("file", "part", "smiling")
    (tmp_path / "other").mkdir()
    root = write(
        tmp_path / "other",
        *rows,
        (plain, "valid", "0"),
        ("s3://bucket/a b.parquet#row=1&column=x%26y", "valid", "0"),
        ("file:///a.parquet#row=1", "valid", "0"),
        mapping=mapping,
        header=header,
    )
    for split, uris in named.items():
        found = [sample.image_uri for sample in table.read(root, split).samples]
        assert found[: len(uris)] == uris
    assert read_image(found[0])[1:4] == b"PNG"
    others = [s.image_uri for s in table.read(root, "valid").samples[len(named["valid"]) :]]
    assert others == [
        f"{storage.canonical_uri(root)}/labels/a.parquet%23row=1&column=image",
        "s3://bucket/a b.parquet#row=1&column=x%26y",
        "file:///a.parquet%23row=1",
    ]


def test_a_parquet_table_without_a_column_is_refused(parquet_root):
    path = Path(parquet_root) / "fattr.toml"
    path.write_text(PARQUET.replace('"image"', '"picture"'))
    with pytest.raises(UsageError, match=r"0.parquet lacks the columns picture: it has image, "):
        table.read(parquet_root, "test")
    (Path(parquet_root) / "parts/0.parquet").write_bytes(b"a,b")
    with pytest.raises(UsageError, match=r"0.parquet is not a sound Parquet file"):
        table.read(parquet_root, "test")


def test_classes_that_a_mirror_swaps(tmp_path):
    declared = '[labels.facing]\nkind = "categorical"\nclasses = ["left", "front", "right"]\n'
    declared += 'mirrored = ["right", "front", "left"]\nsensitive = false\ndescription = "nose"\n'
    mapping = f'table = "labels/t.csv"\nimage = "file"\nsplit = "part"\nlicence = "o"\n{declared}'
    root = write(
        tmp_path, ("a.jpg", "test", "left"), mapping=mapping, header=("file", "part", "facing")
    )
    [facing] = table.read(root, "test").attributes
    assert facing.mirrored == (2, 1, 0)
    write(tmp_path, mapping=mapping.replace('"right", "front", "left"]', '"right", "up"]'))
    with pytest.raises(UsageError, match="mirrored must name a class for each class, got 'up'"):
        table.read(root, "test")
    write(
        tmp_path,
        mapping=mapping.replace('"right", "front", "left"]\ns', '"right", "right", "left"]\ns'),
    )
    with pytest.raises(UsageError, match="mirrored must hold each class once"):
        table.read(root, "test")
