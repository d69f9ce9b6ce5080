"""What holds for every evaluation, and what was measured on what: text for all pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fattr.metrics.attribute import CALIBRATION_METRICS, MACRO_METRICS
from fattr.report.evaluation import words as words

RESEARCH_ONLY = "Research only: the terms of the model or of the data allow nothing else."
LIMITS = (
    "Labels are annotators' impressions of pictures, and some are wrong: no figure here is surer"
    " than they are.",
    "The figures hold for pictures like these. Measure on your own, by group, before relying on"
    " them.",
    "Groups are as annotated. They serve measuring only; no model predicts race.",
    "For describing collections; not for decisions about a person, and not for identifying anyone.",
)
OPTIONAL = {
    "by group (--groups)": "coverage",
    "abstention": "selective",
    "robustness": "robustness",
    "consistency": "consistency",
    "against another model (--against)": "against",
    "against requirements (--require)": "requirements",
}
MEANS = (*MACRO_METRICS, *CALIBRATION_METRICS)


def not_measured(metrics: Mapping[str, Any]) -> str:
    """Which optional parts an evaluation lacks, as a sentence; "" if none."""
    absent = [what for what, key in OPTIONAL.items() if not metrics.get(key)]
    return f"Not measured here: {', '.join(absent)}." if absent else ""


def limits(metrics: Mapping[str, Any]) -> list[str]:
    """What to keep in mind, a sentence or two each."""
    absent = not_measured(metrics)
    return [*LIMITS, *([absent] if absent else [])]


def corruption_title(name: str, one: Mapping[str, Any]) -> str:
    """What was done to the pictures, as people read it."""
    return str(one.get("label") or words.sentence(words.title(name)))


def gate_sentence(robustness: Mapping[str, Any]) -> str:
    """From which size on faces are labelled, and from which on the curve says they may be."""
    gate = next((one["gate"] for one in robustness.values() if "gate" in one), None)
    if gate is None:
        return ""
    rule = (
        f"accuracy at most {gate['max_drop']:.2f} below that of the same faces at full size, and"
        f" {words.percent(gate['min_recall'], 0)} of them found"
    )
    suggested = gate["suggested_px"]
    curve = (
        f"From {suggested:g} px on, these curves have {rule}."
        if suggested is not None
        else f"At no size here is {rule}."
    )
    return f"Faces below {gate['min_face_px']:g} px get no label. {curve}"


def mean_of(metrics: Mapping[str, Any]) -> str:
    """Over what the macro figures are means; "" where there are none."""
    num = metrics["num_macro_attributes"]
    has_age = num < len(metrics["attributes"])
    return f"Means over {words.plural(num, 'attribute')}{', age left out' * has_age}" if num else ""


def provenance(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was measured on what, by what: names and what to say, the command left out."""
    images = words.plural(metrics["num_images"], "image")
    yield "model", f"{metrics['model']} {metrics['model_id']}"
    yield "data", f"{metrics['data']}, {metrics['split']}, {images}"
    yield "licence of the model", metrics["licence"]["model"]
    yield "licence of the data", metrics["licence"]["data"]
    if detector := metrics["detector"]:
        yield "detector", ", ".join(f"{words.title(k)} {v}" for k, v in detector.items())
    if metrics.get("engine"):
        yield "engine", metrics["engine"]
    yield "run", f"{metrics['run_id']}, {metrics['seconds']} s"
    if metrics["versions"]:
        yield "versions", ", ".join(f"{k} {v}" for k, v in metrics["versions"].items())


def where(metrics: Mapping[str, Any]) -> str:
    """Which faces were scored."""
    is_own = metrics["crops"] == "dataset"
    return "the data set's own crops" if is_own else "faces found by the detector"
