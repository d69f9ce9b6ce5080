"""From scores to the figures of ``metrics.json``: of each attribute, over groups, over all.

The scores of one attribute are in memory at a time; figures by group keep two flags a face and
attribute besides. The shape of the result is described in ``docs/metrics.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fattr.attributes import CONTRADICTIONS, Attribute, Kind
from fattr.classify.calibration import Calibration, abstained, attribute_probabilities
from fattr.evaluation.scores import UNKNOWN, Scores
from fattr.metrics.attribute import Metrics, macro, measure, micro
from fattr.metrics.by_group import MIN_N, Members, figures, group_members, measure_groups
from fattr.metrics.calibration import calibration_metrics
from fattr.metrics.compare import Answers
from fattr.metrics.consistency import consistency
from fattr.metrics.coverage import coverage_gaps, measure_coverage
from fattr.metrics.fairness import fairness
from fattr.metrics.intervals import SEED
from fattr.metrics.selective import macro_selective, selective_metrics
from fattr.records import FloatArray

_CONTRADICTED = {name for one in CONTRADICTIONS for name in one.attributes}

Progress: TypeAlias = Callable[[Iterator[Attribute]], Iterator[Attribute]]


def answers_of(scores: Scores, calibration: Calibration, *, model: str, model_id: str) -> Answers:
    """What the model says of the faces, computed when asked for."""

    def probs(attribute: Attribute) -> FloatArray:
        return attribute_probabilities(scores.logits(attribute), attribute, calibration)

    return Answers(model=model, model_id=model_id, probs=probs, thresholds=calibration.thresholds)


def evaluation(
    scores: Scores,
    calibration: Calibration,
    *,
    groups: Mapping[str, Sequence[str]],
    looked_for: bool,
    min_face_px: float,
    min_group: int = MIN_N,
    progress: Progress = lambda items: items,
) -> dict[str, Any]:
    """All figures of all labelled faces; gate and abstention count where they are named.

    ``groups`` has for each column one value a face, "" where unknown. ``looked_for``: faces were
    detected, not taken for granted. ``progress`` wraps the iteration over the attributes.
    """
    members = group_members(groups)
    by_name: dict[str, Metrics] = {}
    hidden, labelled = [], []
    predicted, annotated = dict[str, NDArray[np.int8]](), dict[str, NDArray[np.int8]]()
    for a in progress(iter(scores.attributes)):
        targets = scores.targets(a)
        probs = attribute_probabilities(scores.logits(a), a, calibration)
        by_name[a.name] = attribute_figures(a, targets, probs, calibration, members, min_group)
        is_hidden = abstained(probs, a, calibration)
        if members:
            hidden.append(is_hidden)
            labelled.append(targets != UNKNOWN)
        if a.name in _CONTRADICTED and a.kind is Kind.BINARY:
            says = probs >= calibration.thresholds.get(a.name, 0.5)
            predicted[a.name] = np.where(is_hidden, UNKNOWN, says).astype(np.int8)
            annotated[a.name] = targets.astype(np.int8)
    coverage = measure_coverage(
        members,
        found=scores.found if looked_for else None,
        face_px=scores.face_px,
        min_face_px=min_face_px,
        abstained=np.stack(hidden, axis=1) if members else None,
        labelled=np.stack(labelled, axis=1) if members else None,
        min_n=min_group,
    )
    means = macro(by_name, scores.attributes)
    selective = {name: metrics["selective"] for name, metrics in by_name.items()}
    return {
        "num_images": len(scores),
        **detection_figures(scores, looked_for=looked_for, min_face_px=min_face_px),
        "num_macro_attributes": means["num_attributes"]["accuracy"],
        "macro": means,
        "micro": micro(by_name, scores.attributes),
        "selective": macro_selective(selective, scores.attributes),
        "attributes": by_name,
        "coverage": figures(coverage),
        "coverage_gaps": {column: coverage_gaps(values) for column, values in coverage.items()},
        "consistency": consistency(predicted, annotated),
    }


def attribute_figures(
    attribute: Attribute,
    targets: NDArray[np.int64],
    probs: FloatArray,
    calibration: Calibration,
    members: Members,
    min_group: int,
) -> Metrics:
    """The figures of one attribute, over all faces and by group, with 95 % intervals."""
    threshold = calibration.thresholds.get(attribute.name, 0.5)
    rng = np.random.default_rng(SEED)
    metrics = measure(attribute, targets, probs, threshold, rng).metrics
    metrics |= calibration_metrics(attribute, targets, probs)
    metrics["selective"] = selective_metrics(attribute, targets, probs, calibration)
    if attribute.kind is Kind.BINARY:
        metrics["threshold"] = threshold
    if not members:
        return metrics

    def more(own_targets: NDArray[np.int64], own_probs: NDArray[Any]) -> Metrics:
        found = calibration_metrics(attribute, own_targets, own_probs)
        kept = selective_metrics(attribute, own_targets, own_probs, calibration)
        return {
            **{name: found[name] for name in ("ece", "brier")},
            "selective": {name: kept[name] for name in ("coverage", "accuracy")},
        }

    measured = measure_groups(
        attribute, targets, probs, threshold, members, min_n=min_group, extra=more
    )
    metrics["by_group"] = figures(measured)
    metrics["fairness"] = {
        column: fairness(attribute, values) for column, values in measured.items()
    }
    return metrics


def detection_figures(scores: Scores, *, looked_for: bool, min_face_px: float) -> dict[str, Any]:
    """Share of pictures with a face found, and of found faces that annotate would not label.

    Null where no face was looked for; the second also where none was found.
    """
    found = scores.found
    found_px = scores.face_px[found]
    return {
        "detection_recall": float(found.mean()) if looked_for and len(found) else None,
        "min_face_px": min_face_px,
        "gated_frac": float((found_px < min_face_px).mean()) if len(found_px) else None,
    }
