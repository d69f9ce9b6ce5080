"""LFWA: the photographs of LFW with CelebA's 40 attributes.

    ROOT/lfw/NAME/NAME_0001.jpg    ROOT/lfw_att_40.mat    ROOT/indices_train_test.mat

That is LFWA as published; the same labels in CelebA's text layout are read too, and first:

    ROOT/lfw/NAME/NAME_0001.jpg    ROOT/list_attr_lfwa.txt    ROOT/list_eval_partition.txt

The pictures may also be in ``lfw-deepfunneled`` or ``lfw_funneled``. Where the partition has no
``valid``, it is a tenth of the people of ``train``, chosen by a hash of their names: nobody is in
both.
Liu et al., ICCV 2015, https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (LFWA+);
Huang et al., 2007, http://vis-www.cs.umass.edu/lfw/
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fattr import storage
from fattr.datasets.celeba_labels import (
    PARTITION_FILE,
    LabelFile,
    Listed,
    named_attributes,
    read_labels,
    read_partition,
)
from fattr.datasets.split import (
    DatasetSplit,
    check_split,
    collect,
    in_valid_tenth,
    malformed,
    read_label_bytes,
)
from fattr.errors import UsageError
from fattr.records import Sample

if TYPE_CHECKING:
    import h5py

LICENCE = "LFWA: non-commercial research only"

_TEXT_LABELS = "list_attr_lfwa.txt"
_LABELS, _INDICES = "lfw_att_40.mat", "indices_train_test.mat"
_IMAGE_FOLDERS = ("lfw", "lfw-deepfunneled", "lfw_funneled")
_VALUES = {"-1": 0, "0": 0, "1": 1}
_SUBJECT = re.compile(r"(?:.*/)?(?P<subject>[^/]+)_\d+\.\w+")


def read(root: str, split: str) -> DatasetSplit:
    """The images that the partition puts in ``split``, in its order.

    Groups are perceived gender presentation and ``young``, as annotated.

    Raises:
        UsageError: a label file is missing or is none of LFWA's, the images are not there, h5py is
            needed and missing, or the split is unknown.
    """
    check_split(split)
    partition, labels, problems = _read_any(root)
    images = _image_folder(root, partition)
    has_valid = any(image.split == "valid" for image in partition)

    def parse(image: Listed) -> Sample | None:
        if (image.split if has_valid else _own_split(image)) != split:
            return None
        return labels.sample(image, storage.join(images, image.image))

    samples, unusable = collect(partition, parse)
    return DatasetSplit(
        name="lfwa",
        split=split,
        attributes=labels.attributes,
        samples=samples,
        licence=LICENCE,
        research_only=True,
        problems=problems + unusable,
    )


def _own_split(image: Listed) -> str:
    match = _SUBJECT.fullmatch(image.image)
    if match is None:
        problem = f"expected a name like First_Last_0001.jpg, got {image.image!r}"
        raise malformed(image.uri, image.line, problem)
    is_valid = image.split == "train" and in_valid_tenth(match["subject"])
    return "valid" if is_valid else image.split


def _image_folder(root: str, partition: Sequence[Listed]) -> str:
    """The folder that holds the first image of the partition."""
    folders = [storage.join(root, name) for name in _IMAGE_FOLDERS]
    if not partition:
        return folders[0]
    first = partition[0].image
    for folder in folders:
        if storage.exists(storage.join(folder, first)):
            return folder
    raise UsageError(f"lfwa: {first} expected in {' or '.join(folders)}")


def _read_any(root: str) -> tuple[tuple[Listed, ...], LabelFile, tuple[str, ...]]:
    """Partition, labels and problems, from whichever files there are."""
    if storage.exists(storage.join(root, _TEXT_LABELS)):
        listed, problems = read_partition("lfwa", root)
        wanted = frozenset(image.image for image in listed)
        labels = read_labels("lfwa", root, _TEXT_LABELS, wanted, _VALUES)
        rows = {_posix(image): row for image, row in labels.rows.items()}
        partition = tuple(replace(image, image=_posix(image.image)) for image in listed)
        return partition, replace(labels, rows=rows), problems
    if storage.exists(storage.join(root, _LABELS)):
        return _read_matlab(root)
    raise UsageError(
        f"lfwa: expected {_LABELS} and {_INDICES} (as published), or {_TEXT_LABELS} and"
        f" {PARTITION_FILE}, in {storage.canonical_uri(root)}"
    )


def _posix(path: str) -> str:
    return path.replace("\\", "/")  # LFWA was made on Windows


def _read_matlab(root: str) -> tuple[tuple[Listed, ...], LabelFile, tuple[str, ...]]:
    """The published files; a row's number, from 1, stands for a line's."""
    uri, file = _open_matlab(root, _LABELS)
    with file:
        try:
            images = [_posix(name) for name in _texts(file, "name")]
            attributes = named_attributes(uri, _texts(file, "AttrName"))
            labels = file["label"][()].T  # MATLAB's first index is the last of HDF5
        except (KeyError, TypeError, AttributeError, ValueError) as err:
            raise UsageError(f"{uri} must hold AttrName, label and name: {err}") from err
    if labels.shape != (len(images), len(attributes)):
        raise UsageError(
            f"{uri}: label must be {len(images)} images x {len(attributes)} attributes,"
            f" it is {' x '.join(map(str, labels.shape))}"
        )
    rows = {
        image: (number, [f"{label:g}" for label in row])
        for number, (image, row) in enumerate(zip(images, labels, strict=True), start=1)
    }
    label_file = LabelFile(uri=uri, attributes=attributes, rows=rows, values=_VALUES)
    return _matlab_partition(root, images), label_file, ()


def _matlab_partition(root: str, images: list[str]) -> tuple[Listed, ...]:
    uri, file = _open_matlab(root, _INDICES)
    with file:
        try:
            parts = {split: file[f"indices_img_{split}"][()].ravel() for split in ("train", "test")}
        except (KeyError, AttributeError) as err:
            raise UsageError(f"{uri} must hold indices_img_train and _test: {err}") from err
    numbers = [(int(number), split) for split, found in parts.items() for number in found]
    if wrong := [number for number, _ in numbers if not 1 <= number <= len(images)]:
        raise UsageError(f"{uri}: image {wrong[0]} of 1 to {len(images)}: get the file again")
    return tuple(Listed(uri, number, images[number - 1], split) for number, split in numbers)


def _open_matlab(root: str, name: str) -> tuple[str, h5py.File]:
    try:
        import h5py
    except ModuleNotFoundError as err:
        raise UsageError(f"lfwa: reading {name} needs h5py: pip install 'fattr[lfwa]'") from err
    uri = storage.join(root, name)
    data = read_label_bytes("lfwa", uri)
    try:
        return uri, h5py.File(io.BytesIO(data), "r")
    except OSError as err:
        raise UsageError(f"{uri} is no MATLAB 7.3 file, as published: get it again") from err


def _texts(file: h5py.File, name: str) -> list[str]:
    """A cell array of text: references to arrays of characters."""
    return ["".join(map(chr, file[cell][()].ravel())) for cell in file[name][()].ravel()]
