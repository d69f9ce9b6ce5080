"""``fattr models``: the shipped bundles with attributes, figures and licence."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from fattr import bundle
from fattr.bundle import Bundle
from fattr.report.model_card import shown

WIDTH, INDENT = 100, 17


def _lines(model: Bundle) -> Iterator[str]:
    spec = model.spec
    height, width = spec.crop_rule.size_hw
    yield f"{spec.name}  {model.model_id[:12]}  {spec.backbone}, {width}x{height} crops"
    use = "RESEARCH ONLY. " if spec.research_only else ""
    yield from _item("licence", use + spec.licence)
    for title, figures in model.figures().items():
        yield from _item("mean accuracy", f"{shown(figures['macro']['accuracy'])} on {title}")
    names = ", ".join(a.name + ("*" if a.sensitive else "") for a in spec.attributes)
    yield from _item("attributes", names)


def _item(title: str, text: str) -> list[str]:
    first = f"  {title:<{INDENT - 2}}"
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * INDENT)


def models_list() -> str:
    """What ships, as text; sensitive attributes carry a star."""
    blocks = ["\n".join(_lines(bundle.load(folder))) for folder in bundle.shipped().values()]
    return "\n\n".join([*blocks, "* sensitive: no column unless named with --sensitive"])
