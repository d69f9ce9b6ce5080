"""Staged rows that the code may be to blame for: images raised, and none beside them got through.

Such a row must not be published before it is known that others get through, nor be kept for a run
that goes on with mended code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fattr.published.parts import part_uris, read_part
from fattr.records import Status

GOT_THROUGH = (Status.OK, Status.NO_FACE)
RAISED = r"^its process raised (?P<kind>\w+) "  # the start of such a row's reason
# Three of three are hardly chance; one or two new images of a night may well be odd ones.
MIN_RAISED = 3
_BATCH_ROWS = 65_536
_NUM_PARALLEL = 16


@dataclass(frozen=True, slots=True)
class _Seen:
    """Of a staged file: whether an image got through, and else how many raised what."""

    has_good: bool
    num_raised: Counter[str]

    @property
    def is_suspect(self) -> bool:
        return not self.has_good and bool(self.num_raised)


def suspect_files(staging_uri: str) -> list[str]:
    """Staged files in which images raised and none got through.

    Raises:
        StorageError: The store is unavailable.
    """
    uris = part_uris(staging_uri)
    with ThreadPoolExecutor(_NUM_PARALLEL) as pool:
        return [
            uri for uri, seen in zip(uris, pool.map(_look, uris), strict=True) if seen.is_suspect
        ]


def find_bug(staging_uri: str) -> tuple[str, int] | None:
    """What ``MIN_RAISED`` images or more raised, and how many, if none of all staged got through.

    As a rule one file is looked at, for most have an image that got through.

    Raises:
        StorageError: The store is unavailable.
    """
    num_raised: Counter[str] = Counter()
    for seen in map(_look, part_uris(staging_uri)):
        if seen.has_good:
            return None
        num_raised += seen.num_raised
    most = num_raised.most_common(1)
    return most[0] if most and most[0][1] >= MIN_RAISED else None


def _look(uri: str) -> _Seen:
    num_raised: Counter[str] = Counter()
    for rows in read_part(uri, batch_rows=_BATCH_ROWS, columns=("status", "reason")):
        if _has(rows, GOT_THROUGH):
            return _Seen(has_good=True, num_raised=Counter())
        num_raised.update(_raised(rows))
    return _Seen(has_good=False, num_raised=num_raised)


def _has(rows: pa.Table, statuses: Sequence[str]) -> bool:
    return bool(pc.any(pc.is_in(rows.column("status"), pa.array(statuses))).as_py())


def _raised(rows: pa.Table) -> Iterator[str]:
    poison = rows.filter(pc.equal(rows.column("status"), Status.POISON))
    found = pc.extract_regex(poison.column("reason"), RAISED)
    yield from (one["kind"] for one in found.drop_null().to_pylist())
