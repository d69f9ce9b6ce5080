"""Staged rows that the code may be to blame for: images raised, and none of the run got through.

Such a row must not be published before it is known that others get through, nor be kept for a run
that goes on with mended code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

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


def raised_in(uris: Sequence[str]) -> dict[str, Counter[str]] | None:
    """How many images raised what, by the staged file they are in; None if any image got through.

    As a rule little is read, for most files have an image that got through.

    Raises:
        StorageError: The store is unavailable.
    """
    found: dict[str, Counter[str]] = {}
    with ThreadPoolExecutor(_NUM_PARALLEL) as pool:
        for uri, num_raised in zip(uris, pool.map(_look, uris), strict=True):
            if num_raised is None:
                pool.shutdown(cancel_futures=True)
                return None
            if num_raised:
                found[uri] = num_raised
    return found


def find_bug(staging_uri: str) -> tuple[str, int] | None:
    """What ``MIN_RAISED`` images or more raised, and how many, if none of all staged got through.

    Raises:
        StorageError: The store is unavailable.
    """
    found = raised_in(part_uris(staging_uri)) or {}
    most = sum(found.values(), Counter[str]()).most_common(1)
    return most[0] if most and most[0][1] >= MIN_RAISED else None


def _look(uri: str) -> Counter[str] | None:
    num_raised: Counter[str] = Counter()
    for rows in read_part(uri, batch_rows=_BATCH_ROWS, columns=("status", "reason")):
        if _has(rows, GOT_THROUGH):
            return None
        num_raised.update(_raised(rows))
    return num_raised


def _has(rows: pa.Table, statuses: Sequence[str]) -> bool:
    return bool(pc.any(pc.is_in(rows.column("status"), pa.array(statuses))).as_py())


def _raised(rows: pa.Table) -> Iterator[str]:
    poison = rows.filter(pc.equal(rows.column("status"), Status.POISON))
    found = pc.extract_regex(poison.column("reason"), RAISED)
    yield from (one["kind"] for one in found.drop_null().to_pylist())
