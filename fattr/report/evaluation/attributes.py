"""The attributes of an evaluation page: one table of all, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fattr.report.evaluation import words as words
from fattr.report.evaluation.plots import coverage_plot, reliability_plot
from fattr.report.evaluation.tables import (
    Cell,
    absent_cell,
    count_cell,
    data_table,
    figure_cell,
    head_cell,
    interval_cell,
    metric_cell,
    text_cell,
)
from fattr.report.evaluation.verdict import gaps, group_columns
from fattr.report.html import Html, join, tag

Row = Mapping[str, Any]

WITH_BARS = ("accuracy", "f1")
TABLE_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "f1",
    "precision",
    "recall",
    "average_precision",
    "roc_auc",
    "ece",
    "brier",
    "prevalence",
    "predicted_prevalence",
)
AGE_METRICS = ("accuracy", "one_off_accuracy", "cs5", "mae", "rmse", "ece", "brier")
GROUP_METRICS = (
    "accuracy",
    "one_off_accuracy",
    "mae",
    "balanced_accuracy",
    "precision",
    "recall",
    "false_positive_rate",
    "selection_rate",
    "f1",
    "average_precision",
    "roc_auc",
    "ece",
    "brier",
)
CLASS_METRICS = ("precision", "recall", "f1", "average_precision")
BIN_METRICS = ("accuracy", "one_off_accuracy", "mae", "bias")
CONFUSION_SHADES = 6


def anchor(index: int) -> str:
    """The id of an attribute's details; a number, since names are not to be trusted."""
    return f"attribute-{index}"


def link(index: int, name: str) -> Html:
    """A link to an attribute's details."""
    return tag("a", words.title(name), href=f"#{anchor(index)}")


def is_age(row: Row) -> bool:
    """Whether an attribute is an age: it alone has neighbours."""
    return "one_off_accuracy" in row


def attribute_table(metrics: Row) -> Html:
    """All attributes but ages, and those in a table of their own."""
    attributes = metrics["attributes"]
    columns = [column for column in group_columns(metrics) if "*" not in column]
    widest: dict[str, float] = {}
    for gap in (gap for column in columns for gap in gaps(metrics, column)):
        widest[gap.attribute] = max(gap.difference, widest.get(gap.attribute, 0.0))
    used = [m for m in TABLE_METRICS if any(m in row for row in attributes.values())]
    header = ["attribute", "n", *map(words.title, used), *(["widest gap"] if widest else [])]
    rows = [
        [
            head_cell(link(i, name), name),
            count_cell(row["n"]),
            *(metric_cell(row, metric, has_bar=metric in WITH_BARS) for metric in used),
            *([figure_cell(widest[name]) if name in widest else absent_cell()] if widest else []),
        ]
        for i, (name, row) in enumerate(attributes.items())
        if not is_age(row)
    ]
    caption = (
        "Every attribute. Bars are 95 % intervals, of accuracy from 0.5 to 1, of F1 from 0 to 1."
        + " Widest gap: of accuracy, between the groups of one column." * bool(widest)
    )
    return join(data_table(caption, header, rows) if rows else "", _age_table(attributes))


def _age_table(attributes: Mapping[str, Row]) -> Html:
    rows = [
        [
            head_cell(link(i, name), name),
            count_cell(row["n"]),
            *(metric_cell(row, metric, has_interval=True) for metric in AGE_METRICS),
        ]
        for i, (name, row) in enumerate(attributes.items())
        if is_age(row)
    ]
    header = ["age", "n", "the right bin", *map(words.title, AGE_METRICS[1:])]
    caption = "Ages, with 95 % intervals. Years are taken against the middle of the labelled bin."
    return data_table(caption, header, rows) if rows else Html("")


# One attribute


def attribute_details(metrics: Row) -> Iterator[Html]:
    """What is known of each attribute, closed until it is asked for."""
    for i, (name, row) in enumerate(metrics["attributes"].items()):
        shown = ("accuracy", "f1", "one_off_accuracy", "mae", "ece")
        facts = [f"{words.title(m)} {words.metric_in(row, m)}" for m in shown if m in row]
        yield tag(
            "details",
            tag("summary", tag("h3", words.title(name)), " ", tag("span", ", ".join(facts))),
            tag("div", *_inside(name, row), id=anchor(i), class_="inside"),
        )


def _inside(name: str, row: Row) -> Iterator[Html]:
    if said := words.description(name):
        yield tag("p", tag("code", name), f" ({said}).")
    if row.get("threshold") is not None:
        yield tag("p", f"Yes is said at a probability of {row['threshold']:.3f} or more.")
    charts = list(_charts(name, row))
    yield tag("div", _figures(row), *charts, class_="facts")
    yield from _classes(row)
    if "confusion" in row:
        yield _confusion(row)
    for column, values in row.get("by_group", {}).items():
        yield _by_group(column, values)
        if column in row.get("fairness", {}):
            yield spreads_table(column, row["fairness"][column])


