import builtins
from pathlib import Path

import numpy as np
import pytest

from fattr import storage
from fattr.attributes import CELEBA40
from fattr.datasets import lfwa
from fattr.datasets.split import in_valid_tenth
from fattr.errors import UsageError

PGP = "perceived_gender_presentation"
PEOPLE = [f"First{i}_Last" for i in range(60)]
IMAGES = [f"{person}\\{person}_{i:04d}.jpg" for person in PEOPLE for i in (1, 2)]
TRAIN = IMAGES[:80]


def labels(num_attributes: int) -> np.ndarray:
    """0 or 1, for each image and attribute."""
    return np.random.default_rng(0).integers(0, 2, (len(IMAGES), num_attributes))


def put_image(root: Path, folder: str = "lfw", *, image: str = IMAGES[0]) -> None:
    path = root / folder / image.replace("\\", "/")
    path.parent.mkdir(parents=True)
    path.touch()


def write_text(root: Path, *, codes: dict[str, str], false: str = "-1") -> str:
    rows = [
        f"{image} " + " ".join("1" if label else false for label in row)
        for image, row in zip(IMAGES, labels(3), strict=True)
    ]
    head = [str(len(rows)), "Male Smiling Young"]
    (root / "list_attr_lfwa.txt").write_text("\n".join([*head, *rows]))
    partition = "".join(f"{image} {code}\n" for image, code in codes.items())
    (root / "list_eval_partition.txt").write_text(partition)
    return str(root)


def write_matlab(root: Path) -> str:
    """The published files as MATLAB 7.3 writes them: HDF5 behind 512 bytes, transposed."""
    h5py = pytest.importorskip("h5py", reason="reading LFWA's .mat files needs h5py")

    def cells(file, name, texts):
        refs = [
            file.create_dataset(f"#refs#/{name}{i}", data=np.array([[ord(c)] for c in text], "u2"))
            for i, text in enumerate(texts)
        ]
        file[name] = np.array([[ref.ref for ref in refs]], h5py.ref_dtype)

    headers = {"five_o_clock_shadow": "5 o Clock Shadow", PGP: "Male"}
    with h5py.File(root / "lfw_att_40.mat", "w", userblock_size=512) as file:
        cells(file, "name", IMAGES)
        cells(file, "AttrName", [headers.get(a.name, a.name.title()) for a in CELEBA40])
        file["label"] = labels(40).T.astype(float)
    with h5py.File(root / "indices_train_test.mat", "w", userblock_size=512) as file:
        file["indices_img_train"] = np.arange(1.0, 81)[None]
        file["indices_img_test"] = np.arange(81.0, len(IMAGES) + 1)[:, None]
    return str(root)


def names(root: str, split: str) -> list[str]:
    return [s.image_uri.rpartition("/lfw/")[2] for s in lfwa.read(root, split).samples]


def posix(images: list[str]) -> set[str]:
    return {image.replace("\\", "/") for image in images}


def subjects(images: list[str]) -> set[str]:
    return {image.partition("/")[0] for image in images}


@pytest.mark.parametrize("layout", ["text", "matlab"])
def test_valid_is_a_tenth_of_the_people_of_train(tmp_path, layout):
    put_image(tmp_path)
    codes = {image: "0" if image in TRAIN else "2" for image in IMAGES}
    root = write_matlab(tmp_path) if layout == "matlab" else write_text(tmp_path, codes=codes)
    train, valid, test = (names(root, split) for split in ("train", "valid", "test"))
    assert set(test) == posix(IMAGES) - posix(TRAIN)
    assert set(train) | set(valid) == posix(TRAIN)
    assert not subjects(train) & subjects(valid)
    assert subjects(valid) == {person for person in PEOPLE[:40] if in_valid_tenth(person)}


@pytest.mark.parametrize("layout", ["text", "zeros", "matlab"])
def test_labels_are_those_of_their_image(tmp_path, layout):
    put_image(tmp_path, image=TRAIN[0] if layout == "matlab" else IMAGES[-1])
    codes = dict.fromkeys(reversed(IMAGES), "2")
    if layout == "matlab":
        split, wanted = lfwa.read(write_matlab(tmp_path), "test"), labels(40)
        assert split.attributes == CELEBA40
    else:
        false = {"zeros": "0", "text": "-1"}[layout]
        split, wanted = lfwa.read(write_text(tmp_path, codes=codes, false=false), "test"), labels(3)
        assert [a.name for a in split.attributes] == [PGP, "smiling", "young"]
    by_image = {s.image_uri.rpartition("/lfw/")[2]: s for s in split.samples}
    for image, row in zip(IMAGES, wanted, strict=True):
        sample = by_image.get(image.replace("\\", "/"))
        if sample is None:
            assert layout == "matlab"
            assert image in TRAIN
            continue
        assert list(sample.targets.values()) == row.tolist()
        male = sample.targets[PGP]
        young = sample.targets["young"]
        assert sample.groups == {
            PGP: ("feminine", "masculine")[male],
            "young": ("false", "true")[young],
        }
    assert split.research_only


