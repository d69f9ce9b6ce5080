"""A training run on one page of HTML: figures, curves, settings; self-contained, without a face."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fattr.report.html import Child, Html, tag

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 70rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 2px 12px; border-bottom: 1px solid #d5dae0; }
th { font-weight: 600; }
.kept { background: #e3eff9; font-weight: 600; }
img { max-width: 100%; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 1rem; }
dt { color: #59626d; }
dd { margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: 13px; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

COLUMNS = (
    "train_loss",
    "valid_loss",
    "train_score",
    "valid_score",
    "learning_rate",
    "seconds",
    "data_wait_share",
)


def training_page(
    *,
    name: str,
    verdict: str,
    history: Sequence[Mapping[str, float]],
    best_epoch: int,
    curves_png: bytes,
    facts: Mapping[str, str],
    settings: Mapping[str, Any],
) -> str:
    """The page; ``history`` has one row an epoch."""
    picture = f"data:image/png;base64,{base64.b64encode(curves_png).decode()}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", f"Training of {name}"),
        tag("style", Html(STYLE)),
    )
    said = {key: json.dumps(value) for key, value in sorted(settings.items())}
    body = tag(
        "body",
        tag("h1", f"Training of {name}"),
        tag("p", verdict),
        tag("img", src=picture, alt="Score and loss after each epoch"),
        tag("h2", "Epochs"),
        _epochs(history, best_epoch),
        tag("h2", "Run"),
        _list(facts.items()),
        tag("h2", "Settings"),
        _list(said.items()),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _epochs(history: Sequence[Mapping[str, float]], best_epoch: int) -> Html:
    """A row an epoch; the kept one stands out."""
    head = tag("tr", *(tag("th", column.replace("_", " ")) for column in ("epoch", *COLUMNS)))
    rows = [
        tag(
            "tr",
            tag("td", f"{row['epoch']:.0f}"),
            *(tag("td", f"{row[column]:.4g}") for column in COLUMNS),
            class_="kept" if row["epoch"] == best_epoch else None,
        )
        for row in history
    ]
    return tag("table", tag("thead", head), tag("tbody", *rows))


def _list(items: Iterable[tuple[str, Child]]) -> Html:
    return tag("dl", *((tag("dt", name), tag("dd", value)) for name, value in items))
