"""A tree walked in order, with several of its places looked at at once and bounded look-ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from fattr.storage.records import FileEntry

MAX_AHEAD = 50_000  # entries read before they are asked for, apart from the last to come in
_WINDOW = 8  # times num_parallel: how many items of the agenda are looked at

Place = TypeVar("Place")
Files: TypeAlias = list[FileEntry]


@dataclass(slots=True)
class _Pending(Generic[Place]):
    """A place, until what is found there stands instead."""

    place: Place
    found: Future[Sequence[Files | Place]] | None = None  # None: nobody looks at it yet


def walk(
    root: Place, scan: Callable[[Place], Sequence[Files | Place]], *, num_parallel: int
) -> Iterator[FileEntry]:
    """The files of a tree in the order in which ``scan`` gives them.

    ``scan`` looks at one place and returns, in order, files and places to look at instead. It runs
    in ``num_parallel`` threads, on those places that come next; what it raises is raised here where
    its files would have come.
    """
    agenda: list[Files | _Pending[Place]] = [_Pending(root)]  # the next one is the last
    pool = ThreadPoolExecutor(num_parallel, thread_name_prefix="listing")
    try:
        while agenda:
            _look_ahead(agenda, lambda place: pool.submit(scan, place), num_parallel)
            item = agenda.pop()
            if isinstance(item, list):
                yield from item
            elif item.found is not None:
                agenda += _unfolded(item.found)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _look_ahead(
    agenda: list[Files | _Pending[Place]],
    submit: Callable[[Place], Future[Sequence[Files | Place]]],
    num_parallel: int,
) -> None:
    """Keep the threads at work on the next places, and put in what they found."""
    num_busy, num_ahead, index = 0, 0, len(agenda) - 1
    end = max(0, len(agenda) - _WINDOW * num_parallel)
    while index >= end and num_busy < num_parallel and num_ahead < MAX_AHEAD:
        item = agenda[index]
        if isinstance(item, list):
            num_ahead += len(item)
        elif item.found is None:
            item.found = submit(item.place)
            num_busy += 1
        elif item.found.done() and item.found.exception() is None:
            new = _unfolded(item.found)
            agenda[index : index + 1] = new
            index += len(new) - 1
            continue
        else:
            num_busy += 1
        index -= 1


def _unfolded(
    found: Future[Sequence[Files | Place]],
) -> list[Files | _Pending[Place]]:
    items: list[Files | _Pending[Place]] = [
        item if isinstance(item, list) else _Pending(item) for item in found.result()
    ]
    return items[::-1]
