"""CelebA's 40 attributes and text files, in which LFWA comes too. Labels become our words here.

A label file has the number of images in its first line, the attributes' names in its second, then
an image and its labels in each; a partition file has an image and 0, 1 or 2 in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fattr.attributes import CELEBA40, PERCEIVED_GENDER_PRESENTATION, Attribute
from fattr.datasets.split import collect, malformed, read_label_file
from fattr.records import Sample

PARTITION_FILE = "list_eval_partition.txt"

_SPLITS = {"0": "train", "1": "valid", "2": "test"}
_RENAMED = {
    "five_o_clock_shadow": "5_o_clock_shadow",
    PERCEIVED_GENDER_PRESENTATION.name: "male",
}
_BY_HEADER = {_RENAMED.get(attribute.name, attribute.name): attribute for attribute in CELEBA40}
_GROUP_VALUES = {
    PERCEIVED_GENDER_PRESENTATION.name: PERCEIVED_GENDER_PRESENTATION.classes,
    "young": ("false", "true"),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """An image as a partition names it, and where it does."""

    uri: str
    line: int
    image: str
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFile:
    """Labels as annotated, of the images asked for."""

    uri: str
    attributes: tuple[Attribute, ...]
    rows: Mapping[str, tuple[int, Sequence[str]]]  # image -> line, labels in attributes' order
    values: Mapping[str, int]  # label -> target; of Male, 0 is feminine and 1 masculine

    def sample(self, listed: Listed, image_uri: str) -> Sample:
        """The image with its targets; groups are perceived gender presentation and ``young``.

        Raises:
            MalformedError: it has no labels, or not one of each attribute.
        """
        if listed.image not in self.rows:
            file = self.uri.rpartition("/")[2]
            raise malformed(listed.uri, listed.line, f"{file} has no line for {listed.image}")
        line, labels = self.rows[listed.image]
        if len(labels) != len(self.attributes):
            problem = f"expected {len(self.attributes)} labels, got {len(labels)}"
            raise malformed(self.uri, line, problem)
        if strange := [label for label in labels if label not in self.values]:
            expected = " or ".join(self.values)
            raise malformed(self.uri, line, f"expected {expected}, got {strange[0]!r}")
        targets = {
            a.name: self.values[label] for a, label in zip(self.attributes, labels, strict=True)
        }
        return Sample(image_uri, targets, _groups(targets))


def read_partition(dataset: str, root: str) -> tuple[tuple[Listed, ...], tuple[str, ...]]:
    """The images of the partition file, in its order, and the problems of its other lines.

    Raises:
        UsageError: it is not there, may not be read, or is not text.
    """
    uri, text = read_label_file(dataset, root, PARTITION_FILE)

    def parse(row: tuple[int, list[str]]) -> Listed:
        line, cells = row
        if len(cells) != 2 or cells[1] not in _SPLITS:
            raise malformed(uri, line, "expected an image and 0 (train), 1 (valid) or 2 (test)")
        return Listed(uri, line, cells[0], _SPLITS[cells[1]])

    return collect(_rows(text, first_line=1), parse)


def read_labels(
    dataset: str, root: str, file: str, wanted: frozenset[str], values: Mapping[str, int]
) -> LabelFile:
    """The labels of the ``wanted`` images.

    Raises:
        UsageError: the file is not there, its first two lines are wrong, or its end is missing.
    """
    uri, text = read_label_file(dataset, root, file)
    count, header, body = _sections(uri, text)
    attributes = named_attributes(uri, header.split())
    rows, num_rows = {}, 0
    for line, (image, *labels) in _rows(body, first_line=3):
        num_rows += 1
        if image in wanted:
            rows[image] = (line, labels)
    if count != str(num_rows):
        raise malformed(uri, 1, f"announces {count} images, the file has {num_rows}")
    return LabelFile(uri=uri, attributes=attributes, rows=rows, values=values)


def named_attributes(uri: str, names: Sequence[str]) -> tuple[Attribute, ...]:
    """The attributes that a header names as CelebA does, in any case, blanks for underscores.

    Raises:
        UsageError: a name is none of the 40.
    """
    keys = [name.strip().casefold().replace(" ", "_") for name in names]
    if unknown := [name for name, key in zip(names, keys, strict=True) if key not in _BY_HEADER]:
        raise malformed(uri, 2, f"{unknown[0]!r} is none of CelebA's 40 attributes")
    return tuple(_BY_HEADER[key] for key in keys)


def _sections(uri: str, text: str) -> tuple[str, str, str]:
    """First line (a count), second line (the header) and the rest."""
    parts = text.split("\n", 2)
    if len(parts) < 3 or not parts[0].strip().isdigit():
        raise malformed(uri, 1, "expected the number of images, then a header, then the labels")
    return parts[0].strip(), parts[1], parts[2]


def _rows(text: str, *, first_line: int) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every line that is not blank."""
    for line, row in enumerate(text.splitlines(), start=first_line):
        if cells := row.split():
            yield line, cells


def _groups(targets: Mapping[str, int]) -> dict[str, str]:
    return {
        column: values[targets[column]]
        for column, values in _GROUP_VALUES.items()
        if column in targets
    }
