"""The other sections of an evaluation page, each of one part of ``metrics.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fattr.report.evaluation import words as words
from fattr.report.evaluation.attributes import link
from fattr.report.evaluation.facts import corruption_title, gate_sentence
from fattr.report.evaluation.plots import coverage_plot, curves_plot, legend, reliability_plot
from fattr.report.evaluation.tables import (
    Cell,
    absent_cell,
    count_cell,
    data_table,
    figure_cell,
    head_cell,
    metric_cell,
    text_cell,
)
from fattr.report.html import Html, tag

Row = Mapping[str, Any]

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
ROBUSTNESS_SERIES = ("accuracy", "detection_recall", "abstained_frac")
ROBUSTNESS_METRICS = ("accuracy", "change", "detection_recall", "abstained_frac", "ece")
COMPARED = ("accuracy", "balanced_accuracy", "f1", "average_precision")


def calibration_section(metrics: Row) -> Iterator[Html]:
    """ECE and Brier score, and a small reliability diagram of every attribute, worst first."""
    attributes = metrics["attributes"]
    macro = metrics["macro"]
    shown = [f"{words.title(m)} {words.figure(macro[m])}" for m in ("ece", "brier") if m in macro]
    if shown:
        yield tag("p", f"Mean over attributes: {', '.join(shown)}.")
    with_bins = {name: row for name, row in attributes.items() if row.get("reliability")}
    if not with_bins:
        return
    yield tag(
        "p",
        "Each dot is a tenth of the faces: across, the mean probability they were given; up, the"
        " share that was right. On the dotted line the probability can be taken at its word; below"
        " the line it is too high, above it too low.",
    )
    index = {name: i for i, name in enumerate(attributes)}
    yield tag(
        "div",
        *(
            tag(
                "figure",
                reliability_plot(row["reliability"], words.title(name)),
                tag("figcaption", link(index[name], name), " ", _off(row)),
            )
            for name, row in sorted(with_bins.items(), key=lambda item: -(item[1].get("ece") or 0))
        ),
        class_="multiples",
    )


def _off(row: Row) -> Html:
    return tag("small", f"ECE {words.metric_in(row, 'ece')}")


def abstention_section(metrics: Row) -> Iterator[Html]:
    """What is gained by leaving labels out, over all attributes and for each."""
    own = metrics.get("selective", {})
    if own.get("curve"):
        caption = "Mean over attributes; the ring is at the model's own abstention bands."
        yield tag(
            "div",
            tag(
                "figure",
                coverage_plot(own["curve"], "all attributes", own),
                tag("figcaption", caption),
            ),
            _coverages(own["curve"]),
            class_="facts",
        )
    if rows := list(_abstention_rows(metrics["attributes"])):
        yield data_table(
            "Abstention by attribute: the share of labels given at the model's own bands, and the"
            " share of labels that is right",
            [
                "attribute",
                "labels given",
                "right of these",
                "right of all",
                "right of surest 90 %",
                "gain",
            ],
            rows,
        )


def _coverages(curve: Sequence[Row]) -> Html:
    """The curve as a table, at the point nearest to each of some coverages."""
    nearest = [min(curve, key=lambda p: abs(p["coverage"] - wanted)) for wanted in COVERAGES]
    rows = [
        [head_cell(words.percent(p["coverage"], 0), f"{p['coverage']}"), figure_cell(p["accuracy"])]
        for p in {p["coverage"]: p for p in nearest}.values()
    ]
    return data_table("Accuracy of the surest labels", ["labels kept", "accuracy"], rows)


def _abstention_rows(attributes: Mapping[str, Row]) -> Iterator[list[Cell]]:
    for i, (name, row) in enumerate(attributes.items()):
        if own := row.get("selective"):
            at_90, full = own.get("accuracy_at_90"), row["accuracy"]
            gain = None if at_90 is None or full is None else at_90 - full
            yield [
                head_cell(link(i, name), name),
                metric_cell(own, "coverage"),
                metric_cell(own, "accuracy"),
                metric_cell(row, "accuracy"),
                metric_cell(own, "accuracy_at_90"),
                figure_cell(gain, signed=True),
            ]


def robustness_section(curves: Mapping[str, Row]) -> Iterator[Html]:
    """Curves against how much pictures are spoilt, and their numbers."""
    yield legend([words.title(one) for one in ROBUSTNESS_SERIES])
    yield tag("div", *(_curves(name, one) for name, one in curves.items()), class_="multiples wide")
    if said := gate_sentence(curves):
        yield tag("p", said)
    for name, one in curves.items():
        rows = [
            [
                Cell(f"{point['value']:g}", point["value"], is_head=True),
                count_cell(point.get("n")),
                *(metric_cell(point, metric, has_interval=True) for metric in ROBUSTNESS_METRICS),
            ]
            for point in one["points"]
        ]
        header = [one["unit"], "n", *map(words.title, ROBUSTNESS_METRICS)]
        said = corruption_title(name, one)
        table = data_table(f"Robustness: {said}", header, rows)
        yield tag("details", tag("summary", f"{said} in numbers"), table)


def _curves(name: str, one: Row) -> Html:
    points = one["points"]
    series = {metric: [p.get(metric) for p in points] for metric in ROBUSTNESS_SERIES}
    said = corruption_title(name, one)
    chart = curves_plot([p["value"] for p in points], series, said, one["unit"])
    return tag("figure", chart, tag("figcaption", said))


def consistency_section(rules: Mapping[str, Row]) -> Iterator[Html]:
    """How often labels contradict each other, as predicted and as annotated."""
    rows = [
        [
            head_cell(words.title(name), name),
            text_cell(one.get("description", "")),
            count_cell(one.get("n")),
            count_cell(one.get("count")),
            figure_cell(one.get("rate"), one.get("interval"), digits=4),
            figure_cell(one.get("target_rate"), one.get("target_interval"), digits=4),
        ]
        for name, one in rules.items()
    ]
    yield data_table(
        "Labels that cannot both be true: the share of faces with both",
        ["rule", "what contradicts", "n", "faces", "rate", "rate as annotated"],
        rows,
    )


def mistakes_section(mistakes: Mapping[str, Row]) -> Iterator[Html]:
    """Where to look for wrong answers, and for wrong labels."""
    columns = list(dict.fromkeys(key for one in mistakes.values() for key in one))
    rows = [
        [head_cell(words.title(name), name), *(_any(one.get(key)) for key in columns)]
        for name, one in mistakes.items()
    ]
    yield data_table(
        "Mistakes the model is sure of, and labels that are probably wrong themselves",
        ["attribute", *map(words.title, columns)],
        rows,
    )


def _any(value: object) -> Cell:
    return count_cell(value) if isinstance(value, int) else text_cell(str(value or ""))


def requirements_section(requirements: Sequence[Row]) -> Iterator[Html]:
    """What was asked for, what is, and whether that is enough."""
    rows = [
        [
            head_cell(one["text"], one["text"]),
            figure_cell(one["value"]),
            figure_cell(one["bar"]),
            Cell("met" if one["met"] else "missed", "met" if one["met"] else "missed", _mark(one)),
        ]
        for one in requirements
    ]
    yield data_table("Requirements", ["requirement", "measured", "bar", "result"], rows)


def _mark(requirement: Row) -> str:
    return "word met" if requirement["met"] else "word missed"


# Comparison


def comparison_section(against: Row) -> Iterator[Html]:
    """Another model on the same faces: differences, and the groups that lose."""
    yield tag(
        "p",
        "Against ",
        tag("b", against["model"]),
        f" ({against['model_id'][:12]}): ",
        tag("b", against["verdict"]),
        ".",
    )
    yield tag("p", against.get("summary", ""))
    rows = [
        [head_cell(words.title(metric), metric), _difference(one)]
        for metric, one in against["macro"].items()
    ]
    yield data_table(
        "Mean over attributes: this model less the other, on the same faces",
        ["metric", "difference"],
        rows,
    )
    yield _attribute_differences(against["attributes"])
    if against.get("regressions"):
        yield _regressions(against)
    else:
        yield tag("p", "No group of faces is labelled less accurately than before.")


def _difference(one: Row | None) -> Cell:
    if one is None:
        return absent_cell()
    return figure_cell(one.get("difference"), one.get("interval"), signed=True)


def _attribute_differences(attributes: Mapping[str, Row]) -> Html:
    used = [metric for metric in COMPARED if any(metric in one for one in attributes.values())]
    rows = [
        [
            head_cell(words.title(name), name),
            count_cell(one.get("n")),
            *(_difference(one.get(metric)) for metric in used),
            count_cell(one.get("n_better")),
            count_cell(one.get("n_worse")),
            figure_cell(one.get("p_mcnemar")),
        ]
        for name, one in attributes.items()
    ]
    header = ["attribute", "n", *map(words.title, used), "better", "worse", "p"]
    caption = (
        "By attribute: differences with 95 % intervals; faces that only this model, and only the"
        " other, labels right; McNemar's p"
    )
    return data_table(caption, header, rows)


def _regressions(against: Row) -> Html:
    rows = [
        [
            head_cell(words.title(one["attribute"]), one["attribute"]),
            text_cell(f"{words.title(one['column'])}: {words.group_title(one['group'])}"),
            count_cell(one["n"]),
            _difference(one),
            text_cell("beyond chance" if one.get("confirmed") else "may be chance"),
        ]
        for one in against["regressions"]
    ]
    caption = (
        f"Groups labelled less accurately than by the other model, of {against['num_cells']} looked"
        " at; beyond chance: so by McNemar's test with Holm's correction"
    )
    return data_table(caption, ["attribute", "group", "n", "accuracy", "evidence"], rows)
