"""What went wrong, in fattr's own words: statuses of files, and what the user can change."""

from __future__ import annotations

import errno
import os
import re
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

EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_ARROW_SAYS = re.compile(
    r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<http>\d+)\))?"
    r"(?:.*Unable to parse ExceptionName: (?P<name>\w+))?",
    re.DOTALL,
)


def words_of(error: OSError) -> str:
    """What the system or the store says, on one line.

    Arrow's own words may quote an endpoint or a path: of these, only S3's name of the error.
    """
    if error.errno:
        return os.strerror(error.errno)
    said = _ARROW_SAYS.search(str(error))
    if said is None:
        return f"the storage failed ({type(error).__name__})"
    code = said["name"] or said["code"]
    if code in EXPIRED_CODES:
        return "the AWS credentials expired: renew them"
    if said["http"] == "400" and code == "UNKNOWN":  # all that an answer to HEAD can say
        return "HTTP 400, as where the AWS credentials expired: if so, renew them"
    return f"{code} (HTTP {said['http']})" if said["http"] else code


@contextmanager
def os_errors(uri: str) -> Iterator[None]:
    """Turn what the operating system says of ``uri`` into a ``StorageError``."""
    try:
        yield
    except OSError as error:
        status = _STATUS_BY_ERRNO.get(error.errno or 0, Status.UNAVAILABLE)
        raise StorageError(status, canonical_uri(uri), words_of(error)) from None


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
