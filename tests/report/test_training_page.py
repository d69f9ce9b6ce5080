"""The page of a training run."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from fattr.report.training_page import COLUMNS, training_page

PNG = b"\x89PNG\r\n"


def page(**changes: object) -> str:
    rows = [
        {"epoch": float(n), **dict.fromkeys(COLUMNS, n / 8), "valid_score": 0.5 + n / 100}
        for n in (1, 2, 3)
    ]
    given = {
        "name": "tiny",
        "verdict": "good fit: as <expected>",
        "history": rows,
        "best_epoch": 2,
        "curves_png": PNG,
        "facts": {"command": "python jobs/train.py --preset tiny"},
        "settings": {"seed": 3, "crop_size": [64, 52]},
    }
    return training_page(**(given | changes))


def test_the_page_shows_each_epoch_and_marks_the_kept_one():
    text = page()
    body = text[text.index("<table") : text.index("</table>") + len("</table>")]
    rows = ElementTree.fromstring(body).findall("./tbody/tr")
    assert [row[0].text for row in rows] == ["1", "2", "3"]
    assert [row.get("class") for row in rows] == [None, "kept", None]
    column = 1 + COLUMNS.index("valid_score")
    assert [row[column].text for row in rows] == ["0.51", "0.52", "0.53"]


def test_the_page_loads_nothing_and_words_stay_words():
    text = page()
    assert "as &lt;expected&gt;" in text
    assert 'src="data:image/png;base64,iVBORw0K"' in text
    assert "http" not in text.replace("http-equiv", "")
    assert "<dt>crop_size</dt><dd>[64, 52]</dd>" in text
