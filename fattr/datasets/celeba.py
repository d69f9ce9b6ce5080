"""CelebA in its own layout: 40 binary attributes of aligned faces. Labels become our words here.

    ROOT/img_align_celeba/*.jpg    ROOT/list_attr_celeba.txt    ROOT/list_eval_partition.txt

Liu et al., ICCV 2015, https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fattr import storage
from fattr.attributes import CELEBA40, PERCEIVED_GENDER_PRESENTATION, Attribute
from fattr.datasets.split import DatasetSplit, check_split, malformed, read_label_file
from fattr.errors import UsageError
from fattr.records import Sample

LICENCE = "CelebA: non-commercial research only"

_IMAGES = "img_align_celeba"
_ATTRIBUTES_FILE = "list_attr_celeba.txt"
_PARTITION_FILE = "list_eval_partition.txt"
_SPLIT_CODES = {"train": "0", "valid": "1", "test": "2"}
_VALUES = {"-1": 0, "1": 1}  # Male: -1 is feminine, 1 masculine, which is the order of our classes
_RENAMED = {
    "five_o_clock_shadow": "5_o_clock_shadow",
    PERCEIVED_GENDER_PRESENTATION.name: "male",
}
_BY_HEADER = {_RENAMED.get(attribute.name, attribute.name): attribute for attribute in CELEBA40}
_GROUP_VALUES = {
    PERCEIVED_GENDER_PRESENTATION.name: PERCEIVED_GENDER_PRESENTATION.classes,
    "young": ("false", "true"),
}


def read(root: str, split: str) -> DatasetSplit:
    """The images that CelebA's partition file puts in ``split``, in its order.

    Groups are perceived gender presentation and ``young``, as annotated.

    Raises:
        UsageError: a label file is missing or malformed, or the split unknown.
    """
    check_split(split)
    names = _split_names(root, _SPLIT_CODES[split])
    attributes, labels = _read_labels(root, frozenset(names))
    if unlabelled := [name for name in names if name not in labels]:
        raise UsageError(f"celeba: {_ATTRIBUTES_FILE} has no line for {unlabelled[0]}")
    images = storage.join(storage.canonical_uri(root), _IMAGES)
    return DatasetSplit(
        name="celeba",
        split=split,
        attributes=attributes,
        samples=tuple(
            Sample(storage.join(images, name), labels[name], _groups(labels[name]))
            for name in names
        ),
        licence=LICENCE,
        research_only=True,
    )


def _split_names(root: str, code: str) -> list[str]:
    uri, text = read_label_file("celeba", root, _PARTITION_FILE)
    names = []
    for line, cells in _rows(text, first_line=1):
        if len(cells) != 2 or cells[1] not in _SPLIT_CODES.values():
            raise malformed(uri, line, "expected an image and 0 (train), 1 (valid) or 2 (test)")
        if cells[1] == code:
            names.append(cells[0])
    return names


def _read_labels(
    root: str, wanted: frozenset[str]
) -> tuple[tuple[Attribute, ...], dict[str, dict[str, int]]]:
    uri, text = read_label_file("celeba", root, _ATTRIBUTES_FILE)
    count, header, body = _sections(uri, text)
    attributes = _header_attributes(uri, header)
    labels = {}
    num_rows = 0
    for line, (name, *values) in _rows(body, first_line=3):
        num_rows += 1
        targets = _targets(uri, line, attributes, values)
        if name in wanted:
            labels[name] = targets
    if count != str(num_rows):
        raise malformed(uri, 1, f"announces {count} images, the file has {num_rows}")
    return attributes, labels


def _sections(uri: str, text: str) -> tuple[str, str, str]:
    """First line (a count), second line (the header) and the rest."""
    parts = text.split("\n", 2)
    if len(parts) < 3 or not parts[0].strip().isdigit():
        raise malformed(uri, 1, "expected the number of images, then a header, then the labels")
    return parts[0].strip(), parts[1], parts[2]


def _header_attributes(uri: str, header: str) -> tuple[Attribute, ...]:
    names = header.split()
    if unknown := [name for name in names if name.lower() not in _BY_HEADER]:
        raise malformed(uri, 2, f"{unknown[0]!r} is none of CelebA's 40 attributes")
    return tuple(_BY_HEADER[name.lower()] for name in names)


def _rows(text: str, *, first_line: int) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every line that is not blank."""
    for line, row in enumerate(text.splitlines(), start=first_line):
        if cells := row.split():
            yield line, cells


def _targets(
    uri: str, line: int, attributes: Sequence[Attribute], values: Sequence[str]
) -> dict[str, int]:
    if len(values) != len(attributes):
        raise malformed(uri, line, f"expected {len(attributes)} labels, got {len(values)}")
    if strange := [value for value in values if value not in _VALUES]:
        raise malformed(uri, line, f"expected -1 or 1, got {strange[0]!r}")
    return {a.name: _VALUES[value] for a, value in zip(attributes, values, strict=True)}


def _groups(targets: Mapping[str, int]) -> dict[str, str]:
    return {
        column: values[targets[column]]
        for column, values in _GROUP_VALUES.items()
        if column in targets
    }