def test_a_valid_part_of_the_partition_is_kept(tmp_path):
    put_image(tmp_path)
    codes = {image: "1" if image in IMAGES[:10] else "0" for image in IMAGES}
    root = write_text(tmp_path, codes=codes)
    assert set(names(root, "valid")) == posix(IMAGES[:10])
    assert set(names(root, "train")) == posix(IMAGES[10:])


def test_the_images_may_be_aligned_ones(tmp_path):
    put_image(tmp_path, "lfw-deepfunneled")
    root = write_text(tmp_path, codes=dict.fromkeys(IMAGES, "2"))
    uri = lfwa.read(root, "test").samples[0].image_uri
    assert storage.exists(uri)


def test_missing_images_are_told_before_labels_are_used(tmp_path):
    root = write_text(tmp_path, codes=dict.fromkeys(IMAGES, "2"))
    with pytest.raises(
        UsageError, match=r"lfwa: First0_Last.*0001.jpg expected in .*/lfw or .*/lf"
    ):
        lfwa.read(root, "test")


def test_an_image_without_a_person_is_a_problem(tmp_path):
    put_image(tmp_path)
    root = write_text(tmp_path, codes={IMAGES[0]: "2", "000001.jpg": "2", "A\\A_0001.jpg": "2"})
    test = lfwa.read(root, "test")
    assert len(test.samples) == 1
    where = f"{storage.canonical_uri(root)}/list_eval_partition.txt"
    assert test.problems == (
        f"{where}, line 2: expected a name like First_Last_0001.jpg, got '000001.jpg'",
        f"{where}, line 3: list_attr_lfwa.txt has no line for A/A_0001.jpg",
    )


def test_without_any_labels_both_layouts_are_told(tmp_path):
    with pytest.raises(UsageError, match=r"lfwa: expected lfw_att_40.mat and .*list_attr_lfwa.txt"):
        lfwa.read(str(tmp_path), "test")


def test_without_h5py_the_remedy_is_told(tmp_path, monkeypatch):
    (tmp_path / "lfw_att_40.mat").touch()
    real_import = builtins.__import__

    def import_all_but_h5py(name, *args, **kwargs):
        if name == "h5py":
            raise ModuleNotFoundError(name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_all_but_h5py)
    with pytest.raises(UsageError, match=r"needs h5py: pip install 'fattr\[lfwa\]'"):
        lfwa.read(str(tmp_path), "test")


def test_damaged_matlab_files_are_refused_by_name(tmp_path):
    h5py = pytest.importorskip("h5py", reason="reading LFWA's .mat files needs h5py")
    root = write_matlab(tmp_path)
    with h5py.File(tmp_path / "indices_train_test.mat", "a") as file:
        file["indices_img_test"][0] = 121
    with pytest.raises(UsageError, match=r"test.mat: image 121 of 1 to 120: get the file again"):
        lfwa.read(root, "test")
    with h5py.File(tmp_path / "indices_train_test.mat", "a") as file:
        del file["indices_img_test"]
    with pytest.raises(UsageError, match=r"test.mat must hold indices_img_train and _test"):
        lfwa.read(root, "test")
    with h5py.File(tmp_path / "lfw_att_40.mat", "a") as file:
        del file["label"]
        file["label"] = labels(39).T
    with pytest.raises(
        UsageError, match="label must be 120 images x 40 attributes, it is 120 x 39"
    ):
        lfwa.read(root, "test")
    with h5py.File(tmp_path / "lfw_att_40.mat", "a") as file:
        del file["name"]
        file["name"] = 1.0
    with pytest.raises(UsageError, match=r"att_40.mat must hold AttrName, label and name"):
        lfwa.read(root, "test")
    (tmp_path / "lfw_att_40.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(512))
    with pytest.raises(UsageError, match=r"att_40.mat is no MATLAB 7.3 file"):
        lfwa.read(root, "test")
