"""The groups of an evaluation as Markdown: coverage, accuracy and F1 by group, and fairness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fattr.report.evaluation import words as words
from fattr.report.evaluation.attributes import is_age
from fattr.report.evaluation.groups import RULES, coverage_metrics
from fattr.report.evaluation.verdict import group_columns
from fattr.report.markdown import table
from fattr.report.markdown_text import safe

Row = Mapping[str, Any]

DIFFERENCES = [rule for rule in RULES if rule.endswith("_difference")]


def group_lines(metrics: Row) -> Iterator[str]:
    """A section a group column; groups are rows where they are more than the attributes."""
    for column in group_columns(metrics):
        said = safe(words.title(column))
        yield f"\n### By {said}\n"
        if column in metrics.get("coverage", {}):
            yield "Coverage, with 95 % intervals:\n"
            yield from _coverage(metrics["coverage"][column])
        yield from _coverage_gaps(metrics.get("coverage_gaps", {}).get(column, {}))
        rows = {
            name: row
            for name, row in metrics["attributes"].items()
            if column in row.get("by_group", {})
        }
        for metric in ("accuracy", "f1"):
            own = {name: row for name, row in rows.items() if metric in row}
            if own:
                yield f"\n{words.sentence(words.title(metric))}, with 95 % intervals:\n"
                yield from _figures(column, own, metric)
        fair = {name: row for name, row in rows.items() if column in row.get("fairness", {})}
        if fair:
            yield f"\nFairness by {said}: accuracy from the worst to the best group, and rules:\n"
            yield from _fairness(column, fair)


def cell(row: Row, metric: str) -> str:
    """A figure with its interval, or why there is none."""
    ends = row.get("intervals", {}).get(metric)
    said = words.metric_in(row, metric)
    is_number = row.get(metric) is not None
    return (
        f"{said} ({words.interval(ends, words.digits_of(metric))})" if ends and is_number else said
    )


def _group(value: str) -> str:
    return safe(words.group_title(value))


def _coverage(values: Mapping[str, Row]) -> Iterator[str]:
    used = coverage_metrics(values)
    rows = [
        [_group(value), words.count(row["n"]), *(cell(row, metric) for metric in used)]
        for value, row in values.items()
    ]
    yield from table(["group", "n", *map(words.title, used)], rows)


def _coverage_gaps(gaps: Row) -> Iterator[str]:
    """How far groups are apart in what is found and labelled, a line each."""
    for metric, own in gaps.items():
        if isinstance(own, Mapping) and own.get("difference") is not None:
            size = words.with_interval(own["difference"], own.get("difference_interval"))
            chance = words.metric_in(own, "difference_by_chance")
            yield (
                f"\n{words.sentence(words.title(metric))}: {_extreme(own, 'worst')} to "
                f"{_extreme(own, 'best')}, difference {size}, by chance {chance}."
            )


def _figures(column: str, rows: Mapping[str, Row], metric: str) -> Iterator[str]:
    groups = {name: row["by_group"][column] for name, row in rows.items()}
    values = list(dict.fromkeys(value for own in groups.values() for value in own))
    sizes = {v: max(own[v]["n"] for own in groups.values() if v in own) for v in values}

    def of(name: str, value: str) -> str:
        own = groups[name].get(value)
        if own is None:
            return words.ABSENT
        note = "" if own["n"] == sizes[value] else f", n {words.count(own['n'])}"
        return cell(own, metric) + note

    if len(values) > len(rows):
        yield from table(
            ["group", "n", *(safe(words.title(name)) for name in rows)],
            [[_group(v), words.count(sizes[v]), *(of(name, v) for name in rows)] for v in values],
        )
    else:
        heads = [f"{_group(v)} (n {words.count(sizes[v])})" for v in values]
        yield from table(
            ["attribute", *heads],
            [[safe(words.title(name)), *(of(name, v) for v in values)] for name in rows],
        )


def _fairness(column: str, rows: Mapping[str, Row]) -> Iterator[str]:
    header = ["attribute", "difference", "by chance", "ratio", "worst", "best"]
    header += [words.title(rule.removesuffix("_difference")) for rule in DIFFERENCES]
    yield from table(
        [*header, "left out"],
        [[safe(words.title(name)), *_fairness_cells(row, column)] for name, row in rows.items()],
    )


def _fairness_cells(row: Row, column: str) -> list[str]:
    fairness = row["fairness"][column]
    rules = {} if is_age(row) else fairness  # ages have no yes
    own = fairness.get("accuracy") or {}
    left_out = fairness.get("groups_left_out", {})
    return [
        words.with_interval(own.get("difference"), own.get("difference_interval")),
        words.metric_in(own, "difference_by_chance"),
        words.with_interval(own.get("ratio"), own.get("ratio_interval")),
        *(_extreme(own, which) for which in ("worst", "best")),
        *(words.metric_in(rules, rule) for rule in DIFFERENCES),
        ", ".join(f"{_group(value)}: {safe(why)}" for value, why in left_out.items()),
    ]


def _extreme(own: Row, which: str) -> str:
    if own.get(f"{which}_group") is None:
        return words.ABSENT
    return f"{_group(own[f'{which}_group'])} {words.figure(own.get(which))}"
