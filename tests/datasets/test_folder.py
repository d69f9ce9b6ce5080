from pathlib import Path

import pytest

from fattr import storage
from fattr.attributes import Attribute, Kind, attribute
from fattr.datasets import folder
from fattr.errors import UsageError

MASK = """
licence = "ours"
[attribute]
name = "face_mask"
kind = "categorical"
classes = ["none", "cloth", "surgical"]
sensitive = false
description = "what covers the mouth"
"""


def write(root: Path, mapping: str, *names: str) -> str:
    (root / "fattr.toml").write_text(mapping)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def test_a_declared_attribute(tmp_path):
    root = write(tmp_path, MASK, "test/Cloth/a.jpg", "test/none/b.jpg", "test/scarf/c.jpg")
    test = folder.read(root, "test")
    assert test.attributes == (
        Attribute(
            name="face_mask",
            kind=Kind.CATEGORICAL,
            description="what covers the mouth",
            classes=("none", "cloth", "surgical"),
        ),
    )
    got = {Path(s.image_uri).name: s.targets for s in test.samples}
    assert got == {"a.jpg": {"face_mask": 1}, "b.jpg": {"face_mask": 0}}
    assert test.problems == (
        f"{storage.canonical_uri(root)}/test/scarf: folder 'scarf' is no class of face_mask: "
        "expected none, cloth, surgical",
    )
    assert (test.licence, test.research_only, test.name) == ("ours", False, "folder")


def test_an_attribute_of_the_vocabulary(tmp_path):
    mapping = 'licence = "ours"\nresearch_only = true\n[attribute]\nname = "smiling"\n'
    test = folder.read(write(tmp_path, mapping, "test/TRUE/a.jpg", "test/false/b.jpg"), "test")
    assert test.attributes == (attribute("smiling"),)
    assert [s.targets for s in test.samples] == [{"smiling": 1}, {"smiling": 0}]
    assert test.research_only


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('licence = "ours"', "", "fattr.toml: licence is missing: text expected"),
        ('licence = "ours"', "licence = 3", "licence must be text, got 3"),
        ('licence = "ours"', 'license = "ours"', "unknown key license: did you mean licence?"),
        ('licence = "ours"', 'licence = "', "fattr.toml is not valid TOML: "),
        ('licence = "ours"', 'licence = ""\ntable = ""', "unknown key table: known: licence"),
        ("sensitive = false", "", "[attribute]: sensitive is missing: true or false expected"),
        ("sensitive = false", 'sensitive = "no"', "sensitive must be true or false, got 'no'"),
        ('name = "face_mask"', "", "[attribute]: name is missing"),
        ('"face_mask"', '"face mask"', "attribute name must be snake_case, got 'face mask'"),
        ('"face_mask"', '"smiling"', "smiling is known: leave out kind, description, sensitive"),
        ('"face_mask"', '"race"', "race is never predicted: make it a group column"),
        ('"face_mask"', '"face_px"', "face_px would write a second column face_px: rename it"),
        ('"face_mask"', '"smiling_prob"', "would write a second column smiling_prob"),
        ('"categorical"', '"class"', "kind must be binary, categorical, age, got 'class'"),
        ('"categorical"', '"binary"', "classes are for categorical and age"),
        ('"categorical"', '"age"', "4 bin edges needed"),
        ('["none", "cloth", "surgical"]', "[1, 2]", "classes must be a list of text, got [1, 2]"),
        ('["none", "cloth", "surgical"]', '"none"', "classes must be a list, got 'none'"),
        ("sensitive", 'bin_edges = ["a"]\nsensitive', "bin_edges must be a list of years"),
        ("[attribute]", "[attributes]", "unknown key attributes: did you mean attribute?"),
    ],
)
def test_a_wrong_mapping_file_is_refused_by_name(tmp_path, old, new, message):
    assert old in MASK
    with pytest.raises(UsageError) as caught:
        folder.read(write(tmp_path, MASK.replace(old, new, 1), "test/none/a.jpg"), "test")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{storage.canonical_uri(str(tmp_path))}/fattr.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smilling", "did you mean smiling, or declare its kind"),
        ("zzzz", "unknown attribute zzzz: declare its kind, description and sensitive"),
    ],
)
def test_an_unknown_attribute_without_a_declaration(tmp_path, name, message):
    mapping = f'licence = "ours"\n[attribute]\nname = "{name}"\n'
    with pytest.raises(UsageError, match=message):
        folder.read(write(tmp_path, mapping, "test/none/a.jpg"), "test")


def test_an_attribute_that_is_no_table(tmp_path):
    root = write(tmp_path, 'licence = "ours"\nattribute = "smiling"\n', "true/a.jpg")
    with pytest.raises(UsageError, match=r"fattr.toml: attribute must be a table, got .smiling"):
        folder.read(root, "train")


def test_a_missing_mapping_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"folder: label file expected at file:.*/fattr.toml"):
        folder.read(str(tmp_path), "train")
