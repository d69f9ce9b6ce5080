"""``metrics.json`` as Markdown: the same facts as the page in numbers, without pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fattr.report.evaluation import words as words
from fattr.report.evaluation.attributes import AGE_METRICS, BIN_METRICS, CLASS_METRICS, is_age
from fattr.report.evaluation.facts import (
    MEANS,
    RESEARCH_ONLY,
    corruption_title,
    gate_sentence,
    limits,
    mean_of,
    provenance,
    where,
)
from fattr.report.evaluation.markdown_groups import cell, group_lines
from fattr.report.evaluation.sections import ROBUSTNESS_METRICS
from fattr.report.evaluation.verdict import KNOWN_BAD_RULE, known_bad, verdicts
from fattr.report.markdown import table
from fattr.report.markdown_text import code, safe

Row = Mapping[str, Any]
Lines = Iterator[str]

SHARES = ("prevalence", "predicted_prevalence")


def evaluation_markdown(metrics: Row) -> str:
    """The report for ``docs/``: figures by attribute and by group, no pictures, no faces."""
    name = f"{metrics['model']} on {metrics['data']}, {metrics['split']}"
    images = words.plural(metrics["num_images"], "image")
    sections: dict[str, Callable[[Row], Lines]] = {
        "Attributes": _attributes,
        "Groups": group_lines,
        "Calibration": _calibration,
        "Abstention": _abstention,
        "Robustness": _robustness,
        "Consistency": _consistency,
        "Mistakes": _mistakes,
        "Comparison": _comparison,
        "Requirements": _requirements,
        "Limits": _limits,
        "Provenance": _provenance,
    }
    lines = [
        f"# Evaluation of {safe(name)}\n",
        f"{code(metrics['command'])}\n",
        f"{images}, {where(metrics)}.\n",
        *([f"**{RESEARCH_ONLY}**\n"] if metrics["research_only"] else []),
        *(f"**{safe(words.sentence(one))}.**\n" for one in metrics.get("cautions", ())),
        *_summary(metrics),
    ]
    for title, section in sections.items():
        if body := list(section(metrics)):
            lines += [f"\n## {title}\n", body[0].lstrip("\n"), *body[1:]]
    return "\n".join(lines) + "\n"


def _summary(metrics: Row) -> Lines:
    for one in verdicts(metrics):
        yield f"- {one.question} **{safe(one.answer)}** {safe(one.text)}".rstrip()
    parts = [
        [part, *(words.metric_in(metrics[part], m) for m in MEANS)]
        for part in ("macro", "micro")
        if part in metrics
    ]
    yield f"\n{mean_of(metrics) or 'No means'}:\n"
    yield from table(["", *map(words.title, MEANS)], parts)
    if metrics["detection_recall"] is not None:
        yield f"\nFaces found: {words.figure(metrics['detection_recall'])}."


# Attributes


def _named(name: str) -> str:
    return safe(words.title(name))


def _rows(rows: Mapping[str, Row], metrics: Sequence[str], what: str) -> Lines:
    """A row an attribute, class or bin, with intervals where they are known."""
    yield from table(
        [what, "n", *map(words.title, metrics)],
        [
            [_named(name), words.count(row["n"]), *(cell(row, metric) for metric in metrics)]
            for name, row in rows.items()
        ],
    )


def _attributes(metrics: Row) -> Lines:
    attributes = metrics["attributes"]
    plain = {name: row for name, row in attributes.items() if not is_age(row)}
    ages = {name: row for name, row in attributes.items() if is_age(row)}
    yield "With 95 % intervals: Wilson's of plain shares, bootstrap percentiles of all else."
    if plain:
        used = [m for m in (*MEANS, *SHARES) if any(m in row for row in plain.values())]
        yield ""
        yield from _rows(plain, used, "attribute")
    if ages:
        yield "\nAges; years are taken against the middle of the labelled bin:\n"
        yield from _rows(ages, AGE_METRICS, "attribute")
    for name, row in attributes.items():
        if "per_class" in row:
            yield f"\n{words.sentence(_named(name))}, by labelled class:\n"
            yield from _rows(row["per_class"], CLASS_METRICS, "class")
        if "per_bin" in row:
            yield f"\n{words.sentence(_named(name))}, by labelled bin:\n"
            yield from _rows(row["per_bin"], BIN_METRICS, "bin")


def _calibration(metrics: Row) -> Lines:
    rows = {n: row for n, row in metrics["attributes"].items() if row.get("reliability")}
    if not rows:
        return
    yield "Mean probability / share right in each tenth of the faces, least probable first:\n"
    most = max(len(row["reliability"]) for row in rows.values())
    body = []
    for name, row in sorted(rows.items(), key=lambda item: -(item[1].get("ece") or 0)):
        bins = [f"{one['prob']:.2f} / {one['frac']:.2f}" for one in row["reliability"]]
        padded = bins + [words.ABSENT] * (most - len(bins))
        body.append([_named(name), words.metric_in(row, "ece"), *padded])
    yield from table(["attribute", "ECE", *(str(i + 1) for i in range(most))], body)


def _abstention(metrics: Row) -> Lines:
    own = metrics.get("selective", {})
    if curve := own.get("curve"):
        yield "Mean accuracy of the surest labels:\n"
        heads = [words.percent(point["coverage"], 0) for point in curve]
        yield from table(
            ["labels kept", *heads],
            [["accuracy", *(words.figure(point["accuracy"]) for point in curve)]],
        )
    rows = [
        [
            _named(name),
            *(words.metric_in(row["selective"], m) for m in ("coverage", "accuracy")),
            words.metric_in(row, "accuracy"),
            words.metric_in(row["selective"], "accuracy_at_90"),
        ]
        for name, row in metrics["attributes"].items()
        if row.get("selective")
    ]
    if rows:
        yield "\nLabels given at the model's own bands, and the share of labels that is right:\n"
        header = ["attribute", "labels given", "right of these", "of all", "of the surest 90 %"]
        yield from table(header, rows)


def _robustness(metrics: Row) -> Lines:
    if said := gate_sentence(metrics.get("robustness", {})):
        yield said
    for name, one in metrics.get("robustness", {}).items():
        yield f"\n{safe(corruption_title(name, one))}:\n"
        yield from table(
            [safe(one["unit"]), "n", *map(words.title, ROBUSTNESS_METRICS)],
            [
                [
                    f"{point['value']:g}",
                    words.count(point["n"]) if "n" in point else words.ABSENT,
                    *(cell(point, metric) for metric in ROBUSTNESS_METRICS),
                ]
                for point in one["points"]
            ],
        )


def _consistency(metrics: Row) -> Lines:
    rows = [
        [
            _named(name),
            safe(one.get("description", "")),
            words.count(one["n"]),
            words.count(one["count"]),
            words.with_interval(one["rate"], one.get("interval"), 4),
            words.with_interval(one.get("target_rate"), one.get("target_interval"), 4),
        ]
        for name, one in metrics.get("consistency", {}).items()
    ]
    if rows:
        yield "Labels that cannot both be true, as predicted and as annotated:\n"
        yield from table(
            ["rule", "what contradicts", "n", "faces", "rate", "rate as annotated"], rows
        )


def _mistakes(metrics: Row) -> Lines:
    columns = ("n_confident_mistakes", "n_likely_label_errors")
    rows = [
        [
            _named(name),
            *(words.count(one[c]) if c in one else words.ABSENT for c in columns),
            safe(one.get("hardest_group") or words.ABSENT),
        ]
        for name, one in metrics.get("mistakes", {}).items()
    ]
    if rows:
        yield from table(["attribute", *map(words.title, columns), "hardest group"], rows)


# Comparison


def _comparison(metrics: Row) -> Lines:
    against = metrics.get("against")
    if not against:
        return
    yield (
        f"Against {safe(against['model'])} ({safe(against['model_id'][:12])}): "
        f"**{safe(against['verdict'])}**. {safe(against.get('summary', ''))}\n"
    )
    used = list(against["macro"])
    rows = [["mean", *(_change(against["macro"].get(m)) for m in used)]]
    rows += [
        [_named(name), *(_change(one.get(m)) for m in used)]
        for name, one in against["attributes"].items()
    ]
    yield "This model less the other, on the same faces, with 95 % intervals:\n"
    yield from table(["", *map(words.title, used)], rows)
    if against["regressions"]:
        num = len(against["regressions"])
        yield f"\nLess accurate than the other in {num} of {against['num_cells']} groups:\n"
        yield from table(
            ["attribute", "group", "n", "accuracy", "evidence"],
            [_regression(one) for one in against["regressions"]],
        )


def _change(one: Row | None) -> str:
    if one is None:
        return words.ABSENT
    if one["difference"] is None:
        return words.NOT_ESTIMABLE
    ends = one.get("interval")
    return f"{one['difference']:+.3f}" + (f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else "")


def _regression(one: Row) -> list[str]:
    group = f"{words.title(one['column'])}: {words.group_title(one['group'])}"
    evidence = "beyond chance" if one.get("confirmed") else "may be chance"
    return [_named(one["attribute"]), safe(group), words.count(one["n"]), _change(one), evidence]


def _requirements(metrics: Row) -> Lines:
    rows = [
        [code(one["text"]), words.figure(one["value"]), "met" if one["met"] else "**missed**"]
        for one in metrics.get("requirements", ())
    ]
    if rows:
        yield from table(["requirement", "measured", "result"], rows)


# Limits


def _limits(metrics: Row) -> Lines:
    yield from (f"- {safe(one)}" for one in limits(metrics))
    if bad := known_bad(metrics):
        yield f"\nNot to rely on: attributes with {KNOWN_BAD_RULE}.\n"
        yield from (f"- {_named(name)}: {safe(why)}" for name, why in bad.items())


def _provenance(metrics: Row) -> Lines:
    yield from (f"- {name}: {safe(said)}" for name, said in provenance(metrics))
