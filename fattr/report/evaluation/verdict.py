"""What an evaluation says in a few plain sentences, and the attributes not to rely on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fattr.metrics.fairness import MIN_CASES
from fattr.report.evaluation import words as words

MIN_F1, MIN_BALANCED_ACCURACY, MAX_GAP = 0.5, 0.65, 0.1
GOOD_ECE, ROUGH_ECE = 0.03, 0.06
NUM_NAMED = 3
KNOWN_BAD_RULE = (
    f"F1 below {MIN_F1:.2f}, balanced accuracy below {MIN_BALANCED_ACCURACY:.2f}, or accuracy that"
    f" differs by more than {MAX_GAP:.2f} between the groups of one column, and by more than chance"
    " explains (intersections are left out of this rule)"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A question a reader has, its answer in a few words, and the figures behind it."""

    question: str
    answer: str
    text: str


@dataclass(frozen=True, slots=True)
class Gap:
    """The difference of an attribute's accuracy between its best and worst group of a column."""

    attribute: str
    column: str
    difference: float
    interval: Sequence[float] | None
    worst_group: str
    worst: float
    best_group: str
    best: float
    by_chance: float | None  # what 95 of 100 differences would stay below, were all groups alike

    @property
    def is_wide(self) -> bool:
        """Whether it is too wide to rely on the attribute, and no accident."""
        return self.difference > max(MAX_GAP, self.by_chance or 0.0)

    def __str__(self) -> str:
        """``smiling: 0.78 for Black, 0.90 for White; difference 0.12 (0.08 to 0.16)``."""
        return (
            f"{words.title(self.attribute)}: "
            f"{self.worst:.3f} for {words.group_title(self.worst_group)}, "
            f"{self.best:.3f} for {words.group_title(self.best_group)}; "
            f"difference {words.with_interval(self.difference, self.interval)}"
        )


def verdicts(metrics: Mapping[str, Any]) -> list[Verdict]:
    """The questions in the order a buyer of labels asks them; what was not measured is said."""
    found = [_accuracy(metrics), _equality(metrics), _belief(metrics)]
    if "selective" in metrics:
        found.append(_abstention(metrics))
    if requirements := metrics.get("requirements"):
        found.append(_requirements(requirements))
    return found


def group_columns(metrics: Mapping[str, Any]) -> list[str]:
    """Group columns and intersections, in the order they were measured."""
    columns = dict.fromkeys(metrics.get("coverage", ()))
    for row in metrics["attributes"].values():
        columns |= dict.fromkeys(row.get("by_group", ()))
    return list(columns)


def gaps(metrics: Mapping[str, Any], column: str) -> list[Gap]:
    """Each attribute's accuracy gap between the groups of one column, widest first."""
    found = []
    for name, row in metrics["attributes"].items():
        spread = row.get("fairness", {}).get(column, {}).get("accuracy") or {}
        if spread.get("difference") is not None:
            same = ("difference", "worst_group", "worst", "best_group", "best")
            gap = Gap(
                attribute=name,
                column=column,
                interval=spread.get("difference_interval"),
                by_chance=spread.get("difference_by_chance"),
                **{key: spread[key] for key in same},
            )
            found.append(gap)
    return sorted(found, key=lambda gap: -gap.difference)


