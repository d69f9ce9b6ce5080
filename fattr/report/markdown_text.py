"""Text from outside as Markdown in which nothing becomes markup."""

from __future__ import annotations

import re

from fattr.report.evaluation.words import one_line


def safe(text: str) -> str:
    """Text on one line, with what Markdown or HTML would take for markup escaped."""
    escaped = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]])", r"\\\1", escaped)


def code(text: str) -> str:
    """A code span that the text cannot end."""
    line = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    pad = " " * (line.startswith("`") or line.endswith("`"))
    return f"{fence}{pad}{line}{pad}{fence}"
