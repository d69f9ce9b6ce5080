"""The exception tree. Every message names the thing, what was expected and the remedy, on one line.

A refused data set alone has more lines: one for each of its problems, below the first.

Args of each class equal those of its ``__init__``, so that pickling between processes rebuilds it.
"""

from __future__ import annotations


class FattrError(Exception):
    """Anything fattr raises on purpose."""


class UsageError(FattrError):
    """The request was wrong: nothing was written, exit code 2."""


class RunError(FattrError):
    """The run could not finish: what is done is kept, exit code 3."""


class CannotTrainError(RunError):
    """These settings cannot be trained, however often it is tried."""


class ImageError(FattrError):
    """An image that cannot be used; ``status`` is a value of ``records.Status``."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


class StorageError(FattrError):
    """An object that cannot be read or written; ``status`` is a value of ``records.Status``."""

    def __init__(self, status: str, uri: str, reason: str) -> None:
        super().__init__(status, uri, reason)
        self.status, self.uri, self.reason = status, uri, reason

    def __str__(self) -> str:
        return f"{self.uri}: {self.status}: {self.reason}"
