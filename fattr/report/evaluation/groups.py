"""The groups of an evaluation page: for whom it is less accurate, or says nothing at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fattr.report.evaluation import words as words
from fattr.report.evaluation.attributes import is_age, link, spreads_table
from fattr.report.evaluation.tables import (
    Cell,
    absent_cell,
    count_cell,
    data_table,
    figure_cell,
    head_cell,
    interval_cell,
    metric_cell,
    shade,
)
from fattr.report.evaluation.verdict import group_columns
from fattr.report.html import Child, Html, tag

Row = Mapping[str, Any]

COVERAGE_METRICS = ("detection_recall", "too_small_frac", "abstained_frac")
RULES = [
    f"{rule}_{kind}"
    for rule in ("demographic_parity", "equalized_odds", "equal_opportunity")
    for kind in ("difference", "ratio")
]
RULE_NAMES = ("parity", "parity ratio", "odds", "odds ratio", "opportunity", "opportunity ratio")
KEY = (
    ("w3", "worse by 0.10 or more"),
    ("w2", "0.05"),
    ("w1", "0.02"),
    ("same", "alike"),
    ("b1", "better by 0.02"),
    ("b2", "0.05"),
    ("b3", "0.10 or more"),
)


def groups_section(metrics: Row) -> Iterator[Html]:
    """Accuracy, F1 and fairness of each group column and intersection, then coverage."""
    columns = group_columns(metrics)
    if columns:
        yield tag(
            "p",
            "Groups are as annotated. A cell is tinted by how far it is from the attribute's figure"
            " over all faces, and bold where that lies outside of the group's 95 % interval.",
        )
        yield _key()
    for column in columns:
        yield tag("h3", f"By {words.title(column)}")
        rows = {
            name: row
            for name, row in metrics["attributes"].items()
            if column in row.get("by_group", {})
        }
        if rows:
            yield from _column(metrics, column, rows)
        if column in metrics.get("coverage", {}):
            yield _coverage(column, metrics["coverage"][column])
        if column in metrics.get("coverage_gaps", {}):
            yield spreads_table(f"{column}, in coverage", metrics["coverage_gaps"][column])


def _column(metrics: Row, column: str, rows: Mapping[str, Row]) -> Iterator[Html]:
    index = {name: i for i, name in enumerate(metrics["attributes"])}
    yield _heat_map(column, rows, "accuracy", index)
    f1_rows = {name: row for name, row in rows.items() if "f1" in row}
    if f1_rows:
        yield tag(
            "details",
            tag("summary", f"F1 by {words.title(column)}"),
            _heat_map(column, f1_rows, "f1", index),
        )
    fair = {name: row for name, row in rows.items() if column in row.get("fairness", {})}
    if fair:
        yield _fairness(column, fair, index)


def _key() -> Html:
    items = [tag("li", tag("span", class_=f"swatch {name}"), f" {said}") for name, said in KEY]
    return tag("ul", *items, class_="legend")


# Figures by group


def _heat_map(column: str, rows: Mapping[str, Row], metric: str, index: Mapping[str, int]) -> Html:
    """A row an attribute and a column a group, or the other way round where groups are more."""
    values = list(dict.fromkeys(v for row in rows.values() for v in row["by_group"][column]))
    sizes = {v: max(_n(row, column, v) for row in rows.values()) for v in values}
    cells = {
        (name, v): _cell(row, column, v, metric, sizes[v])
        for name, row in rows.items()
        for v in values
    }
    caption = f"{words.sentence(words.title(metric))} by {words.title(column)}"
    if len(values) > max(len(rows), 8):
        header: list[Child] = ["group", "n", *map(words.title, rows)]
        body = [
            [head_cell(words.group_title(v), v), count_cell(sizes[v])]
            + [cells[name, v] for name in rows]
            for v in values
        ]
        return data_table(caption, header, body, classes="heat")
    spreads = {name: _spread(row, column, metric) for name, row in rows.items()}
    widest = sorted(rows, key=lambda name: -float(spreads[name][0].value or -1))
    heads = [[words.group_title(v), tag("small", f"n {words.count(sizes[v])}")] for v in values]
    body = [
        [head_cell(link(index[name], name), name), metric_cell(rows[name], metric)]
        + [cells[name, v] for v in values]
        + spreads[name]
        for name in widest
    ]
    header = ["attribute", "all", *heads, "difference", "95 %"]
    return data_table(caption, header, body, classes="heat", sorted_by=len(header) - 2)


def _n(row: Row, column: str, value: str) -> int:
    return int(row["by_group"][column].get(value, {}).get("n", 0))


def _cell(row: Row, column: str, value: str, metric: str, size: int) -> Cell:
    """A group's figure, tinted and perhaps bold, with n where it is not the column's."""
    if value not in row["by_group"][column]:
        return absent_cell()
    own = row["by_group"][column][value]
    cell = metric_cell(own, metric)
    overall, ends = row.get(metric), own.get("intervals", {}).get(metric)
    note = tag("small", f"n {words.count(own['n'])}") if own["n"] != size else None
    if not isinstance(cell.value, float | int):
        return Cell([cell.shown, note], None, cell.classes)
    is_off = ends is not None and overall is not None and not ends[0] <= overall <= ends[1]
    tint = shade(cell.value, overall)
    return Cell([cell.shown, note], cell.value, f"{tint} off" if is_off else tint)


def _spread(row: Row, column: str, metric: str) -> list[Cell]:
    """The difference between the best and the worst group, and its interval."""
    own = row.get("fairness", {}).get(column, {}).get(metric) or {}
    return [figure_cell(own.get("difference")), interval_cell(own.get("difference_interval"))]


# Fairness


def _fairness(column: str, rows: Mapping[str, Row], index: Mapping[str, int]) -> Html:
    body = [
        [
            head_cell(link(index[name], name), name),
            *_accuracy_cells(row["fairness"][column].get("accuracy") or {}),
            *(_rule_cell(row, column, rule) for rule in RULES),
            Cell(_left_out(row["fairness"][column]), classes="word long"),
        ]
        for name, row in rows.items()
    ]
    header = [
        "attribute",
        "accuracy: difference",
        "by chance",
        "ratio",
        "worst group",
        "best group",
        *RULE_NAMES,
        "left out",
    ]
    caption = (
        f"Fairness by {words.title(column)}: accuracy between the worst and the best group;"
        " demographic parity, equalized odds and equal opportunity as differences (0 is equal) and"
        " ratios (1 is equal)"
    )
    return data_table(caption, header, body)


def _accuracy_cells(own: Row) -> list[Cell]:
    return [
        figure_cell(own.get("difference"), own.get("difference_interval")),
        metric_cell(own, "difference_by_chance"),
        figure_cell(own.get("ratio"), own.get("ratio_interval")),
        *(_group_cell(own, which) for which in ("worst", "best")),
    ]


def _group_cell(own: Row, which: str) -> Cell:
    if own.get(f"{which}_group") is None:
        return absent_cell()
    name = words.group_title(own[f"{which}_group"])
    return Cell([name, tag("small", words.figure(own.get(which)))], name, "word group")


def _rule_cell(row: Row, column: str, rule: str) -> Cell:
    """A parity figure; ages have no yes, and none."""
    fairness = row["fairness"][column]
    return absent_cell() if is_age(row) or rule not in fairness else figure_cell(fairness[rule])


def _left_out(fairness: Row) -> str:
    """Why which groups were not compared."""
    why: dict[str, list[str]] = {}
    for value, reason in fairness.get("groups_left_out", {}).items():
        why.setdefault(reason, []).append(words.group_title(value))
    return "; ".join(f"{reason}: {', '.join(values)}" for reason, values in why.items())


# Coverage


def coverage_metrics(values: Mapping[str, Row]) -> list[str]:
    """What was looked at: where no face was searched for, none can be missed."""
    return [m for m in COVERAGE_METRICS if any(row.get(m) is not None for row in values.values())]


def _coverage(column: str, values: Mapping[str, Row]) -> Html:
    used = coverage_metrics(values)
    rows = [
        [
            head_cell(words.group_title(value), value),
            count_cell(row["n"]),
            *(
                cell
                for metric in used
                for cell in (
                    metric_cell(row, metric, has_bar=True),
                    interval_cell(row.get("intervals", {}).get(metric)),
                )
            ),
        ]
        for value, row in values.items()
    ]
    header = ["group", "n", *(head for metric in used for head in (words.title(metric), "95 %"))]
    caption = (
        f"Coverage by {words.title(column)}: the share of faces that were found, of those found"
        " the share too small for a label, and the share of labels left out as undecided"
    )
    return data_table(caption, header, rows)
