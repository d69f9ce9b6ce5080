"""What lies below a folder, in the order of the URIs, on a disk and in S3.

A folder of S3 that fits one page takes one request, with all its subfolders. A larger one is taken
apart at its subfolders, which are listed at once, unless these are small: then its keys are listed
in one sequence, each page while the one before is being used. Memory holds some pages, and of a
local folder the names of its own files, whatever the number of files in the tree.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fattr.errors import StorageError, UsageError
from fattr.records import Status
from fattr.storage import local, s3
from fattr.storage.errors import os_errors, refused
from fattr.storage.names import HIDDEN, Key, as_folder, canonical_uri, locate, quote
from fattr.storage.records import FileEntry, ReadOptions
from fattr.storage.walk import Files, walk

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

NUM_PARALLEL = 16
FILES_AT_ONCE = 1000  # local files that one thread looks at, as many as a page of S3 has
FEW_FOLDERS = 10  # of a page: then they are large enough to be listed one by one


def list_files(
    prefix_uri: str, *, options: ReadOptions | None = None, num_parallel: int = NUM_PARALLEL
) -> Iterator[FileEntry]:
    """Every file below a folder, subfolders included, in the order of their URIs.

    ``s3://bucket/photos`` and ``s3://bucket/photos/`` both mean the folder ``photos/``, never
    ``photos2/``. The URI of one file yields that file. Left out are files whose name, or the name
    of any folder on the way down, starts with ``.`` or ``_``, and whatever is no file (pipes, S3
    folder markers). Symlinks are followed, a link back up is not; a dangling one is an entry
    without size. Errors are raised on the first ``next``, or when the listing gets there.

    Args:
        prefix_uri: The folder.
        options: How S3 is asked.
        num_parallel: How many folders are looked at at once.

    Raises:
        UsageError: Nothing there, no such bucket, or listing it is denied.
        StorageError: The store is unavailable, or lists out of order.
    """
    root, options = canonical_uri(prefix_uri), options or ReadOptions()
    is_empty = True
    try:
        for entry in _visible(root, options, num_parallel):
            is_empty = False
            yield entry
    except StorageError as error:
        raise refused("list", error, "s3:ListBucket") from None
    if is_empty:
        raise UsageError(
            f"no files under {root}: expected one or more whose name does not start with . or _;"
            " check the path"
        )


def list_tree(uri: str, *, num_parallel: int = NUM_PARALLEL) -> Iterator[FileEntry]:
    """Every file below a folder, hidden ones too, in the order of their URIs; none where none is.

    Raises:
        StorageError: It cannot be listed.
    """
    place, uri = locate(uri), canonical_uri(uri)
    if isinstance(place, Key):
        yield from _s3_tree(place, ReadOptions(), num_parallel, skip_hidden=False)
        return
    with os_errors(uri):
        is_folder = place.is_dir()
    if is_folder:
        yield from _local_tree(place, uri, num_parallel, skip_hidden=False)


def list_folders(uri: str) -> list[str]:
    """Plain names of the folders directly in a folder, hidden ones too, sorted; none where none is.

    Raises:
        StorageError: It cannot be listed.
    """
    place, uri = locate(uri), canonical_uri(uri)
    if isinstance(place, Path):
        with os_errors(uri):
            return sorted(f.name for f in place.iterdir() if f.is_dir()) if place.is_dir() else []
    level: _Node | None = _Level(place.bucket, place.folder, "", ReadOptions(), skip_hidden=False)
    names: list[str] = []
    while level is not None:
        page = _page(level, Delimiter="/")
        names += [_name(level, item["Prefix"]) for item in page.get("CommonPrefixes", [])]
        level = _next(level, page)
    return sorted(names)


def _visible(root: str, options: ReadOptions, num_parallel: int) -> Iterator[FileEntry]:
    place = locate(root)
    if isinstance(place, Path):
        with os_errors(root):
            is_folder = place.is_dir()
        if is_folder:
            yield from _local_tree(place, root, num_parallel, skip_hidden=True)
        else:
            yield local.entry(place, root)
        return
    is_empty = True
    for entry in _s3_tree(place, options, num_parallel, skip_hidden=True):
        is_empty = False
        yield entry
    if is_empty and place.key and not _holds_any(place, root, options):
        yield s3.head(place, root, options)


def _in_order(entries: Iterator[FileEntry]) -> Iterator[FileEntry]:
    """The same entries; whoever compares two listings relies on their order."""
    last = ""
    for entry in entries:
        if entry.uri <= last:
            reason = "the store lists its objects out of order"
            raise StorageError(Status.UNAVAILABLE, entry.uri, reason)
        last = entry.uri
        yield entry


# On a disk


@dataclass(frozen=True, slots=True)
class _LocalFolder:
    """A folder to look at."""

    path: str
    uri: str
    skip_hidden: bool
    above: frozenset[tuple[int, int]] = frozenset()  # device and number of the folders on the way


@dataclass(frozen=True, slots=True)
class _LocalFiles:
    """Some files of a folder, by name."""

    folder: _LocalFolder
    names: list[str]


def _local_tree(
    path: Path, uri: str, num_parallel: int, *, skip_hidden: bool
) -> Iterator[FileEntry]:
    root: _LocalFolder | _LocalFiles = _LocalFolder(str(path), as_folder(uri), skip_hidden)
    return _in_order(walk(root, _scan_local, num_parallel=num_parallel))


def _scan_local(
    place: _LocalFolder | _LocalFiles,
) -> Sequence[Files | _LocalFolder | _LocalFiles]:
    if isinstance(place, _LocalFiles):
        return [_entries(place)]
    with os_errors(place.uri):
        info = Path(place.path).stat()
        here = (info.st_dev, info.st_ino)
        if here in place.above:  # a link back up
            return []
        found = _sorted_names(place)
    num_files = sum(not is_folder for _, is_folder, _ in found)
    runs = _runs(replace(place, above=place.above | {here}), found)
    if num_files > FILES_AT_ONCE:
        return runs
    return [_entries(run) if isinstance(run, _LocalFiles) else run for run in runs]


def _sorted_names(folder: _LocalFolder) -> list[tuple[str, bool, str]]:
    """Key that sorts like the URI, whether it is a folder, and name, of all in a folder."""
    found = []
    with os.scandir(folder.path) as items:
        for item in items:
            if not (folder.skip_hidden and item.name.startswith(HIDDEN)):
                is_folder = _is_folder(item)
                found.append((quote(item.name) + "/" * is_folder, is_folder, item.name))
    return sorted(found)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a symlink to itself
        return False


def _runs(
    folder: _LocalFolder, found: list[tuple[str, bool, str]]
) -> list[_LocalFolder | _LocalFiles]:
    runs: list[_LocalFolder | _LocalFiles] = []
    for is_folder, group in itertools.groupby(found, key=lambda item: item[1]):
        if is_folder:
            runs += [
                replace(folder, path=os.path.join(folder.path, name), uri=folder.uri + key)  # noqa: PTH118
                for key, _, name in group
            ]
        else:
            names = [name for _, _, name in group]
            runs += [
                _LocalFiles(folder, names[start : start + FILES_AT_ONCE])
                for start in range(0, len(names), FILES_AT_ONCE)
            ]
    return runs


def _entries(files: _LocalFiles) -> Files:
    folder = files.folder
    entries = (
        _entry(folder.uri + quote(name), os.path.join(folder.path, name))  # noqa: PTH118
        for name in files.names
    )
    return [entry for entry in entries if entry is not None]


def _entry(uri: str, path: str) -> FileEntry | None:
    try:
        info = os.stat(path)  # noqa: PTH116 -- a Path for each of millions of files is slow
    except OSError:  # gone or dangling: reading it will say why
        return FileEntry(uri)
    return local.entry_of(uri, info) if stat.S_ISREG(info.st_mode) else None


# In S3


@dataclass(frozen=True, slots=True)
class _Node:
    """Keys below a prefix that ends with a slash or is empty, from a page on."""

    bucket: str
    prefix: str
    root: str  # of the whole listing: names hide below it only
    options: ReadOptions
    skip_hidden: bool
    token: str = ""  # of the page; none is the first


class _Whole(_Node):
    """All keys, not yet looked at."""


class _Flat(_Node):
    """All keys, in one sequence of pages."""


class _Level(_Node):
    """The keys directly below, and the subfolders."""


def _s3_tree(
    place: Key, options: ReadOptions, num_parallel: int, *, skip_hidden: bool
) -> Iterator[FileEntry]:
    root: _Node = _Whole(place.bucket, place.folder, place.folder, options, skip_hidden)
    return _in_order(walk(root, _scan_s3, num_parallel=num_parallel))


def _scan_s3(node: _Node) -> Sequence[Files | _Node]:
    if isinstance(node, _Level):
        return _scan_level(node)
    page = _page(node)
    following = _next(node, page)
    if following is None or isinstance(node, _Flat):
        return _files_and(node, page, following)
    return _scan_level(_as(_Level, node))


def _scan_level(level: _Node) -> Sequence[Files | _Node]:
    page = _page(level, Delimiter="/")
    prefixes = [item["Prefix"] for item in page.get("CommonPrefixes", [])]
    if len(prefixes) > FEW_FOLDERS:
        flat = _as(_Flat, level)
        rest = _page(flat, StartAfter=prefixes[0])
        if not rest.get("IsTruncated") or _num_folders(flat, rest) > FEW_FOLDERS:
            before = [key for key in _keys(page) if key["Key"] < prefixes[0]]
            return [_files(level, before), *_files_and(flat, rest, _next(flat, rest))]
    items: list[tuple[str, Files | _Node]] = [
        (key["Key"], _files(level, [key])) for key in _keys(page)
    ]
    items += [
        (prefix, replace(_as(_Whole, level), prefix=prefix))
        for prefix in prefixes
        if not (level.skip_hidden and _name(level, prefix).startswith(HIDDEN))
    ]
    ordered = _joined(item for _, item in sorted(items, key=lambda item: item[0]))
    following = _next(level, page)
    return ordered if following is None else [*ordered, following]


def _joined(items: Iterator[Files | _Node]) -> list[Files | _Node]:
    """Files that follow each other in one list."""
    joined: list[Files | _Node] = []
    for item in items:
        if isinstance(item, list) and joined and isinstance(joined[-1], list):
            joined[-1] += item
        else:
            joined.append(item)
    return joined


def _files_and(
    node: _Node, page: ListObjectsV2OutputTypeDef, following: _Node | None
) -> list[Files | _Node]:
    files = _files(node, _keys(page))
    return [files] if following is None else [files, following]


def _page(node: _Node, **arguments: str) -> ListObjectsV2OutputTypeDef:
    if node.token:
        arguments |= {"ContinuationToken": node.token}
    uri = canonical_uri(f"s3://{node.bucket}/{node.prefix}")
    return s3.list_page(node.bucket, node.prefix, uri, node.options, arguments)


def _next(node: _Node, page: ListObjectsV2OutputTypeDef) -> _Node | None:
    return replace(node, token=page["NextContinuationToken"]) if page.get("IsTruncated") else None


def _as(kind: type[_Node], node: _Node) -> _Node:
    return kind(node.bucket, node.prefix, node.root, node.options, node.skip_hidden)


def _keys(page: ListObjectsV2OutputTypeDef) -> list[Any]:
    keys: list[Any] = page.get("Contents", [])
    return keys if all(a["Key"] < b["Key"] for a, b in itertools.pairwise(keys)) else _sorted(keys)


def _sorted(keys: list[Any]) -> list[Any]:
    return sorted(keys, key=lambda item: str(item["Key"]))


def _files(node: _Node, keys: list[Any]) -> Files:
    """Entries of the keys that are neither hidden nor markers of folders."""
    return [
        FileEntry(f"s3://{node.bucket}/{key['Key']}", key["Size"], key["ETag"].strip('"'))
        for key in keys
        if not key["Key"].endswith("/") and not (node.skip_hidden and _is_hidden(node, key["Key"]))
    ]


def _is_hidden(node: _Node, key: str) -> bool:
    return any(name.startswith(HIDDEN) for name in key.removeprefix(node.root).split("/"))


def _num_folders(node: _Node, page: ListObjectsV2OutputTypeDef) -> int:
    """How many folders directly below the node's prefix have keys in this page."""
    below = (key["Key"].removeprefix(node.prefix).partition("/") for key in _keys(page))
    return len({name for name, slash, _ in below if slash})


def _name(node: _Node, key: str) -> str:
    """Of the file or folder directly below the node's prefix."""
    return key.removeprefix(node.prefix).partition("/")[0]


def _holds_any(place: Key, uri: str, options: ReadOptions) -> bool:
    page = s3.list_page(place.bucket, place.folder, uri, options, {"MaxKeys": 1})
    return bool(page.get("Contents"))
