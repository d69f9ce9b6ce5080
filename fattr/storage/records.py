"""What is known of a file, and how inputs are to be read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

ATTEMPTS = 6


def default_attempts() -> int:
    """How often a request is sent at most: what ``AWS_MAX_ATTEMPTS`` says, or 6."""
    said = os.environ.get("AWS_MAX_ATTEMPTS", "")
    return max(1, int(said)) if said.isdecimal() else ATTEMPTS


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a listing; size and etag are None where nobody has looked yet."""

    uri: str
    size_bytes: int | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How objects are read and listed.

    Attributes:
        anonymous: Requests are not signed, as for public buckets.
        requester_pays: Whoever reads pays for it, where a bucket asks for that.
        max_bytes: Larger objects are refused unread.
        timeout_s: For one whole object, with all attempts.
        attempts: How often a request is sent at most while the store is busy or silent.
        part_bytes: A larger object is read in parts of this size, each with its own attempts.
    """

    anonymous: bool = False
    requester_pays: bool = False
    max_bytes: int | None = None
    timeout_s: float = 120.0
    attempts: int = field(default_factory=default_attempts)
    part_bytes: int = 16 << 20
