"""A table of labels of one's own, CSV or Parquet, and what its columns mean in our words.

    ROOT/fattr.toml    and the table that it names

A table may be a file or a folder of them; the images are files beside it or anywhere, or bytes in a
Parquet column, plain or as Hugging Face writes them. The mapping file:

    table = "labels.csv"           # path relative to this file, or a URI
    image = "file"                 # column of paths relative to the table, or of URIs, which may be
                                   # of a cell: s3://b/a.parquet#row=12&column=image;
    # image_bytes = "image"        # or else a column of encoded images
    split = "part"                 # optional: the column that says train, valid or test
    subject = "person"             # optional: nobody is in two of the splits that are cut by a hash
    licence = "our own photographs"    # goes into the card of a model that is trained on them
    research_only = false              # the default

    [labels.perceived_gender_presentation]    # one for each attribute that the table labels
    column = "sex"                            # default: the attribute's name
    values = { Male = "masculine", Female = "feminine", unsure = "" }

    [labels.face_mask]             # an attribute that the vocabulary lacks is declared as well
    kind = "binary"                # binary, categorical (with classes) or age (classes, bin_edges)
    sensitive = false
    description = "true: something covers mouth and nose"

    [groups]                       # optional: columns to measure by, which no head predicts
    race = "race_as_annotated"

Without ``values`` a cell holds true, false, 1 or 0 of a binary attribute, a class of another, or an
age in years. An empty cell, or one whose value is ``""``, is no label. Without a split column 80 %
of the images are ``train``, 10 % ``valid`` and 10 % ``test``, by a hash of the subject or the
image's path; where only ``valid`` does not occur in that column, it is the like tenth of ``train``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fattr import storage
from fattr.attributes import Attribute
from fattr.datasets.image_bytes import open_parquet, parquet_image_uri
from fattr.datasets.mapping_file import (
    DECLARATION,
    Section,
    cell_text,
    declared_attribute,
    read_mapping,
)
from fattr.datasets.split import (
    DatasetSplit,
    MalformedError,
    check_split,
    collect,
    hashed_split,
    in_valid_tenth,
    parse_csv,
    read_label_text,
    split_named,
)
from fattr.errors import UsageError
from fattr.records import Sample

_KEYS = (
    "table",
    "image",
    "image_bytes",
    "split",
    "subject",
    "licence",
    "research_only",
    "labels",
    "groups",
)
_SUFFIXES = (".csv", ".parquet")
_CELL = re.compile(r"(\w+://.+)(#row=\d+&column=[^#&]+)", re.DOTALL)  # see image_bytes


@dataclass(frozen=True, slots=True)
class _Label:
    attribute: Attribute
    column: str
    targets: Mapping[str, int | None] | None  # word -> target; None: the attribute's own words

    def target(self, place: str, cells: Mapping[str, str]) -> int | None:
        word = cells[self.column].strip()
        if not word:
            return None
        if self.targets is not None and word in self.targets:
            return self.targets[word]
        target = self.attribute.target_of(word) if self.targets is None else None
        if target is None:
            expected = ", ".join(self.targets or self.attribute.value_names)
            raise MalformedError(f"{place}: {self.column} {word!r} is none of {expected}")
        return target


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mapping:
    tables: tuple[str, ...]
    image: str
    is_bytes: bool
    split: str
    subject: str
    labels: tuple[_Label, ...]
    groups: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        """All that are read; images in cells are not."""
        image = () if self.is_bytes else (self.image,)
        optional = tuple(column for column in (self.split, self.subject) if column)
        labels = (label.column for label in self.labels)
        return tuple(dict.fromkeys((*image, *optional, *labels, *self.groups.values())))


@dataclass(frozen=True, slots=True)
class _Row:
    place: str  # for messages
    table: str
    number: int  # of Parquet, from 0
    cells: Mapping[str, str]


def read(root: str, split: str) -> DatasetSplit:
    """The images of ``split``, in the order of the table's rows.

    ``root`` is the mapping file or the folder that holds it as ``fattr.toml``.

    Raises:
        UsageError: the mapping file or a table is missing or wrong, or the split is unknown.
        StorageError: the storage failed, perhaps only for now.
    """
    check_split(split)
    top = read_mapping("table", root)
    mapping = _mapping(top)
    rows, ragged = _rows(mapping)
    has_valid = any(split_named(row.cells.get(mapping.split, "")) == "valid" for row in rows)

    def parse(row: _Row) -> Sample | None:
        image_uri = _image_uri(mapping, row)
        if _split_of(mapping, row, image_uri, has_valid=has_valid) != split:
            return None
        targets = {
            label.attribute.name: label.target(row.place, row.cells) for label in mapping.labels
        }
        groups = {name: row.cells[column] for name, column in mapping.groups.items()}
        return Sample(
            image_uri,
            {name: target for name, target in targets.items() if target is not None},
            {name: value for name, value in groups.items() if value},
        )

    samples, problems = collect(rows, parse)
    return DatasetSplit(
        name="table",
        split=split,
        attributes=tuple(label.attribute for label in mapping.labels),
        samples=samples,
        licence=top.need("licence", str),
        research_only=top.get("research_only", bool, False),
        problems=ragged + problems,
    )


# The mapping file


def _mapping(top: Section) -> _Mapping:
    top.refuse_others(_KEYS)
    if ("image" in top.values) == ("image_bytes" in top.values):
        raise top.error("name the column of the images: one of image and image_bytes expected")
    is_bytes = "image_bytes" in top.values
    tables = _tables(top)
    if is_bytes and not all(uri.endswith(".parquet") for uri in tables):
        raise top.error("image_bytes is for Parquet: use image, a column of paths, with CSV")
    labels = top.section("labels")
    if not labels.values:
        raise top.error("no labels: one [labels.ATTRIBUTE] or more expected")
    return _Mapping(
        tables=tables,
        image=top.need("image_bytes" if is_bytes else "image", str),
        is_bytes=is_bytes,
        split=top.get("split", str, ""),
        subject=top.get("subject", str, ""),
        labels=tuple(_label(name, labels.section(name)) for name in labels.values),
        groups=top.section("groups").words(),
    )


def _tables(top: Section) -> tuple[str, ...]:
    uri = storage.canonical_uri(top.need("table", str), beside=top.uri)
    found = tuple(e.uri for e in storage.list_files(uri) if e.uri.endswith(_SUFFIXES))
    if not found:
        raise top.error(f"table {uri}: a .csv or .parquet file expected, or a folder of them")
    return found


def _label(name: str, section: Section) -> _Label:
    section.refuse_others(("column", "values", *DECLARATION))
    attribute = declared_attribute(name, section)
    words = section.section("values").words()
    targets = {word: attribute.target_of(value) for word, value in words.items()}
    if wrong := [words[word] for word, target in targets.items() if target is None and words[word]]:
        expected = ", ".join(attribute.value_names)
        raise section.error(f"values: {wrong[0]!r} is none of {expected}")
    return _Label(attribute, section.get("column", str, name), targets or None)


# Rows


def _rows(mapping: _Mapping) -> tuple[tuple[_Row, ...], tuple[str, ...]]:
    """The rows of all tables, and the problems of those that are no rows."""
    rows: list[_Row] = []
    problems: list[str] = []
    for uri in mapping.tables:
        if uri.endswith(".parquet"):
            rows.extend(_parquet_rows(uri, mapping))
        else:
            found, ragged = _csv_rows(uri, mapping)
            rows.extend(found)
            problems.extend(ragged)
    return tuple(rows), tuple(problems)


def _csv_rows(uri: str, mapping: _Mapping) -> tuple[tuple[_Row, ...], tuple[str, ...]]:
    columns = mapping.columns

    def parse(line: int, cells: Mapping[str, str]) -> _Row:
        return _Row(f"{uri}, line {line}", uri, line, {name: cells[name] for name in columns})

    return parse_csv(uri, read_label_text("table", uri), columns, parse)


def _parquet_rows(uri: str, mapping: _Mapping) -> Iterator[_Row]:
    with open_parquet(uri) as file:
        _refuse_missing(uri, file.schema_arrow.names, (mapping.image, *mapping.columns))
        number = 0
        for batch in file.iter_batches(columns=list(mapping.columns)):
            for row in batch.to_pylist():
                cells = {name: cell_text(value) for name, value in row.items()}
                yield _Row(f"{uri}, row {number}", uri, number, cells)
                number += 1


def _refuse_missing(uri: str, names: Sequence[str], columns: Sequence[str]) -> None:
    if missing := [column for column in dict.fromkeys(columns) if column not in names]:
        raise UsageError(f"{uri} lacks the columns {', '.join(missing)}: it has {', '.join(names)}")


def _image_uri(mapping: _Mapping, row: _Row) -> str:
    if mapping.is_bytes:
        return parquet_image_uri(row.table, row.number, mapping.image)
    path = row.cells[mapping.image].strip()
    if not path:
        raise MalformedError(f"{row.place}: {mapping.image} names no image")
    cell = _CELL.fullmatch(path)
    file, fragment = cell.groups() if cell else (path, "")
    try:
        return storage.canonical_uri(file, beside=row.table) + fragment
    except UsageError as err:
        raise MalformedError(f"{row.place}: {err}") from err


def _split_of(mapping: _Mapping, row: _Row, image_uri: str, *, has_valid: bool) -> str:
    split = None
    if mapping.split:
        split = split_named(row.cells[mapping.split])
        if split is None:
            word = row.cells[mapping.split]
            raise MalformedError(f"{row.place}: {mapping.split} {word!r} is no split")
        if split != "train" or has_valid:
            return split
    subject = row.cells[mapping.subject].strip() if mapping.subject else ""
    key = subject or _path(row.table, image_uri)
    if split is None:
        return hashed_split(key)
    return "valid" if in_valid_tenth(key) else split


def _path(table: str, image_uri: str) -> str:
    """What to hash: the image's path below the table's folder, or its whole URI."""
    folder = table.rpartition("/")[0]
    if not image_uri.startswith(f"{folder}/"):
        return image_uri
    return storage.relative_path(image_uri, folder)