def _figures(row: Row) -> Html:
    metrics = AGE_METRICS if is_age(row) else TABLE_METRICS
    known = [metric for metric in metrics if metric in row]
    ends = row.get("intervals", {})
    rows = [
        [
            head_cell(words.title(metric), metric),
            metric_cell(row, metric),
            interval_cell(ends.get(metric), words.digits_of(metric)),
        ]
        for metric in known
    ]
    caption = f"Figures of {words.plural(row['n'], 'face')}"
    return data_table(caption, ["metric", "value", "95 %"], rows)


def _charts(name: str, row: Row) -> Iterator[Html]:
    title = words.title(name)
    if bins := row.get("reliability"):
        right = "says yes" if "threshold" in row else "is right"
        yield tag(
            "figure",
            reliability_plot(bins, title),
            tag("figcaption", f"Reliability: how often the label {right} against the probability."),
        )
    own = row.get("selective", {})
    if own.get("curve"):
        parts = [("coverage", "labels kept"), ("accuracy", "right of these")]
        said = [f"{words.percent(own[key])} {text}" for key, text in parts if key in own]
        bands = f" At the model's own bands (ring): {', '.join(said)}." if said else ""
        yield tag(
            "figure",
            coverage_plot(own["curve"], title, own),
            tag("figcaption", f"Accuracy when only the surest labels are kept.{bands}"),
        )


def _classes(row: Row) -> Iterator[Html]:
    for key, metrics, what in (
        ("per_class", CLASS_METRICS, "class"),
        ("per_bin", BIN_METRICS, "bin"),
    ):
        if key in row:
            rows = [
                [
                    head_cell(value, value),
                    count_cell(one["n"]),
                    *(metric_cell(one, metric, has_interval=True) for metric in metrics),
                ]
                for value, one in row[key].items()
            ]
            header = [what, "n", *map(words.title, metrics)]
            yield data_table(f"By labelled {what}", header, rows)


def class_names(row: Row) -> list[str]:
    """The classes or bins of an attribute, in the order of its confusion matrix."""
    names = list(row.get("per_class") or row.get("per_bin") or ())
    num = len(row["confusion"])
    return names if len(names) == num else [str(k) for k in range(num)]


def _confusion(row: Row) -> Html:
    names = class_names(row)
    rows = []
    for name, counts in zip(names, row["confusion"], strict=True):
        total = sum(counts)
        cells = [_confusion_cell(count, total) for count in counts]
        rows.append([head_cell(name, name), count_cell(total), *cells])
    caption = "Confusion: faces labelled (rows) and predicted (columns), and the share of the row"
    return data_table(caption, ["labelled", "n", *names], rows, classes="heat")


def _confusion_cell(count: int, total: int) -> Cell:
    if not total:
        return count_cell(count)
    share = count / total
    level = min(int(share * CONFUSION_SHADES), CONFUSION_SHADES - 1)
    return Cell([str(count), tag("small", f"{share:.0%}")], count, f"c{level}")


# Groups of one attribute


def _by_group(column: str, values: Mapping[str, Row]) -> Html:
    used = [m for m in GROUP_METRICS if any(_has(one, m) for one in values.values())]
    rows = [
        [
            head_cell(words.group_title(value), value),
            count_cell(one["n"]),
            *(metric_cell(one, metric, has_interval=True) for metric in used),
        ]
        for value, one in values.items()
    ]
    return data_table(
        f"By {words.title(column)}, with 95 % intervals",
        ["group", "n", *map(words.title, used)],
        rows,
    )


def _has(row: Row, metric: str) -> bool:
    return metric in row or metric in row.get("not_estimable", ())


def spreads_table(column: str, fairness: Row) -> Html:
    """Difference and ratio of each metric between the groups of a column."""
    rows = [
        [
            head_cell(words.title(metric), metric),
            figure_cell(own.get("difference"), own.get("difference_interval")),
            metric_cell(own, "difference_by_chance"),
            figure_cell(own.get("ratio"), own.get("ratio_interval")),
            *_extreme(own, "worst"),
            *_extreme(own, "best"),
        ]
        for metric, own in fairness.items()
        if isinstance(own, Mapping) and "difference" in own
    ]
    header = [
        "metric",
        "difference",
        "by chance",
        "ratio",
        "worst group",
        "its value",
        "best group",
        "its value",
    ]
    return data_table(f"Between the groups of {words.title(column)}", header, rows)


def _extreme(own: Row, which: str) -> Sequence[Cell]:
    if own.get(f"{which}_group") is None:
        return [absent_cell(), absent_cell()]
    return [text_cell(words.group_title(own[f"{which}_group"])), figure_cell(own.get(which))]
