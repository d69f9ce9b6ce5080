"""What is put into markup, and what comes out as text."""

import html

import pytest

from fattr.report.html import Html, join, tag


@pytest.mark.parametrize(
    ("children", "wanted"),
    [
        pytest.param([], "<p></p>", id="nothing"),
        pytest.param([None], "<p></p>", id="none"),
        pytest.param(["a < b & c"], "<p>a &lt; b &amp; c</p>", id="text"),
        pytest.param([3, " faces"], "<p>3 faces</p>", id="number"),
        pytest.param([Html("<b>x</b>")], "<p><b>x</b></p>", id="markup"),
        pytest.param([[tag("b", "<"), ["y"]]], "<p><b>&lt;</b>y</p>", id="nested"),
    ],
)
def test_only_markup_is_markup(children, wanted):
    assert tag("p", *children) == wanted


def test_attributes_are_named_and_escaped():
    made = tag("a", class_="x", data_value=0.5, aria_label='"><script>', hidden=True, id=None)
    assert made == (
        '<a class="x" data-value="0.5" aria-label="&quot;&gt;&lt;script&gt;" hidden></a>'
    )
    assert tag("meta", name="a", content="b") == '<meta name="a" content="b">'


def test_text_is_escaped_once_however_deep_it_stands():
    text = "<>&\"'"
    assert html.unescape(join(tag("i", tag("b", tag("u", text))))) == f"<i><b><u>{text}</u></b></i>"
    assert isinstance(join("a", "b"), Html)
