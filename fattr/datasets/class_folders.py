"""One folder of images for each class, perhaps within one folder for each split.

    ROOT/CLASS/*.jpg    or    ROOT/{train,valid,test}/CLASS/*.jpg

A split's folder may have its other usual names (``val``, ``Training``). Without such folders 80 %
of the images are ``train``, 10 % ``valid`` and 10 % ``test``, by a hash of their path; where only
``valid`` has no folder, it is the like tenth of ``train``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from fattr import storage
from fattr.attributes import Attribute
from fattr.datasets.split import (
    DatasetSplit,
    MalformedError,
    check_split,
    collect,
    hashed_split,
    in_valid_tenth,
    list_folder,
    split_named,
)
from fattr.records import Sample

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")


@dataclass(frozen=True, slots=True)
class _Image:
    uri: str
    path: str  # plain, below the root
    folder: str  # what to name if the image is out of place
    split: str | None  # as its folder says
    class_name: str | None


def read_class_folders(
    name: str,
    root: str,
    split: str,
    attribute: Attribute,
    targets_of: Callable[[frozenset[str]], Mapping[str, int]],
    *,
    licence: str,
    research_only: bool,
) -> DatasetSplit:
    """The images of ``split`` in the order of their URIs, labelled by their folders' names.

    ``targets_of`` gives the targets of the folders' names, without those that are unknown. Each
    unknown folder is a problem, as are images outside the folders of classes.

    Raises:
        UsageError: there is no image, or the folder cannot be listed.
    """
    check_split(split)
    images = _images(list(list_folder(name, root)))
    targets = targets_of(frozenset(image.class_name for image in images if image.class_name))
    has_valid = any(image.split == "valid" for image in images)

    def parse(image: _Image) -> Sample:
        target = targets.get(image.class_name) if image.class_name else None
        if target is None:
            place = storage.join(root, image.folder)
            raise MalformedError(f"{place}: {_problem(image, attribute)}")
        return Sample(image.uri, {attribute.name: target})

    own = (image for image in images if _split_of(image, has_valid=has_valid) == split)
    samples, problems = collect(own, parse)
    return DatasetSplit(
        name=name,
        split=split,
        attributes=(attribute,),
        samples=samples,
        licence=licence,
        research_only=research_only,
        problems=tuple(dict.fromkeys(problems)),  # one a folder, not one an image
    )


def _images(files: list[tuple[str, str]]) -> list[_Image]:
    """The files that lie in a folder, and images that lie in none."""
    parts = [PurePosixPath(path).parts for _, path in files]
    has_splits = any(len(names) > 2 and split_named(names[0]) for names in parts)
    return [
        _image(uri, path, names[:-1], has_splits=has_splits)
        for (uri, path), names in zip(files, parts, strict=True)
        if len(names) > 1 or PurePosixPath(path).suffix.casefold() in _IMAGE_SUFFIXES
    ]


def _image(uri: str, path: str, folders: tuple[str, ...], *, has_splits: bool) -> _Image:
    split = split_named(folders[0]) if has_splits and folders else None
    depth = 2 if split else 1
    is_placed = len(folders) >= depth and (split is not None or not has_splits)
    class_name = folders[depth - 1] if is_placed else None
    return _Image(uri, path, "/".join(folders[:depth]), split, class_name)


def _split_of(image: _Image, *, has_valid: bool) -> str:
    if image.split is None:
        return hashed_split(image.path)
    if image.split == "train" and not has_valid and in_valid_tenth(image.path):
        return "valid"
    return image.split


def _problem(image: _Image, attribute: Attribute) -> str:
    if image.class_name is None:
        return "images outside the folders of classes; move or remove them"
    expected = ", ".join(attribute.value_names)
    return f"folder {image.class_name!r} is no class of {attribute.name}: expected {expected}"
