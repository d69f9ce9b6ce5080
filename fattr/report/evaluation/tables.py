"""Tables of an evaluation page: cells that say when a figure does not exist, headers that sort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fattr.report.evaluation import words as words
from fattr.report.evaluation.plots import interval_bar
from fattr.report.html import Child, Html, tag

BAR_LIMITS = {"accuracy": (0.5, 1.0)}  # of its bars, where most figures are; else 0 to 1
SHADES = ((-0.1, "w3"), (-0.05, "w2"), (-0.02, "w1"), (0.02, "same"), (0.05, "b1"), (0.1, "b2"))


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell shows, and the number or text that its column is sorted by (None: last)."""

    shown: Child
    value: float | str | None = None
    classes: str = ""
    is_head: bool = False


def text_cell(text: str) -> Cell:
    """Words, to the left."""
    return Cell(text, text, "word")


def head_cell(text: Child, value: str) -> Cell:
    """What the row is about."""
    return Cell(text, value, is_head=True)


def count_cell(n: float | None) -> Cell:
    """A whole number."""
    return absent_cell() if n is None else Cell(words.count(n), n)


def absent_cell() -> Cell:
    """A figure that does not apply."""
    return Cell(words.ABSENT, classes="none")


def missing_cell(word: str = words.NOT_ESTIMABLE) -> Cell:
    """A figure that cannot be told, and why."""
    return Cell(word, classes="none")


def figure_cell(
    value: float | None,
    ends: Sequence[float] | None = None,
    *,
    digits: int = 3,
    bar: tuple[float, float] | None = None,
    signed: bool = False,
) -> Cell:
    """A number, its interval below it if given, or on a ``bar`` between two limits beside it."""
    if value is None:
        return missing_cell()
    number = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if bar:
        return Cell([interval_bar(value, ends, limits=bar), " ", number], value, "bars")
    if ends is None:
        return Cell(number, value)
    sign = "+" if signed else ""
    span = f"{ends[0]:{sign}.{digits}f} to {ends[1]:{sign}.{digits}f}"
    return Cell([number, tag("small", span)], value)


def interval_cell(ends: Sequence[float] | None, digits: int = 3) -> Cell:
    """Both ends of an interval, beside its figure."""
    return Cell(words.interval(ends, digits), classes="ends")


def metric_cell(
    row: Mapping[str, Any], metric: str, *, has_interval: bool = False, has_bar: bool = False
) -> Cell:
    """What a row of figures says of a metric: a number, that it is too few, or not estimable."""
    if row.get("status") == words.TOO_FEW and row.get(metric) is None:
        return missing_cell(words.TOO_FEW)
    if metric in row.get("not_estimable", ()):
        return missing_cell()
    if metric not in row:
        return absent_cell()
    wanted = has_interval or has_bar
    ends = row.get("intervals", {}).get(metric) if wanted else None
    digits = words.digits_of(metric)
    bar = BAR_LIMITS.get(metric, (0.0, 1.0)) if has_bar else None
    return figure_cell(row[metric], ends, digits=digits, bar=bar)


def shade(value: float | None, against: float | None) -> str:
    """How much better or worse than the overall figure, as a class of the style sheet."""
    if value is None or against is None:
        return ""
    return next((name for most, name in SHADES if value - against < most), "b3")


def data_table(
    caption: str,
    header: Sequence[Child],
    rows: Iterable[Sequence[Cell]],
    *,
    sorted_by: int | None = None,
    classes: str = "",
) -> Html:
    """A table in a region that scrolls by itself; ``sorted_by`` is the column, largest first.

    The first cell of a row should be a head. Headers are buttons that sort (``page.js``).
    """
    body = list(rows)
    kinds = [cell.classes.partition(" ")[0] for cell in body[0]] if body else [""] * len(header)
    heads = [
        tag(
            "th",
            tag("button", one, type="button"),
            scope="col",
            class_="word" if kind == "word" else None,
            aria_sort="descending" if i == sorted_by else None,
        )
        for i, (one, kind) in enumerate(zip(header, kinds, strict=True))
    ]
    table = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", *heads)),
        tag("tbody", [_row(row) for row in body]),
        class_=f"sortable {classes}".strip(),
    )
    return tag(
        "div", table, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {caption}"
    )


def _row(row: Sequence[Cell]) -> Html:
    cells = [
        tag(
            "th" if cell.is_head else "td",
            cell.shown,
            scope="row" if cell.is_head else None,
            class_=cell.classes or None,
            data_value=cell.value,
        )
        for cell in row
    ]
    return tag("tr", *cells)
