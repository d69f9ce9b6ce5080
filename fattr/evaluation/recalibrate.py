"""A model's calibration fitted again on scored faces, and what that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fattr.attributes import Attribute, Kind
from fattr.classify.calibration import Calibration, attribute_probabilities
from fattr.classify.fit_calibration import (
    AttributeFit,
    FitSettings,
    fit_attribute,
    log_losses,
    replaced,
)
from fattr.evaluation.scores import Scores
from fattr.metrics.calibration import calibration_metrics
from fattr.metrics.selective import selective_metrics
from fattr.records import FloatArray

Report: TypeAlias = dict[str, Any]
Targets: TypeAlias = NDArray[np.int64]
FIGURES = ("accuracy", "log_loss", "ece", "brier", "coverage", "selective_accuracy")


def recalibrate(
    scores: Scores, current: Calibration, settings: FitSettings
) -> tuple[Calibration, Report]:
    """The calibration that the scored faces ask for, and a report that JSON can hold.

    An attribute of which nothing can be fitted keeps all of its current calibration, and its
    ``status`` says why; any other loses all of it. The report's figures are {before, after} on the
    faces that were fitted, so that what is after flatters. ``held_out`` is free of that: log loss,
    ECE, Brier score and reliability with each face's probability by a fit without it. Means are
    over binary and categorical attributes, where defined.
    """
    fitted, rows = current, {}
    for attribute in scores.attributes:
        targets = scores.targets(attribute)
        known = targets >= 0
        targets, logits = targets[known], scores.logits(attribute)[known]
        one = fit_attribute(logits, targets, attribute, settings)
        if one.method:
            fitted = replaced(fitted, attribute, one.calibration)
        before, after = (
            {
                **parameters(attribute, calibration),
                **figures(attribute, targets, logits, calibration),
            }
            for calibration in (current, fitted)
        )
        rows[attribute.name] = {
            "n": len(targets),
            "status": one.status,
            "method": one.method,
            "threshold_status": one.threshold_status,
            "log_losses": dict(one.log_losses),
            **{name: {"before": before[name], "after": after[name]} for name in before},
            "held_out": held_out_figures(attribute, targets, one),
        }
    return fitted, {"attributes": rows, "macro": mean_figures(rows, scores.attributes)}


def parameters(attribute: Attribute, calibration: Calibration) -> Report:
    """How the labels of one attribute are made, the defaults told; no curves, but their sizes."""
    name, binary = attribute.name, attribute.kind is Kind.BINARY
    curves, band = calibration.curves.get(name), calibration.abstain.get(name)
    return {
        "temperature": None if curves else calibration.temperatures.get(name, 1.0),
        "biases": None if curves else list(calibration.biases.get(name, ())),
        "num_knots": [len(curve.probs) for curve in curves or ()],
        "threshold": calibration.thresholds.get(name, 0.5) if binary else None,
        "band": list(band) if band else None,
    }


def figures(
    attribute: Attribute, targets: Targets, logits: FloatArray, calibration: Calibration
) -> Report:
    """How good probabilities and labels of N faces are under a calibration; None without faces.

    ``accuracy`` is that of all faces, ``selective_accuracy`` that of the share ``coverage`` outside
    of the abstention band.
    """
    probs = attribute_probabilities(logits, attribute, calibration)
    selective = selective_metrics(attribute, targets, probs, calibration)
    return {
        "accuracy": selective["curve"][0]["accuracy"],
        "log_loss": _mean(log_losses(probs, targets, attribute).tolist()),
        **calibration_metrics(attribute, targets, probs),
        "coverage": selective["coverage"],
        "selective_accuracy": selective["accuracy"],
    }


def held_out_figures(attribute: Attribute, targets: Targets, one: AttributeFit) -> Report | None:
    """What ``figures`` says of probabilities, of the cross-validated ones; None without a fit."""
    if one.held_out_probs is None:
        return None
    losses = log_losses(one.held_out_probs, targets, attribute)
    return {
        "log_loss": float(losses.mean()),
        **calibration_metrics(attribute, targets, one.held_out_probs),
    }


def mean_figures(rows: Mapping[str, Report], attributes: Sequence[Attribute]) -> Report:
    """Plain means of the attributes' figures, ages left out, and whatever is undefined."""
    counted = [rows[a.name] for a in attributes if a.kind is not Kind.AGE]
    means: Report = {
        name: {when: _mean([row[name][when] for row in counted]) for when in ("before", "after")}
        for name in FIGURES
    }
    judged = [row["held_out"] for row in counted if row["held_out"]]
    names = ("log_loss", "ece", "brier")
    means["held_out"] = {name: _mean([row[name] for row in judged]) for name in names}
    return means


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
