from pathlib import Path

import pytest

from fattr import storage
from fattr.attributes import AGE
from fattr.datasets import utkface
from fattr.errors import UsageError

PGP = "perceived_gender_presentation"


def touch(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def all_splits(root: str):
    """Samples by file name and problems of the whole data set."""
    samples, problems = {}, []
    for split in ("train", "valid", "test"):
        try:
            found = utkface.read(root, split)
        except UsageError as err:
            assert "holds no image" in str(err)  # noqa: PT017  small splits may be empty
            continue
        samples |= {sample.image_uri.rpartition("/")[2]: sample for sample in found.samples}
        problems += found.problems
    return samples, problems


@pytest.mark.parametrize(
    ("name", "age", "gender", "race"),
    [
        ("1_0_0_20161219140623097.jpg.chip.jpg", "0-2", "masculine", "White"),
        ("26_1_1_20170116174525125.jpg", "20-29", "feminine", "Black"),
        ("9_1_2_20170116174525125.JPG", "3-9", "feminine", "Asian"),
        ("116_0_3_20170120134921760.jpg.chip.jpg", "70+", "masculine", "Indian"),
        ("24_0_4_20170116220224657%20.jpg.chip.jpg", "20-29", "masculine", "Others"),
        ("55_0_0_20170116232725357jpg.chip.jpg", "50-59", "masculine", "White"),
    ],
)
def test_labels_are_in_the_name(tmp_path, name, age, gender, race):
    samples, problems = all_splits(touch(tmp_path, name.replace("%20", " ")))
    assert problems == []
    assert samples[name].groups == {"race": race, PGP: gender, "age": age}
    assert AGE.classes[samples[name].targets["age"]] == age
    assert samples[name].targets[PGP] == ("feminine", "masculine").index(gender)
    assert set(samples[name].targets) == {"age", PGP}  # race is no target


@pytest.mark.parametrize(
    "name",
    [
        "39_1_20170116174525125.jpg.chip.jpg",
        "61_1_20170109150557335.jpg",
        "53__0_20170116184028385.jpg",
        "117_1_2_20170116174525125.jpg",
        "30_2_0_20170116174525125.jpg",
        "30_1_5_20170116174525125.jpg",
        "photo.jpg",
    ],
)
def test_a_damaged_name_is_a_problem_and_nothing_is_guessed(tmp_path, name):
    root = touch(tmp_path, name, "part1/20_0_0_20170116174525125.jpg")
    samples, (problem,) = all_splits(root)
    assert list(samples) == ["20_0_0_20170116174525125.jpg"]
    assert problem == (
        f"{storage.canonical_uri(root)}/{name}: the name must be age_gender_race_time.jpg, "
        "age 0 to 116, gender 0 or 1, race 0 to 4; rename or remove it"
    )


def test_splits_do_not_depend_on_the_folder_and_keep_a_picture_with_its_crop(tmp_path):
    names = [f"{i % 100}_0_0_2017011617452{i:04d}.jpg" for i in range(300)]
    touch(tmp_path / "a", *names, "README.txt", "landmark_list_part1.txt")
    touch(tmp_path / "b/part1", *(f"{name}.chip.jpg" for name in names[:150]))
    touch(tmp_path / "b/part2", *(f"{name}.chip.jpg" for name in names[150:]))
    sizes = []
    for split in ("train", "valid", "test"):
        a, b = (
            {s.image_uri.rpartition("/")[2] for s in utkface.read(str(tmp_path / x), split).samples}
            for x in "ab"
        )
        assert b == {f"{name}.chip.jpg" for name in a}
        sizes.append(len(a))
    assert sum(sizes) == 300
    assert sizes[0] > 210


def test_a_file_is_no_data_set(tmp_path):
    root = touch(tmp_path, "20_0_0_20170116174525125.jpg")
    with pytest.raises(UsageError, match=r"utkface: a folder of images expected, file:///.*is a"):
        utkface.read(f"{root}/20_0_0_20170116174525125.jpg", "train")
    with pytest.raises(UsageError, match="cannot list"):
        utkface.read(f"{root}/nowhere", "train")
