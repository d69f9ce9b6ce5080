"""A page as a browser's parser sees it, without a browser: elements, their text, their tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "hr", "input"}


@dataclass
class Element:
    name: str
    attributes: dict = field(default_factory=dict)
    children: list = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, *names: str) -> list[Element]:
        """Descendants of these names, in the order of the page; all of them without names."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += [child] if not names or child.name in names else []
                found += child.all(*names)
        return found

    def one(self, name: str, **attributes: str) -> Element:
        found = [e for e in self.all(name) if attributes.items() <= e.attributes.items()]
        assert len(found) == 1, f"{len(found)} elements {name} {attributes}"
        return found[0]


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document")
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(page: str) -> Element:
    """The document; every element must be closed by its own end tag."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert builder.open == [builder.root]
    return builder.root


def table(page: Element, caption: str) -> dict[str, dict[str, Element]]:
    """Cells of the first table whose caption begins so, by the texts of row head and column."""
    found = next(one for one in page.all("table") if one.all("caption")[0].text.startswith(caption))
    heads = [head.text for head in found.all("thead")[0].all("th")]
    rows = [row.all("th", "td") for row in found.all("tbody")[0].all("tr")]
    return {row[0].text: dict(zip(heads, row, strict=True)) for row in rows}
