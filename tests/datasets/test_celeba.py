from pathlib import Path

import pytest

from fattr import storage
from fattr.attributes import CELEBA40
from fattr.datasets import read_dataset
from fattr.datasets.celeba import read
from fattr.errors import UsageError

CELEBA = Path(__file__).parents[3] / "shared/data/celeba"
PGP = "perceived_gender_presentation"

HEADER = "5_o_Clock_Shadow Eyeglasses Male Young"
ROWS = ("a.jpg  1 -1  1 -1", "b.jpg -1  1 -1  1", "c.jpg -1 -1 -1 -1")
PARTITION = "a.jpg 0\nb.jpg 1\nc.jpg 0\n"


def write_celeba(
    root: Path, *, rows=ROWS, header=HEADER, count: object = None, partition=PARTITION
) -> str:
    lines = [str(len(rows) if count is None else count), header, *rows, ""]
    (root / "list_attr_celeba.txt").write_text("\n".join(lines))
    (root / "list_eval_partition.txt").write_text(partition)
    return str(root)


def test_celeba_words_become_ours(tmp_path):
    train = read(write_celeba(tmp_path), "train")
    a, c = train.samples
    names = ["five_o_clock_shadow", "eyeglasses", PGP, "young"]
    assert [attribute.name for attribute in train.attributes] == names
    assert a.targets == {"five_o_clock_shadow": 1, "eyeglasses": 0, PGP: 1, "young": 0}
    assert c.targets == dict.fromkeys(names, 0)
    assert a.groups == {PGP: "masculine", "young": "false"}
    assert c.groups == {PGP: "feminine", "young": "false"}
    images = f"{storage.canonical_uri(str(tmp_path))}/img_align_celeba"
    assert [sample.image_uri for sample in train.samples] == [f"{images}/a.jpg", f"{images}/c.jpg"]
    assert (train.name, train.split, train.research_only) == ("celeba", "train", True)
    assert "non-commercial" in train.licence


def test_every_name_of_celebas_header_is_known(tmp_path):
    header = (
        "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
        "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses "
        "Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache "
        "Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks "
        "Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick "
        "Wearing_Necklace Wearing_Necktie Young"
    )
    rows = ("a.jpg" + " 1" * 40,)
    split = read(write_celeba(tmp_path, header=header, rows=rows, partition="a.jpg 2\n"), "test")
    assert split.attributes == CELEBA40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"header": "Male Moustache"}, "line 2: 'Moustache' is none of CelebA's 40"),
        ({"header": "Male Age"}, "line 2: 'Age' is none"),
        ({"count": 7}, "line 1: announces 7 images, the file has 3"),
        ({"count": HEADER}, "line 1: expected the number of images"),
        ({"partition": "a.jpg 1\n"}, "split 'train' holds no image"),
    ],
)
def test_malformed_files_are_refused_by_name_and_line(tmp_path, change, message):
    with pytest.raises(UsageError, match=message.replace("'", ".")):
        read(write_celeba(tmp_path, **change), "train")


def test_all_malformed_rows_of_a_split_are_listed_and_left_out(tmp_path):
    rows = ("a.jpg 1 -1 1", "b.jpg 1 0 1 1", ROWS[2], "d.jpg -1 -1 -1 2", "e.jpg")
    partition = "a.jpg 0\nb.jpg 1\nc.jpg 0\nd.jpg 0\nz.jpg 0\ne.jpg 3\nf.jpg\n"
    root = write_celeba(tmp_path, rows=rows, partition=partition)
    uri = storage.canonical_uri(root)
    bad_partition = [
        f"{uri}/list_eval_partition.txt, line {line}: expected an image and 0 (train), 1 (valid) "
        "or 2 (test)"
        for line in (6, 7)
    ]
    train = read(root, "train")
    assert [sample.image_uri.rpartition("/")[2] for sample in train.samples] == ["c.jpg"]
    assert list(train.problems) == [
        *bad_partition,
        f"{uri}/list_attr_celeba.txt, line 3: expected 4 labels, got 3",
        f"{uri}/list_attr_celeba.txt, line 6: expected -1 or 1, got '2'",
        f"{uri}/list_eval_partition.txt, line 5: list_attr_celeba.txt has no line for z.jpg",
    ]
    valid = read(root, "valid")  # nothing but problems: the report must not hide behind an error
    assert valid.samples == ()
    assert valid.problems[-1] == f"{uri}/list_attr_celeba.txt, line 4: expected -1 or 1, got '0'"


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
def test_a_missing_label_file_is_named(tmp_path, name):
    root = write_celeba(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(
        UsageError, match=f"celeba: label file expected at file:///.*/{name}"
    ) as err:
        read(root, "train")
    assert "\n" not in str(err.value)


def test_a_label_file_that_is_no_text_is_refused(tmp_path):
    root = write_celeba(tmp_path)
    (tmp_path / "list_attr_celeba.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UsageError, match=r"list_attr_celeba.txt must be UTF-8 text"):
        read(root, "train")


def test_windows_line_ends_change_nothing(tmp_path):
    root = write_celeba(tmp_path)
    want = read(root, "train")
    for name in ("list_attr_celeba.txt", "list_eval_partition.txt"):
        text = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(text.replace(b"\n", b"\r\n"))
    assert read(root, "train") == want


@pytest.mark.parametrize(
    ("spec", "split", "message"),
    [
        ("celeba", "train", "NAME:DIR"),
        ("celeba:", "train", "NAME:DIR"),
        ("celebA:/data", "train", "did you mean .celeba."),
        (
            "imagenet:/data",
            "train",
            "known: celeba, lfwa, fairface, utkface, emotion, folder, table, synthetic",
        ),
        ("celeba:/data", "val", "expected one of train, valid, test"),
    ],
)
def test_a_wrong_request_says_what_is_right(spec, split, message):
    with pytest.raises(UsageError, match=message):
        read_dataset(spec, split)


def test_spec_is_split_at_its_first_colon(tmp_path):
    uri = storage.canonical_uri(write_celeba(tmp_path))
    assert read_dataset(f"celeba:{uri}", "valid") == read(str(tmp_path), "valid")


@pytest.mark.skipif(not CELEBA.is_dir(), reason="needs CelebA in ../shared/data/celeba")
def test_real_celeba():
    splits = {split: read(str(CELEBA), split) for split in ("train", "valid", "test")}
    assert [len(split.samples) for split in splits.values()] == [6400, 800, 800]
    by_uri = {s.image_uri: s for split in splits.values() for s in split.samples}
    assert len(by_uri) == 8000
    lines = (CELEBA / "list_attr_celeba.txt").read_text().splitlines()
    male, no_beard = lines[1].split().index("Male"), lines[1].split().index("No_Beard")
    images = storage.canonical_uri(str(CELEBA / "img_align_celeba"))
    for line in lines[2::97]:
        name, *values = line.split()
        sample = by_uri[f"{images}/{name}"]
        assert (sample.groups[PGP] == "masculine") == (values[male] == "1")
        assert sample.targets["no_beard"] == (int(values[no_beard]) + 1) // 2
    # Were the polarity of either flipped, beards would be on feminine faces.
    bearded = [s for s in by_uri.values() if not s.targets["no_beard"]]
    assert sum(s.groups[PGP] == "masculine" for s in bearded) > 0.95 * len(bearded)