def known_bad(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Attributes that ``KNOWN_BAD_RULE`` finds, and why each."""
    columns = [column for column in group_columns(metrics) if "*" not in column]
    widest = {column: {gap.attribute: gap for gap in gaps(metrics, column)} for column in columns}
    reasons = {
        name: "; ".join(
            [
                *_low(row),
                *(
                    f"accuracy by {words.title(column)} differs by "
                    f"{words.with_interval(own[name].difference, own[name].interval)}"
                    for column, own in widest.items()
                    if name in own and own[name].is_wide
                ),
            ]
        )
        for name, row in metrics["attributes"].items()
    }
    return {name: why for name, why in reasons.items() if why}


def _low(row: Mapping[str, Any]) -> Iterator[str]:
    for metric, least in (("f1", MIN_F1), ("balanced_accuracy", MIN_BALANCED_ACCURACY)):
        value = row.get(metric)
        if value is not None and value < least:
            yield f"{words.title(metric)} {value:.3f}"


# Questions


def _accuracy(metrics: Mapping[str, Any]) -> Verdict:
    macro, num = metrics["macro"], metrics["num_macro_attributes"]
    question = "How accurate is it?"
    ages = [_age(name, row) for name, row in metrics["attributes"].items() if "mae" in row]
    if macro.get("accuracy") is None:
        return Verdict(question, "See the attributes.", " ".join(ages))
    shown = ("accuracy", "balanced_accuracy", "f1", "average_precision", "roc_auc")
    figures = [
        f"{words.title(metric)} {macro[metric]:.3f}"
        for metric in shown
        if macro.get(metric) is not None
    ]
    lead = f"Mean over {words.plural(num, 'attribute')}: {', '.join(figures)}."
    balanced = macro.get("balanced_accuracy")
    flatters = (
        "Accuracy flatters rare attributes; balanced accuracy counts yes and no alike."
        if balanced is not None and macro["accuracy"] - balanced > 0.05
        else ""
    )
    text = " ".join(filter(None, [lead, flatters, _extremes(metrics["attributes"]), *ages]))
    return Verdict(question, f"Right for {100 * macro['accuracy']:.0f} of 100 labels.", text)


def _extremes(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    scores = {n: row["f1"] for n, row in attributes.items() if row.get("f1") is not None}
    if len(scores) < 2 * NUM_NAMED:
        return ""
    ranked = sorted(scores, key=lambda name: scores[name])

    def named(names: Sequence[str]) -> str:
        return words.listed([f"{words.title(name)} {scores[name]:.2f}" for name in names])

    worst, best = ranked[:NUM_NAMED], ranked[: -NUM_NAMED - 1 : -1]
    return f"Best by F1: {named(best)}; worst: {named(worst)}."


def _age(name: str, row: Mapping[str, Any]) -> str:
    parts = [f"the right bin for {words.percent(row.get('accuracy'))} of faces"]
    if row.get("one_off_accuracy") is not None:
        parts.append(f"that or a neighbour for {words.percent(row['one_off_accuracy'])}")
    if row.get("mae") is not None:
        parts.append(f"off by {row['mae']:.1f} years on average")
    return f"{words.sentence(words.title(name))}: {', '.join(parts)}."


def _equality(metrics: Mapping[str, Any]) -> Verdict:
    question = "Is it equally accurate for everyone?"
    columns = group_columns(metrics)
    by_column = {column: own for column in columns if (own := gaps(metrics, column))}
    if not by_column:
        why = "No group had enough faces to compare." if columns else "No groups were given."
        return Verdict(question, "Not measured.", why)
    attributes = {gap.attribute for own in by_column.values() for gap in own}
    single = [own for column, own in by_column.items() if "*" not in column]
    wide = {gap.attribute for own in single for gap in own if gap.is_wide}
    if wide:
        answer = f"Not for {len(wide)} of {words.plural(len(attributes), 'attribute')}."
    elif any(gap.difference > MAX_GAP for own in single for gap in own):
        answer = "Unclear: groups differ, but by no more than chance explains."
    else:
        answer = f"Yes, to within {MAX_GAP:.2f}."
    lines = [
        f"{len(wide)} of {len(attributes)} differ in accuracy by more than {MAX_GAP:.2f}, and by "
        f"more than chance explains, between the groups of one column.",
        *(f"By {words.title(c)}, most for {own[0]}." for c, own in by_column.items()),
    ]
    return Verdict(question, answer, " ".join([*lines, *_opportunity(metrics, columns)]))


def _opportunity(metrics: Mapping[str, Any], columns: Sequence[str]) -> Iterator[str]:
    """Where those with an attribute are found least equally, which accuracy can hide."""
    key = "equal_opportunity_difference"
    found = [
        (own[key], name, column)
        for name, row in metrics["attributes"].items()
        for column, own in row.get("fairness", {}).items()
        if "*" not in column and column in columns and own.get(key) is not None
    ]
    if found:
        most, name, column = max(found)
        yield (
            f"The share found of those who have the attribute differs most for "
            f"{words.title(name)} by {words.title(column)}: by {most:.3f}, between groups with at "
            f"least {MIN_CASES} who have it."
        )


def _belief(metrics: Mapping[str, Any]) -> Verdict:
    question = "Can the probability be believed?"
    off = metrics["macro"].get("ece")
    if off is None:
        return Verdict(question, "Not measured.", "")
    points = f"off by {100 * off:.1f} points on average"
    if off <= GOOD_ECE:
        answer = f"Yes: {points}."
    else:
        answer = f"{'Roughly' if off <= ROUGH_ECE else 'No'}: {points}."
    own = {n: row["ece"] for n, row in metrics["attributes"].items() if row.get("ece") is not None}
    worst = sorted(own, key=lambda name: -own[name])[:NUM_NAMED]
    named = words.listed([f"{words.title(name)} {own[name]:.3f}" for name in worst])
    text = (
        f"Mean expected calibration error {off:.3f}; least to be believed: {named}. Up to "
        f"{GOOD_ECE:.2f} counts as well calibrated here, up to {ROUGH_ECE:.2f} as roughly."
    )
    return Verdict(question, answer, text)


def _abstention(metrics: Mapping[str, Any]) -> Verdict:
    own = metrics["selective"]
    question = "When should it not be trusted?"
    full, at_90 = own.get("accuracy_at_full_coverage"), own.get("accuracy_at_90")
    answer = (
        "See abstention."
        if full is None or at_90 is None
        else f"Where it is least sure: without that tenth, accuracy goes from {full:.3f} to "
        f"{at_90:.3f}."
    )
    parts = []
    if own.get("coverage") is not None and own.get("accuracy") is not None:
        parts.append(
            f"At the model's own abstention bands {words.percent(own['coverage'])} of labels are "
            f"given, and {words.percent(own['accuracy'])} of those are right."
        )
    if metrics.get("gated_frac") is not None:
        parts.append(
            f"Faces below {metrics['min_face_px']:g} px get no label at all: "
            f"{words.percent(metrics['gated_frac'])} of those found here."
        )
    if bad := known_bad(metrics):
        parts.append(f"{words.plural(len(bad), 'attribute')} are listed below as not to rely on.")
    return Verdict(question, answer, " ".join(parts))


def _requirements(requirements: Sequence[Mapping[str, Any]]) -> Verdict:
    missed = [one["text"] for one in requirements if not one["met"]]
    met = len(requirements) - len(missed)
    answer = f"{met} of {words.plural(len(requirements), 'requirement')} met."
    text = f"Missed: {', '.join(missed)}." if missed else ""
    return Verdict("Does it meet what was required?", answer, text)
