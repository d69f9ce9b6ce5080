"""``fattr.toml``: how a data set of one's own is laid out, and what its attributes mean.

Knows how such a file is read and how an attribute is declared in it, not what a reader asks of it.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fattr import storage
from fattr.attributes import VOCABULARY, Attribute, Kind
from fattr.datasets.split import read_label_text
from fattr.errors import UsageError
from fattr.tables import faces_schema

FILE_NAME = "fattr.toml"
DECLARATION = ("kind", "description", "sensitive", "classes", "bin_edges", "mirrored")

_GROUPS_ONLY = ("race", "ethnicity")
_TYPE_NAMES = {str: "text", bool: "true or false", dict: "a table", list: "a list"}
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Section:
    """One table of a mapping file, which knows its place so that errors can name it."""

    uri: str
    name: str  # "" is the top of the file
    values: Mapping[str, Any]

    def error(self, problem: str) -> UsageError:
        """The error for something wrong in this section."""
        return UsageError(f"{self.uri}{f' [{self.name}]' if self.name else ''}: {problem}")

    def get(self, key: str, kind: type[Value], default: Value) -> Value:
        """The value of ``key``, or ``default`` where the section lacks it.

        Raises:
            UsageError: the value is of another type.
        """
        value = self.values.get(key, default)
        if not isinstance(value, kind):
            raise self.error(f"{key} must be {_TYPE_NAMES[kind]}, got {value!r}")
        return value

    def need(self, key: str, kind: type[Value]) -> Value:
        """The value of ``key``.

        Raises:
            UsageError: the section lacks it, or it is of another type.
        """
        if key not in self.values:
            raise self.error(f"{key} is missing: {_TYPE_NAMES[kind]} expected")
        return self.get(key, kind, kind())

    def section(self, key: str) -> Section:
        """The table ``key`` within this one, empty where there is none.

        Raises:
            UsageError: it is no table.
        """
        name = f"{self.name}.{key}" if self.name else key
        return Section(self.uri, name, self.get(key, dict, {}))

    def words(self) -> dict[str, str]:
        """All of it, as text to text; true, false and numbers are taken as they are spelt.

        Raises:
            UsageError: a value is a list or a table.
        """
        if wrong := [key for key, value in self.values.items() if isinstance(value, list | dict)]:
            raise self.error(f"{wrong[0]} must be text")
        return {key: cell_text(value) for key, value in self.values.items()}

    def refuse_others(self, known: Iterable[str]) -> None:
        """Refuse keys that are none of ``known``.

        Raises:
            UsageError: naming the first, and the key that it may stand for.
        """
        known = tuple(known)
        for key in self.values:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
                raise self.error(f"unknown key {key}: {hint}")


def read_mapping(dataset: str, root: str) -> Section:
    """The mapping file in the folder ``root``, or ``root`` itself if its name ends in ``.toml``.

    Raises:
        UsageError: it is not there, may not be read, or is not TOML.
        StorageError: the storage failed, perhaps only for now.
    """
    uri = storage.canonical_uri(root)
    if not uri.endswith(".toml"):
        uri = storage.join(uri, FILE_NAME)
    try:
        return Section(uri, "", tomllib.loads(read_label_text(dataset, uri)))
    except tomllib.TOMLDecodeError as err:
        raise UsageError(f"{uri} is not valid TOML: {err}") from err


def declared_attribute(name: str, section: Section) -> Attribute:
    """The vocabulary's attribute of that name, or else the one that the section declares.

    Raises:
        UsageError: the vocabulary's is declared again, or a declaration is incomplete or wrong.
    """
    given = [key for key in DECLARATION if key in section.values]
    if name in VOCABULARY:
        if given:
            raise section.error(f"{name} is known: leave out {', '.join(given)}, or rename it")
        return VOCABULARY[name]
    if name in _GROUPS_ONLY:
        raise section.error(f"{name} is never predicted: make it a group column of a table")
    if not given:
        close = difflib.get_close_matches(name, VOCABULARY, n=1)
        hint = f"did you mean {close[0]}, or " if close else ""
        raise section.error(
            f"unknown attribute {name}: {hint}declare its kind, description and sensitive"
        )
    return _declared(name, section)


def _declared(name: str, section: Section) -> Attribute:
    classes, edges = section.get("classes", list, []), section.get("bin_edges", list, [])
    if not all(isinstance(word, str) and word for word in classes):
        raise section.error(f"classes must be a list of text, got {classes!r}")
    if not all(isinstance(edge, int | float) for edge in edges):
        raise section.error(f"bin_edges must be a list of years, got {edges!r}")
    mirrored = section.get("mirrored", list, [])
    if unknown := [word for word in mirrored if word not in classes]:
        raise section.error(f"mirrored must name a class for each class, got {unknown[0]!r}")
    kind = section.need("kind", str)
    if kind not in tuple(Kind):
        raise section.error(f"kind must be {', '.join(Kind)}, got {kind!r}")
    try:
        attribute = Attribute(
            name=name,
            kind=Kind(kind),
            description=section.need("description", str),
            sensitive=section.need("sensitive", bool),
            classes=tuple(classes),
            bin_edges=tuple(edges),
            mirrored=tuple(classes.index(word) for word in mirrored),
        )
    except ValueError as err:
        raise section.error(str(err)) from err
    columns = faces_schema((*VOCABULARY.values(), attribute)).names
    if taken := sorted({column for column in columns if columns.count(column) > 1}):
        raise section.error(f"attribute {name} would write a second column {taken[0]}: rename it")
    return attribute


def cell_text(value: object) -> str:
    """A value as a label file would spell it: ``true``, ``3`` for 3.0, empty for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas' none
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
