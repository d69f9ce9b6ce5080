"""How figures of an evaluation are written and what they mean, for all pages that show them.

Plain text without markup. A figure that does not apply (age has no F1) is a dash; one that cannot
be computed (no face is labelled yes) is "not estimable"; neither is ever 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fattr.attributes import VOCABULARY

ABSENT = "-"
NOT_ESTIMABLE = "not estimable"
TOO_FEW = "too few"
YEARS = ("mae", "rmse", "bias")

TITLES = {
    "n": "n",
    "f1": "F1",
    "average_precision": "average precision",
    "roc_auc": "ROC AUC",
    "prevalence": "labelled yes",
    "predicted_prevalence": "predicted yes",
    "selection_rate": "predicted yes",
    "ece": "ECE",
    "brier": "Brier score",
    "one_off_accuracy": "within one bin",
    "mae": "MAE, years",
    "rmse": "RMSE, years",
    "cs5": "within 5 years",
    "bias": "bias, years",
    "accuracy_at_90": "accuracy at 90 % coverage",
    "detection_recall": "faces found",
    "difference_by_chance": "by chance",
    "change": "change from as they are",
    "too_small_frac": "too small",
    "abstained_frac": "abstained",
    "n_confident_mistakes": "confident mistakes",
    "n_likely_label_errors": "likely label errors",
}

PARITY = {
    "demographic_parity": "demographic parity",
    "equalized_odds": "equalized odds",
    "equal_opportunity": "equal opportunity",
}

GLOSSARY = {
    "Accuracy": "The share of faces whose label is right. Of a rare attribute it is high even "
    "where the model never says yes: read it beside the share labelled yes.",
    "Balanced accuracy": "The mean of the shares found right among the faces of each class. "
    "A model that always says the same has 0.5.",
    "Precision, recall, F1": "Of the faces said to have the attribute, the share that has it; of "
    "those that have it, the share that is found; and the harmonic mean of both. Of an attribute "
    "with classes, the mean over the classes.",
    "Average precision (AP), ROC AUC": "How well the probability sorts faces, whatever the "
    "threshold. AP is the precision averaged over the recall: a useless model has the share "
    "labelled yes. AUC is the chance that a face with the attribute gets a higher probability "
    "than one without: a useless model has 0.5.",
    "ECE": "Expected calibration error: faces are put into 10 bins of equally many by their "
    "probability, and the mean probability of each bin is compared with the share that is right. "
    "0.03 means that the probability is off by 3 points on average. Finite samples alone give a "
    "value above 0.",
    "Brier score": "The mean squared distance between probability and truth: 0 is perfect, and "
    "0.25 is what always saying 0.5 gives for a yes/no attribute.",
    "MAE, RMSE, within 5 years": "Of an age: the mean absolute error, the root of the mean "
    "squared error, and the share of faces off by 5 years or less. Years are taken against the "
    "middle of the labelled bin, since the data set knows no years.",
    "Macro and micro": "Macro is the plain mean over attributes, ages left out: rare attributes "
    "count as much as common ones. Micro pools the faces of all attributes first.",
    "Intervals": "Where the figure would lie in 95 of 100 samples of this size: Wilson's "
    "interval for plain shares, and for all else the middle 95 % of 1,000 resamples of the faces "
    "(percentile bootstrap). They do not cover wrong labels or other kinds of picture.",
    "Difference, ratio, worst group": "The best group's figure less the worst group's, and the "
    "smaller over the larger. Of many small groups two are far apart by chance: 'by chance' is "
    "what the difference would stay below 95 times of 100 if all groups were alike. An interval "
    "that reaches below 0 leaves open which of the two is better.",
    "Demographic parity": "How much the share said to have the attribute differs between groups. "
    "Groups may truly differ; a difference is a question, not an error.",
    "Equalized odds": "The larger of the differences between groups in recall and in false "
    "positive rate: are those with, and those without, the attribute served alike?",
    "Equal opportunity": "The difference between groups in recall alone.",
    "Too few, not estimable": "A group of too few faces has no figures. A figure is not estimable "
    "where what it divides by is none: recall where no face is labelled yes. Neither means 0.",
    "Coverage and abstention": "A label is left out where the face is too small or the "
    "probability undecided. Coverage is the share that keeps its label.",
}


def title(name: str) -> str:
    """A metric's, attribute's or column's name as people read it."""
    return TITLES.get(name, name.replace("_", " ").replace("*", " and "))


def sentence(text: str) -> str:
    """Text that begins large; abbreviations in it stay as they are."""
    return text[:1].upper() + text[1:]


def group_title(value: str) -> str:
    """A group's name as people read it; of an intersection, its parts."""
    return value.replace("_", " ").replace("|", ", ")


def description(name: str) -> str:
    """What an attribute of the vocabulary means, sensitive ones marked; "" for any other."""
    if name not in VOCABULARY:
        return ""
    known = VOCABULARY[name]
    return f"{known.description}{'; sensitive' if known.sensitive else ''}"


def digits_of(metric: str) -> int:
    """Decimals a metric is shown with: shares have three, years one."""
    return 1 if metric.rpartition(".")[2] in YEARS else 3


def figure(value: float | None, digits: int = 3) -> str:
    """A figure, or that it cannot be computed."""
    return NOT_ESTIMABLE if value is None else f"{value:.{digits}f}"


def metric_in(row: Mapping[str, Any], metric: str) -> str:
    """What a row says of a metric."""
    if row.get("status") == TOO_FEW and row.get(metric) is None:
        return TOO_FEW
    if metric in row.get("not_estimable", ()):
        return NOT_ESTIMABLE
    return figure(row[metric], digits_of(metric)) if metric in row else ABSENT


def interval(ends: Sequence[float] | None, digits: int = 3) -> str:
    """Both ends of an interval; "" where there is none."""
    return "" if ends is None else f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"


def with_interval(value: float | None, ends: Sequence[float] | None, digits: int = 3) -> str:
    """A figure and, where there is one, its interval in parentheses."""
    said = interval(ends, digits)
    return f"{figure(value, digits)} ({said})" if said and value is not None else figure(value)


def count(n: float) -> str:
    """A whole number with thousands told apart."""
    return f"{n:,.0f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return NOT_ESTIMABLE if share is None else f"{100 * share:.{digits}f} %"


def plural(n: int, word: str) -> str:
    """``1 face``, ``2 faces``."""
    return f"{count(n)} {word}{'' if n == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    *firsts, last = words
    return f"{', '.join(firsts)} and {last}" if firsts else last


def one_line(text: str) -> str:
    """Text with every run of white space made one space."""
    return re.sub(r"\s+", " ", text).strip()
