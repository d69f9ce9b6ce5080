"""Pieces of Markdown that several pages share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table: the first column to the left, the others to the right."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', ', ') for cell in cells)} |"

    yield line(header)
    yield "|---|" + "--:|" * (len(header) - 1)
    for cells in rows:
        yield line(cells)
