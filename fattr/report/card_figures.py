"""The part of ``metrics.json`` that a bundle keeps beside its card: enough to write it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]

SHOWN_METRICS = ("accuracy", "balanced_accuracy", "f1", "average_precision", "one_off_accuracy")
ATTRIBUTE_METRICS = ("n", *SHOWN_METRICS, "mae", "ece", "brier")
GROUP_METRICS = ("n", "status", "not_estimable", *SHOWN_METRICS)
SPANS = ("accuracy", "f1")
SPREAD = (
    "difference",
    "difference_interval",
    "difference_by_chance",
    "worst_group",
    "worst",
    "best_group",
    "best",
)
OPPORTUNITY = "equal_opportunity_difference"
COVERAGE = ("n", "status", "detection_recall", "too_small_frac", "abstained_frac")
SELECTIVE = ("coverage", "accuracy", "accuracy_at_full_coverage", "accuracy_at_90")


def card_figures(metrics: Row) -> dict[str, Any]:
    """The part of a ``metrics.json`` that the card shows, in its shape."""
    fields = (
        "command",
        "num_images",
        "detection_recall",
        "min_face_px",
        "gated_frac",
        "num_macro_attributes",
        "macro",
    )
    figures = _part(metrics, fields)
    figures["attributes"] = {n: _attribute(row) for n, row in metrics["attributes"].items()}
    if metrics.get("selective"):
        figures["selective"] = _part(metrics["selective"], SELECTIVE)
    if metrics.get("coverage"):
        figures["coverage"] = {
            column: {value: _part(one, COVERAGE) for value, one in values.items()}
            for column, values in metrics["coverage"].items()
        }
    gates = {n: _part(one, ("gate",)) for n, one in metrics.get("robustness", {}).items()}
    if kept := {name: one for name, one in gates.items() if one}:
        figures["robustness"] = kept
    return figures


def _part(row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


def _attribute(row: Row) -> dict[str, Any]:
    return {
        **_part(row, ATTRIBUTE_METRICS),
        **_spans(row),
        "by_group": {
            column: {
                value: _part(one, GROUP_METRICS) | _spans(one) for value, one in values.items()
            }
            for column, values in row.get("by_group", {}).items()
        },
        "fairness": {
            column: {
                "accuracy": _part(own.get("accuracy") or {}, SPREAD),
                **_part(own, (OPPORTUNITY,)),
            }
            for column, own in row.get("fairness", {}).items()
        },
    }


def _spans(row: Row) -> dict[str, Any]:
    kept = _part(row.get("intervals", {}), SPANS)
    return {"intervals": kept} if kept else {}
