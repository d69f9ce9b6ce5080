"""Several streams of rows sorted by URI, read side by side in windows of the same URIs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

KEY = "image_uri"


class UnsortedError(ValueError):
    """A stream whose rows are not sorted by URI; ``number`` is its place among the streams."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def windows(streams: Sequence[Iterator[pa.Table]]) -> Iterator[list[pa.Table]]:
    """Tables of all streams, window after window: the rows of one URI are all in one window.

    Memory is that of a table of each stream, or of the rows of one URI where those are more.

    Args:
        streams: Tables with the column ``image_uri``, sorted by it, a URI perhaps in several rows.

    Raises:
        UnsortedError: A stream is not sorted.
    """
    cursors = [_Cursor(number, stream) for number, stream in enumerate(streams)]
    for cursor in cursors:
        cursor.fill()
    while any(cursor.num_rows for cursor in cursors):
        # Of the last URI held, a stream that goes on may have more rows: it waits for them.
        bound = min((c.last for c in cursors if not c.is_done), default=None)
        yield [cursor.take(bound) for cursor in cursors]
        for cursor in cursors:
            cursor.fill()


class _Cursor:
    def __init__(self, number: int, stream: Iterator[pa.Table]) -> None:
        self._number, self._stream = number, stream
        self._held: pa.Table | None = None
        self.is_done = False

    @property
    def num_rows(self) -> int:
        return self._held.num_rows if self._held is not None else 0

    @property
    def last(self) -> str:
        return self._uri(-1)

    def fill(self) -> None:
        """Read on until rows of two URIs are held, or none is left."""
        while not self.is_done and (not self.num_rows or self._uri(0) == self._uri(-1)):
            table = next(self._stream, None)
            if table is None:
                self.is_done = True
            elif self._held is None:
                self._held = self._checked(table)
            else:
                self._held = self._checked(pa.concat_tables([self._held, table]))

    def take(self, bound: str | None) -> pa.Table:
        """Remove and return the rows below ``bound``; None is above all."""
        assert self._held is not None, "a stream has one table or more"
        if bound is None:
            count = self.num_rows
        else:
            count = pc.sum(pc.less(self._held.column(KEY), bound)).as_py() or 0
        taken, self._held = self._held.slice(0, count), self._held.slice(count)
        return taken

    def _uri(self, row: int) -> str:
        assert self._held is not None
        return str(self._held.column(KEY)[row].as_py())

    def _checked(self, table: pa.Table) -> pa.Table:
        uris = table.column(KEY).combine_chunks()
        if not (pc.all(pc.less_equal(uris[:-1], uris[1:])).as_py() or len(uris) < 2):
            raise UnsortedError(self._number)
        return table
