"""What went wrong, in fattr's own words: statuses of files, and what the user can change."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fattr.errors import FattrError, StorageError, UsageError
from fattr.records import Status
from fattr.storage.names import canonical_uri

_STATUS_BY_ERRNO = {
    errno.ENOENT: Status.MISSING,
    errno.ENOTDIR: Status.MISSING,
    errno.EACCES: Status.DENIED,
    errno.EPERM: Status.DENIED,
    errno.ETIMEDOUT: Status.TIMEOUT,
}


@contextmanager
def os_errors(uri: str) -> Iterator[None]:
    """Turn what the operating system says of ``uri`` into a ``StorageError``."""
    try:
        yield
    except OSError as error:
        status = _STATUS_BY_ERRNO.get(error.errno or 0, Status.UNAVAILABLE)
        raise StorageError(status, canonical_uri(uri), error.strerror or "I/O error") from None


def refused(verb: str, error: StorageError, permission: str) -> FattrError:
    """What the user must change, where it is up to the user; else the error itself."""
    is_s3 = error.uri.startswith("s3://")
    if error.status == Status.MISSING:
        remedy = "check bucket, key and AWS_ENDPOINT_URL" if is_s3 else "check the path"
    elif error.status == Status.DENIED:
        remedy = f"the credentials need {permission}" if is_s3 else "change its permissions"
    elif not is_s3:
        remedy = "choose another folder"
    else:
        return error
    return UsageError(f"cannot {verb} {error.uri}: {error.reason}; {remedy}")
