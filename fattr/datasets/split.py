"""What every reader yields, and how label files are read. Knows no data set by name."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fattr import storage
from fattr.attributes import Attribute
from fattr.errors import StorageError, UsageError
from fattr.records import Sample, Status

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSplit:
    """One split of a labelled data set, in the order of its label file.

    ``attributes`` are those that any of its samples may label. ``research_only`` says that a model
    trained on it must not be used otherwise. ``problems`` are the rows that the reader refused, a
    line each: file, line and what is wrong.
    """

    name: str
    split: str
    attributes: tuple[Attribute, ...]
    samples: tuple[Sample, ...]
    licence: str
    research_only: bool
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_split(self.split)
        if not self.samples:
            raise UsageError(f"{self.name}: split {self.split!r} holds no image; label some")


def check_split(split: str) -> None:
    """Refuse a split that is none of ``SPLITS``.

    Raises:
        UsageError: naming those there are.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")


def read_label_file(dataset: str, root: str, name: str) -> tuple[str, str]:
    """The canonical URI and the text of the label file ``name`` in the folder ``root``.

    Raises:
        UsageError: it is not there, may not be read, or is not text.
        StorageError: the storage failed, perhaps only for now.
    """
    uri = storage.join(storage.canonical_uri(root), name)
    try:
        return uri, storage.read_bytes(uri).decode("utf-8-sig")
    except StorageError as err:
        if err.status not in (Status.MISSING, Status.DENIED):
            raise
        raise UsageError(f"{dataset}: label file expected at {uri}: {err.reason}") from err
    except UnicodeDecodeError as err:
        raise UsageError(f"{dataset}: label file {uri} must be UTF-8 text: {err}") from err


def csv_rows(uri: str, text: str, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells of each row of a CSV file whose header must hold ``columns``.

    Raises:
        UsageError: a column is missing, or a row has more or fewer cells than the header.
    """
    reader = csv.DictReader(text.splitlines())
    header = reader.fieldnames or ()
    if missing := [column for column in columns if column not in header]:
        raise malformed(uri, 1, f"header lacks {', '.join(missing)}")
    for row in reader:
        if None in row or None in row.values():
            raise malformed(uri, reader.line_num, f"expected {len(header)} cells, as in the header")
        yield reader.line_num, row


def malformed(uri: str, line: int, problem: str) -> UsageError:
    """The error for a label file that does not hold what it must; ``line`` counts from 1."""
    return UsageError(f"{uri}, line {line}: {problem}")
