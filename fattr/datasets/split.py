"""What every reader yields, how splits are cut and label files are read. Knows no data set."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fattr import storage
from fattr.attributes import Attribute
from fattr.errors import StorageError, UsageError
from fattr.records import Sample, Status

SPLITS = ("train", "valid", "test")

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}

Row = TypeVar("Row")
Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSplit:
    """One split of a labelled data set, in the order of its label file.

    ``attributes`` are those that any of its samples may label. ``research_only`` says that a model
    trained on it must not be used otherwise. ``problems`` has one line for each row or folder that
    cannot be used, which ``samples`` leaves out: file, line and what is wrong.
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
        if not self.samples and not self.problems:
            raise UsageError(f"{self.name}: split {self.split!r} holds no image; label some")


class MalformedError(UsageError):
    """A label file, or a part of one, that does not hold what it must."""


# Splits


def check_split(split: str) -> None:
    """Refuse a split that is none of ``SPLITS``.

    Raises:
        UsageError: naming those there are.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")


def split_named(word: str) -> str | None:
    """The split that a data set means by ``val``, ``Training`` and the like; None if none."""
    return _SPLIT_WORDS.get(word.strip().casefold())


def in_valid_tenth(key: str) -> bool:
    """Whether an image of a train part without a valid part is in our ``valid``.

    ``key`` is the file's name, or the person on it. It alone decides, so that ``valid`` stays the
    same when images are added, dropped or reordered.
    """
    return _tenth(key) == 0


def hashed_split(key: str) -> str:
    """The split of an image of a data set without splits: 80 % train, 10 % valid, 10 % test.

    ``key`` as for ``in_valid_tenth``, whose images are in ``valid`` here too.
    """
    return {0: "valid", 1: "test"}.get(_tenth(key), "train")


def _tenth(key: str) -> int:
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % 10


# Folders and label files


def list_folder(dataset: str, root: str) -> Iterator[tuple[str, str]]:
    """URI and path below ``root`` of every visible file, in the order of their URIs.

    Raises:
        UsageError: there is none, it may not be listed, or ``root`` is no folder.
        StorageError: the storage failed, perhaps only for now.
    """
    uri = storage.canonical_uri(root)
    for entry in storage.list_files(uri):
        if entry.uri == uri:
            raise UsageError(f"{dataset}: a folder of images expected, {uri} is a file")
        yield entry.uri, storage.relative_path(entry.uri, uri)


def read_label_file(dataset: str, root: str, name: str) -> tuple[str, str]:
    """The canonical URI and the text of the label file ``name`` in the folder ``root``.

    Raises:
        UsageError: it is not there, may not be read, or is not text.
        StorageError: the storage failed, perhaps only for now.
    """
    uri = storage.join(storage.canonical_uri(root), name)
    return uri, read_label_text(dataset, uri)


def read_label_text(dataset: str, uri: str) -> str:
    """The text of the label file at ``uri``, without a byte order mark.

    Raises:
        UsageError: it is not there, may not be read, or is not text.
        StorageError: the storage failed, perhaps only for now.
    """
    try:
        return read_label_bytes(dataset, uri).decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise UsageError(f"{dataset}: label file {uri} must be UTF-8 text: {err}") from err


def read_label_bytes(dataset: str, uri: str) -> bytes:
    """The label file at ``uri``.

    Raises:
        UsageError: it is not there, or may not be read.
        StorageError: the storage failed, perhaps only for now.
    """
    try:
        return storage.read_bytes(uri)
    except StorageError as err:
        if err.status not in (Status.MISSING, Status.DENIED):
            raise
        raise UsageError(f"{dataset}: label file expected at {uri}: {err.reason}") from err


def collect(
    rows: Iterable[Row], parse: Callable[[Row], Parsed | None]
) -> tuple[tuple[Parsed, ...], tuple[str, ...]]:
    """What ``parse`` makes of the rows, and one line for each row that it calls malformed.

    A row of which it makes None is left out of both.
    """
    parsed, problems = [], []
    for row in rows:
        try:
            found = parse(row)
        except MalformedError as err:
            problems.append(str(err))
        else:
            if found is not None:
                parsed.append(found)
    return tuple(parsed), tuple(problems)


def parse_csv(
    uri: str,
    text: str,
    columns: Sequence[str],
    parse: Callable[[int, Mapping[str, str]], Parsed | None],
) -> tuple[tuple[Parsed, ...], tuple[str, ...]]:
    """``collect`` over the rows of a CSV file whose header must hold ``columns``.

    ``parse`` gets a row's line number and its cells; a row with more or fewer cells than the header
    is a problem.

    Raises:
        UsageError: a column is missing, or the text is no CSV.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))

    def checked(row: dict[str, str]) -> Parsed | None:
        if None in row or None in row.values():
            raise malformed(uri, reader.line_num, f"expected {len(header)} cells, as in the header")
        return parse(reader.line_num, row)

    try:
        header = reader.fieldnames or ()
        if missing := [column for column in columns if column not in header]:
            raise malformed(uri, 1, f"header lacks {', '.join(missing)}")
        return collect(reader, checked)
    except csv.Error as err:
        raise UsageError(f"{uri}, after line {reader.line_num}: not valid CSV: {err}") from err


def malformed(uri: str, line: int, problem: str) -> MalformedError:
    """The error for a label file that does not hold what it must; ``line`` counts from 1."""
    return MalformedError(f"{uri}, line {line}: {problem}")
