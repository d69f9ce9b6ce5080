"""HTML and SVG as text in which nothing becomes markup by accident: what is not Html is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TypeAlias


class Html(str):
    """Markup. Any other string is text, and is escaped where it is put into markup."""

    __slots__ = ()


Child: TypeAlias = "str | int | Iterable[Child] | None"
VOID = ("meta", "link", "br", "img")


def join(*children: Child) -> Html:
    """Children one after the other; None is nothing."""
    return Html("".join(_pieces(children)))


def _pieces(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Html):
            yield child
        elif isinstance(child, str | int):
            yield html.escape(str(child))
        elif child is not None:
            yield from _pieces(child)


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """One element. ``class_`` is the attribute class, ``data_value`` is data-value.

    An attribute that is None or False is left out, one that is True has no value.
    """
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}{_value(value)}"
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    end = "" if name in VOID else f"{join(*children)}</{name}>"
    return Html(f"<{name}{said}>{end}")


def _value(value: str | float | bool) -> str:
    if value is True:
        return ""
    text = value if isinstance(value, str) else f"{value:.10g}"
    return f'="{html.escape(text)}"'
