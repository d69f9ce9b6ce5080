"""``metrics.json`` as one self-contained HTML page for any browser, offline.

It shows figures, never a face, loads nothing, and runs one script that its policy names by hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Any

from fattr.report.evaluation import sections as parts
from fattr.report.evaluation import words as words
from fattr.report.evaluation.attributes import attribute_details, attribute_table
from fattr.report.evaluation.facts import (
    MEANS,
    RESEARCH_ONLY,
    limits,
    mean_of,
    provenance,
    where,
)
from fattr.report.evaluation.groups import groups_section
from fattr.report.evaluation.tables import data_table, head_cell, text_cell
from fattr.report.evaluation.verdict import KNOWN_BAD_RULE, known_bad, verdicts
from fattr.report.html import Child, Html, join, tag

KEY_FIGURES = [metric for metric in MEANS if metric not in ("precision", "recall")]


def evaluation_page(metrics: Mapping[str, Any]) -> str:
    """The page of a ``metrics.json``, of which every optional part may be missing."""
    style, script = _asset("page.css"), _asset("page.js")
    sections = {title: body for title, body in _sections(metrics) if body}
    name = f"{metrics['model']} on {metrics['data']}, {metrics['split']}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"Evaluation of {name}"),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        tag("header", _headline(metrics, name)),
        tag("nav", *map(_nav_link, sections), aria_label="Sections"),
        tag("main", *(_section(title, body) for title, body in sections.items())),
        tag("script", Html(script)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _asset(name: str) -> str:
    return (resources.files("fattr.report.evaluation") / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing is loaded or run but what stands in the page: only these texts, only data images."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def _nav_link(title: str) -> Html:
    return tag("a", title, href=f"#{_slug(title)}")


def _section(title: str, body: Iterable[Child]) -> Html:
    return tag("section", tag("h2", title, id=_slug(title)), *body, aria_labelledby=_slug(title))


def _sections(metrics: Mapping[str, Any]) -> Iterator[tuple[str, list[Html]]]:
    """Titles and contents in reading order; empty where nothing was measured."""
    yield "Attributes", [attribute_table(metrics)]
    open_all = tag("button", "Open all", type="button", class_="all", hidden=True)
    yield "Details", [open_all, *attribute_details(metrics)]
    yield "Groups", list(groups_section(metrics))
    yield "Calibration", list(parts.calibration_section(metrics))
    yield "Abstention", list(parts.abstention_section(metrics))
    for title, key, section in (
        ("Robustness", "robustness", parts.robustness_section),
        ("Consistency", "consistency", parts.consistency_section),
        ("Mistakes", "mistakes", parts.mistakes_section),
        ("Comparison", "against", parts.comparison_section),
        ("Requirements", "requirements", parts.requirements_section),
    ):
        if metrics.get(key):
            yield title, list(section(metrics[key]))
    yield "Limits", list(_limits(metrics))
    yield "How to read", [_glossary()]
    yield "Provenance", list(_provenance(metrics))


# Headline


def _headline(metrics: Mapping[str, Any], name: str) -> Html:
    facts = [
        words.plural(metrics["num_images"], "image"),
        where(metrics),
        words.plural(len(metrics["attributes"]), "attribute"),
        f"model {metrics['model_id'][:12]}",
    ]
    said = [
        tag("div", tag("dt", one.question), tag("dd", tag("b", one.answer), " ", one.text))
        for one in verdicts(metrics)
    ]
    return join(
        tag("p", "Evaluation", class_="kind"),
        tag("h1", name),
        tag("p", ", ".join(facts), class_="facts-line"),
        tag("p", RESEARCH_ONLY, class_="banner") if metrics["research_only"] else "",
        *(
            tag("p", words.sentence(one), ".", class_="banner")
            for one in metrics.get("cautions", ())
        ),
        tag("p", mean_of(metrics), class_="key-note"),
        tag("dl", *_key_figures(metrics), class_="key"),
        tag("dl", *said, class_="verdicts"),
    )


def _key_figures(metrics: Mapping[str, Any]) -> Iterator[Html]:
    """Means over attributes, and the faces found."""
    macro = metrics["macro"]
    known = {words.title(key): macro[key] for key in KEY_FIGURES if key in macro}
    known["faces found"] = metrics["detection_recall"]
    for said, value in known.items():
        if value is not None:
            yield tag("div", tag("dt", said), tag("dd", f"{value:.3f}"))


# Limits and provenance


def _limits(metrics: Mapping[str, Any]) -> Iterator[Html]:
    if bad := known_bad(metrics):
        rows = [[head_cell(words.title(name), name), text_cell(why)] for name, why in bad.items()]
        yield tag("p", f"Not to rely on: attributes with {KNOWN_BAD_RULE}.")
        yield data_table("Known to be bad", ["attribute", "why"], rows)
    yield tag("ul", *(tag("li", one) for one in limits(metrics)))


def _glossary() -> Html:
    items = [join(tag("dt", term), tag("dd", said)) for term, said in words.GLOSSARY.items()]
    return tag("dl", *items, class_="glossary")


def _provenance(metrics: Mapping[str, Any]) -> Iterator[Html]:
    if metrics["research_only"]:
        yield tag("p", RESEARCH_ONLY, class_="banner")
    said = [("command", tag("code", metrics["command"])), *provenance(metrics)]
    rows = [join(tag("dt", name), tag("dd", one)) for name, one in said]
    yield tag("dl", *rows, class_="provenance")
