"""Group columns of one's own for the images of a data set: a CSV or Parquet file beside it.

    image,skin_type,camera
    images/1.jpg,V,phone

``image`` is a path relative to the table, or a URI; every other column is a group. Groups serve
measuring only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

from fattr import storage
from fattr.datasets.image_bytes import open_parquet
from fattr.datasets.mapping_file import cell_text
from fattr.datasets.split import DatasetSplit, parse_csv, read_label_text
from fattr.errors import StorageError, UsageError
from fattr.records import Status

IMAGE = "image"


def with_groups(split: DatasetSplit, table: str) -> DatasetSplit:
    """The split with the table's group columns, which replace its own of the same name.

    An image that is not in the table keeps what it has; the table may name others too.

    Raises:
        UsageError: the table cannot be read, has no image column, names none of the images, or one
            of them twice with different groups.
        StorageError: the storage failed, perhaps only for now.
    """
    uri = storage.canonical_uri(table)
    known = {sample.image_uri for sample in split.samples}
    found: dict[str, dict[str, str]] = {}
    for row in _rows(uri):
        groups = {name: text.strip() for name, text in row.items()}
        image = _image_uri(groups.pop(IMAGE), uri, known)
        if image in known and found.setdefault(image, groups) != groups:
            raise UsageError(f"{uri} has rows of different groups for {image}: keep one of them")
    if not found:
        raise UsageError(
            f"--group-table {table} names none of the {len(known)} images of"
            f" {split.name}: column {IMAGE!r} must hold paths relative to the table, or URIs"
        )
    samples = tuple(
        dataclasses.replace(s, groups={**s.groups, **found.get(s.image_uri, {})})
        for s in split.samples
    )
    return dataclasses.replace(split, samples=samples)


def _image_uri(text: str, table_uri: str, known: Collection[str]) -> str:
    """An image's URI; as the data set spells it, it may be that of a Parquet cell."""
    if text in known:
        return text
    try:
        return storage.canonical_uri(text, beside=table_uri)
    except UsageError as err:
        raise UsageError(f"{table_uri}, column {IMAGE!r}: {err}") from err


def _rows(uri: str) -> Iterator[Mapping[str, str]]:
    try:
        yield from _parquet_rows(uri) if uri.endswith(".parquet") else _csv_rows(uri)
    except StorageError as err:
        if err.status not in (Status.MISSING, Status.DENIED):
            raise
        raise UsageError(f"group table expected at {uri}: {err.reason}") from err


def _parquet_rows(uri: str) -> Iterator[Mapping[str, str]]:
    with open_parquet(uri) as file:
        if IMAGE not in file.schema_arrow.names:
            raise UsageError(f"{uri} has no column {IMAGE!r}")
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield {name: cell_text(value) for name, value in row.items()}


def _csv_rows(uri: str) -> Sequence[Mapping[str, str]]:
    text = read_label_text("group table", uri)
    rows, problems = parse_csv(uri, text, [IMAGE], lambda _, row: dict(row))
    if problems:
        raise UsageError(f"{len(problems)} rows cannot be used; the first: {problems[0]}")
    return rows
