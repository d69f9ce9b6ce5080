from pathlib import Path

import pytest

from fattr import storage
from fattr.attributes import EMOTION
from fattr.datasets import emotion
from fattr.errors import UsageError


def touch(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def shown(root: str, split: str) -> dict[str, str]:
    """Expression by path below the root."""
    samples = emotion.read(root, split).samples
    return {
        storage.relative_path(s.image_uri, root): EMOTION.classes[s.targets["emotion"]]
        for s in samples
    }


@pytest.mark.parametrize(
    ("folder", "expression"),
    [
        ("angry", "anger"),
        ("Anger", "anger"),
        ("DISGUST", "disgust"),
        ("disgusted", "disgust"),
        ("fear", "fear"),
        ("fearful", "fear"),
        ("happy", "happiness"),
        ("Happiness", "happiness"),
        ("sad", "sadness"),
        ("surprise", "surprise"),
        ("surprised", "surprise"),
        ("neutral", "neutral"),
        ("Contempt", "contempt"),
        # RAF-DB's own list: 1 Surprise 2 Fear 3 Disgust 4 Happiness 5 Sadness 6 Anger 7 Neutral
        ("1", "surprise"),
        ("2", "fear"),
        ("3", "disgust"),
        ("4", "happiness"),
        ("5", "sadness"),
        ("6", "anger"),
        ("7", "neutral"),
    ],
)
def test_a_folder_names_the_expression(tmp_path, folder, expression):
    root = touch(tmp_path, f"test/{folder}/a.jpg", f"test/{folder}/sub/b.png")
    assert set(shown(root, "test").values()) == {expression}
    assert len(shown(root, "test")) == 2


def test_it_is_sensitive_research_only_and_no_feeling(tmp_path):
    test = emotion.read(touch(tmp_path, "test/sad/a.jpg"), "test")
    assert test.attributes == (EMOTION,)
    assert EMOTION.sensitive
    assert "not what a person feels" in EMOTION.description
    assert test.research_only


def test_unknown_folders_are_problems_once_each(tmp_path):
    root = touch(
        tmp_path, "test/sad/a.jpg", "test/tired/a.jpg", "test/tired/b.jpg", "test/x y/a.jpg"
    )
    test = emotion.read(root, "test")
    assert len(test.samples) == 1
    uri = storage.canonical_uri(root)
    expected = (
        "is no class of emotion: expected neutral, happiness, sadness, surprise, fear, disgust"
    )
    assert [problem.partition(", anger")[0] for problem in test.problems] == [
        f"{uri}/test/tired: folder 'tired' {expected}",
        f"{uri}/test/x%20y: folder 'x y' {expected}",
    ]


def test_numbers_that_are_not_raf_dbs_are_all_refused(tmp_path):
    root = touch(tmp_path, *(f"test/{i}/a.jpg" for i in range(7)), "test/sad/a.jpg")
    test = emotion.read(root, "test")
    assert [s.targets["emotion"] for s in test.samples] == [EMOTION.classes.index("sadness")]
    assert len(test.problems) == 7


def test_official_folders_decide_and_valid_is_cut_from_train_only_where_it_has_none(tmp_path):
    train = [f"Train/happy/{i}.jpg" for i in range(200)]
    root = touch(tmp_path, *train, "Test/happy/a.jpg", "Test/sad/a.jpg", "README.md", "Train/x.csv")
    parts = {split: shown(root, split) for split in ("train", "valid", "test")}
    assert set(parts["test"]) == {"Test/happy/a.jpg", "Test/sad/a.jpg"}
    assert set(parts["train"]) | set(parts["valid"]) == set(train)
    assert not set(parts["train"]) & set(parts["valid"])
    assert 5 < len(parts["valid"]) < 40
    touch(tmp_path, "val/sad/b.jpg")
    assert set(shown(root, "valid")) == {"val/sad/b.jpg"}
    assert set(shown(root, "train")) == set(train)


def test_without_split_folders_a_hash_decides(tmp_path):
    names = [f"{folder}/{i}.jpg" for folder in ("happy", "test") for i in range(100)]
    root = touch(tmp_path, *(name.replace("test", "sad") for name in names))
    parts = [set(shown(root, split)) for split in ("train", "valid", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 200
    assert len(parts[0]) > 130
    assert min(map(len, parts)) > 5


def test_images_outside_the_folders_of_classes_are_a_problem(tmp_path):
    root = touch(tmp_path, "test/sad/a.jpg", "test/loose.JPG", "test/notes.txt", "train/sad/a.jpg")
    touch(tmp_path, *(f"happy/{i}.jpg" for i in range(50)))
    uri = storage.canonical_uri(root)
    outside = "images outside the folders of classes; move or remove them"
    assert emotion.read(root, "test").problems == (
        f"{uri}/happy: {outside}",
        f"{uri}/test: {outside}",
    )
    assert set(shown(root, "test")) == {"test/sad/a.jpg"}


def test_a_bucket_has_the_same_splits(s3_bucket, tmp_path):
    names = [f"sad/{i} #.jpg" for i in range(40)]
    root = touch(tmp_path, *names)
    for name in names:
        storage.write_bytes(f"{s3_bucket}/set/{name}", b"")
    for split in ("train", "valid"):
        assert shown(f"{s3_bucket}/set", split) == shown(root, split)


def test_a_split_without_images_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"emotion: split .test. holds no image"):
        emotion.read(touch(tmp_path, "train/sad/a.jpg"), "test")
