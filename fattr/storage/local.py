"""Files on a disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fattr.errors import StorageError
from fattr.records import Status
from fattr.storage.errors import os_errors
from fattr.storage.records import FileEntry

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def entry(path: Path, uri: str) -> FileEntry:
    """What is known of a file."""
    with os_errors(uri):
        return entry_of(uri, path.stat())


def entry_of(uri: str, info: os.stat_result) -> FileEntry:
    """The entry of a file that has been looked at; its etag is ``<mtime_ns>-<size>``.

    Raises:
        StorageError: It is a folder.
    """
    if stat.S_ISDIR(info.st_mode):
        raise StorageError(Status.MISSING, uri, "is a folder, not a file")
    return FileEntry(uri, info.st_size, f"{info.st_mtime_ns}-{info.st_size}")


def read(path: Path, uri: str, max_bytes: int | None) -> bytes:
    """The whole file, if it is a regular one of at most ``max_bytes``."""
    with os_errors(uri):
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # reading a pipe or a device may never end
            raise StorageError(Status.UNAVAILABLE, uri, "is not a regular file")
        check_size(info.st_size, uri, max_bytes)
        with path.open("rb") as file:
            data = file.read(-1 if max_bytes is None else max_bytes + 1)
    check_size(len(data), uri, max_bytes)  # it may have grown
    return data


def check_size(size_bytes: int, uri: str, max_bytes: int | None) -> None:
    """Refuse what is too large.

    Raises:
        StorageError: With status too_large.
    """
    if max_bytes is not None and size_bytes > max_bytes:
        raise StorageError(Status.TOO_LARGE, uri, f"has {size_bytes} bytes, at most {max_bytes}")


def write(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all, replacing any that is there."""
    with _draft(path, data) as draft:
        draft.replace(path)


@contextmanager
def _draft(path: Path, data: bytes) -> Iterator[Path]:
    """A complete file beside ``path``, which is gone afterwards unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave an empty file under the real name
        yield draft
    finally:
        draft.unlink(missing_ok=True)


# Writes that depend on what is there


def read_version(path: Path) -> tuple[bytes, str] | None:
    """Content and version, None where nothing is."""
    try:
        with path.open("rb") as file:
            return _read_version(file.read(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return None


def _read_version(data: bytes, info: os.stat_result) -> tuple[bytes, str]:
    # Each write makes a new file: its number, its time or its content differs from the last one's.
    digest = hashlib.sha256(data).hexdigest()[:16]
    return data, f"{info.st_ino:x}-{info.st_mtime_ns:x}-{digest}"


def write_new(path: Path, data: bytes) -> str | None:
    """Create the file unless there is one; its version, or None."""
    with _draft(path, data) as draft:
        version = _read_version(data, draft.stat())[1]
        try:
            os.link(draft, path)
        except FileExistsError:
            return None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return version if _rename_new(draft, path) else None
    return version


def _rename_new(draft: Path, path: Path) -> bool:
    """For file systems without hard links."""
    with _locked(path):
        if path.exists():
            return False
        draft.rename(path)
    return True


def replace(path: Path, data: bytes, version: str) -> str | None:
    """Replace the file if its version is still that; the new version, or None."""
    if not path.exists():  # nor may its folder be there to hold the lock
        return None
    with _locked(path):
        found = read_version(path)
        if found is None or found[1] != version:
            return None
        with _draft(path, data) as draft:
            new_version = _read_version(data, draft.stat())[1]
            draft.replace(path)
    return new_version


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep out all others who would replace ``path``; the lock ends with the process."""
    lock = path.with_name(f".{path.name}.lock")
    while True:
        with lock.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_still(lock, file.fileno()):
                continue  # the one before took the file away with its lock
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# Folders


def delete_tree(path: Path, uri: str) -> None:
    """Delete a folder and all that is in it.

    Raises:
        ValueError: The root of the disk.
    """
    if path == path.parent:
        raise ValueError(f"refusing to delete {uri}: it is the root of the disk")
    with os_errors(uri):
        if path.exists():
            shutil.rmtree(path)


def check_writable(path: Path, uri: str) -> None:
    """Whether a file could be made there; none is left behind."""
    with os_errors(uri):
        nearest = next(folder for folder in [path, *path.parents] if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
