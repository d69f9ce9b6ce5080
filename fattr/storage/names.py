"""Names of places: one spelling each, whatever the scheme; the only file that takes URIs apart."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from fattr.errors import UsageError

HIDDEN = (".", "_")  # how the names of files begin that are not listed

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]+")
_PATH_SAFE = "/!$&'()*+,;=:@~"  # what RFC 3986 allows in a path besides letters, digits and -._


@dataclass(frozen=True, slots=True)
class Key:
    """A place in S3."""

    bucket: str
    key: str  # "" is the whole bucket

    @property
    def folder(self) -> str:
        """The prefix of all keys below it."""
        return f"{self.key}/" if self.key else ""


def canonical_uri(text: str, *, beside: str | None = None) -> str:
    """The one spelling of a place: ``file:///absolute/path`` or ``s3://bucket/key``.

    A file URI is percent-encoded as RFC 3986 asks (``%20`` for a space, ``%23`` for ``#``, UTF-8
    bytes beyond ASCII, undecodable bytes as they are), so every file name survives the round trip.
    A plain path is never decoded: ``100%25.jpg`` is that very name. ``.`` and ``..`` are folded;
    symlinks are kept. An S3 key stays as it is; only slashes at its end are dropped.

    Args:
        text: A path, a file URI or an S3 URI.
        beside: URI of a file whose folder a relative path starts from; None is the process's.

    Raises:
        UsageError: Another scheme, or something that can name no file.
    """
    match = _URI.fullmatch(text)
    if match is None:
        return _uri_of_path(text, beside)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "s3":
        return _s3_uri(rest)
    if scheme == "file":
        return _file_uri(rest)
    # A web address may carry a password or a signature.
    shown = re.split(r"[?#]", rest)[0].rpartition("@")[2]
    raise UsageError(
        f"{scheme}://{shown} cannot be used: expected a path, file:///absolute/path or"
        " s3://bucket/key; copy the files to one of these"
    )


def join(uri: str, *parts: str) -> str:
    """The place ``parts`` below ``uri``; parts are plain names or relative paths, not encoded."""
    root = canonical_uri(uri)
    names = parts if root.startswith("s3://") else [quote(part) for part in parts]
    return as_folder(root) + "/".join(names)


def relative_path(uri: str, folder_uri: str) -> str:
    """The plain path of ``uri`` below a folder, equal wherever the folder lies; undoes ``join``.

    Raises:
        ValueError: It is not below that folder.
    """
    child, folder = canonical_uri(uri), as_folder(canonical_uri(folder_uri))
    if not child.startswith(folder):
        raise ValueError(f"{child} is not below {folder}")
    path = child.removeprefix(folder)
    return path if child.startswith("s3://") else _unquote(path)


def is_within(child_uri: str, parent_uri: str) -> bool:
    """Whether ``child_uri`` is ``parent_uri`` or below it, symlinks followed."""
    child, parent = locate(child_uri), locate(parent_uri)
    if isinstance(child, Path) and isinstance(parent, Path):
        return child.resolve().is_relative_to(parent.resolve())
    if isinstance(child, Key) and isinstance(parent, Key):
        return child.bucket == parent.bucket and child.folder.startswith(parent.folder)
    return False


def locate(uri: str) -> Path | Key:
    """Where a URI points to."""
    uri = canonical_uri(uri)
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return Key(bucket, key)
    return Path(_unquote(uri.removeprefix("file://")))


def as_folder(uri: str) -> str:
    """The URI with a slash at its end."""
    return uri if uri.endswith("/") else uri + "/"


def quote(path: str) -> str:
    """A path as a file URI spells it."""
    return quote_from_bytes(os.fsencode(path), safe=_PATH_SAFE)


def _unquote(path: str) -> str:
    return os.fsdecode(unquote_to_bytes(os.fsencode(path)))


def _uri_of_path(text: str, beside: str | None) -> str:
    if not text or "\0" in text:
        raise UsageError(f"{text!r} names no file: expected a path or an s3:// URI")
    anchor = None if beside is None else locate(beside)
    if isinstance(anchor, Key) and not text.startswith("/"):
        folder = posixpath.dirname(anchor.key)
        return _s3_uri(f"{anchor.bucket}/{posixpath.normpath(posixpath.join(folder, text))}")
    start = anchor.parent if isinstance(anchor, Path) else Path.cwd()
    path = os.path.normpath(start / text)
    return "file:///" + quote(path.lstrip("/"))


def _file_uri(rest: str) -> str:
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise UsageError("a file URI has three slashes: expected file:///absolute/path")
    return _uri_of_path(f"/{_unquote(path)}", None)


def _s3_uri(rest: str) -> str:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        # Not repeated: some tools write s3://KEY:SECRET@bucket.
        raise UsageError("an s3:// URI names no bucket: expected s3://bucket/key, nothing else")
    if re.search("[\ud800-\udfff]", key):
        raise UsageError(f"a key in s3://{bucket} is not UTF-8: {key!r}; rename the object")
    return f"s3://{bucket}/{key}".rstrip("/")
