"""Bars that a model must clear to be promoted, as ``macro_f1>=0.70``, and whether it does.

    NAME OP NUMBER, OP one of >= <= > <

| NAME | of metrics.json |
|---|---|
| ``macro_f1``, or just ``f1``; ``micro_f1`` | mean over attributes; pooled |
| ``selective_accuracy``, ``selective_accuracy_at_90`` | with abstention |
| ``f1/smiling`` | one attribute |
| ``worst_group_gap``, ``worst_group_gap/smiling`` | largest accuracy difference between groups |
| ``detection_recall``, ``detection_gap`` | faces found, and its largest difference between groups |
| ``against_f1`` | lower end of the macro difference from the other model |
| ``regressions``, ``confirmed_regressions`` | groups that the other model serves better |

Gaps are between the groups of enough faces; intersections are in none.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from fattr.attributes import Attribute, Kind
from fattr.errors import UsageError
from fattr.metrics.attribute import CALIBRATION_METRICS, MACRO_METRICS

FORM = 'expected "NAME>=NUMBER", as "macro_f1>=0.70" or "worst_group_gap<=0.05"'

_OPS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_TEXT = re.compile(r"\s*([^\s<>=]+)\s*(>=|<=|>|<)\s*([^\s<>=]+)\s*")

_MACRO = (*MACRO_METRICS, *CALIBRATION_METRICS)
_MICRO = ("accuracy", "precision", "recall", "f1")
_OF_YES = ("micro_precision", "micro_recall", "micro_f1")
_SELECTIVE = ("coverage", "accuracy", "accuracy_at_full_coverage", "accuracy_at_90")
_AGAINST = ("accuracy", "balanced_accuracy", "f1", "average_precision")
_GAP, _DETECTION_GAP = "worst_group_gap", "detection_gap"
_REGRESSIONS = ("regressions", "confirmed_regressions")
_TOO_FEW = "too few"
_NUM_NAMED = 10  # groups left out
_OF_KIND = {
    Kind.BINARY: (*_MACRO, "prevalence", "predicted_prevalence"),
    Kind.CATEGORICAL: _MACRO,
    Kind.AGE: ("accuracy", "one_off_accuracy", "ece", "brier", "mae", "rmse", "cs5"),
}
_OF_ATTRIBUTE = (*dict.fromkeys(name for names in _OF_KIND.values() for name in names), _GAP)
_WHOLE = (
    *(f"macro_{name}" for name in _MACRO),
    *_MACRO,
    *(f"micro_{name}" for name in _MICRO),
    *(f"selective_{name}" for name in _SELECTIVE),
    *(f"against_{name}" for name in _AGAINST),
    _GAP,
    "detection_recall",
    _DETECTION_GAP,
    *_REGRESSIONS,
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One bar: ``metric`` of the whole, or of ``attribute`` where that is not empty."""

    text: str
    metric: str
    attribute: str
    op: str
    bar: float

    @property
    def name(self) -> str:
        """As it was given: ``f1/smiling``."""
        return f"{self.metric}/{self.attribute}" if self.attribute else self.metric

    @property
    def needs_groups(self) -> bool:
        """Whether it is about groups."""
        return self.metric in (_GAP, _DETECTION_GAP, *_REGRESSIONS)

    @property
    def needs_other(self) -> bool:
        """Whether it is about another model."""
        return self.metric in _REGRESSIONS or self.metric.startswith("against_")


# Before any work


def parse(texts: Iterable[str]) -> tuple[Requirement, ...]:
    """The requirements that the texts spell.

    Raises:
        UsageError: a text has another form, or names what is not measured.
    """
    return tuple(_parse(text) for text in texts)


def _parse(text: str) -> Requirement:
    match = _TEXT.fullmatch(text)
    bar = _number(match[3]) if match else None
    if match is None or bar is None:
        raise UsageError(f"--require {text!r}: {FORM}")
    metric, slash, attribute = match[1].partition("/")
    known = _OF_ATTRIBUTE if slash else _WHOLE
    if metric not in known:
        meant = metric.removeprefix("macro_") if slash else metric
        hint = _close(meant, known) or f"known: {', '.join(known)}"
        raise UsageError(f"--require {text!r}: unknown metric {metric!r}: {hint}; {FORM}")
    if slash and not attribute:
        raise UsageError(f"--require {text!r}: an attribute expected after the slash")
    return Requirement(text.strip(), metric, attribute, match[2], bar)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _close(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def check(
    requirements: Iterable[Requirement],
    attributes: Sequence[Attribute],
    *,
    groups: bool,
    against: bool,
    detection: bool,
) -> None:
    """Refuse requirements of what this evaluation will not measure.

    ``attributes`` are those that will be measured; the others say whether group columns were named,
    whether there is another model, and whether faces are looked for.

    Raises:
        UsageError: naming the first, and the remedy.
    """
    for one in requirements:
        if one.attribute:
            _check_attribute(one, attributes)
        if one.needs_groups and not groups:
            raise UsageError(f"--require {one.text!r} is about groups: name them with --groups")
        if one.needs_other and not against:
            raise UsageError(f"--require {one.text!r} is about another model: give --against")
        if one.metric.startswith("detection_") and not detection:
            raise UsageError(f"--require {one.text!r} is about finding faces: use --crops detect")
        if not one.attribute:
            _check_kinds(one, {a.kind for a in attributes})


def _check_attribute(one: Requirement, attributes: Sequence[Attribute]) -> None:
    by_name = {a.name: a for a in attributes}
    if one.attribute not in by_name:
        hint = _close(one.attribute, tuple(by_name)) or f"measured: {', '.join(by_name)}"
        raise UsageError(f"--require {one.text!r}: {one.attribute!r} is not measured: {hint}")
    kind = by_name[one.attribute].kind
    if one.metric != _GAP and one.metric not in _OF_KIND[kind]:
        raise UsageError(
            f"--require {one.text!r}: {one.attribute}, of kind {kind},"
            f" has {', '.join(_OF_KIND[kind])}"
        )


def _check_kinds(one: Requirement, kinds: Set[Kind]) -> None:
    of_all = one.metric.removeprefix("macro_") in _MACRO
    if not (of_all or one.metric.startswith(("micro_", "selective_", "against_"))):
        return
    if kinds <= {Kind.AGE}:
        raise UsageError(
            f"--require {one.text!r} is of all attributes without age, and there is no"
            " other: use METRIC/ATTRIBUTE, as accuracy/age"
        )
    if one.metric in _OF_YES and Kind.BINARY not in kinds:
        raise UsageError(
            f"--require {one.text!r} is of yes/no attributes, and there is none: use"
            f" {one.metric.replace('micro', 'macro')} or METRIC/ATTRIBUTE"
        )


# After it


def judge(requirements: Iterable[Requirement], metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a requirement: ``text metric op bar value met why``, from what was measured.

    A value that could not be estimated is None and meets nothing; ``why`` says so, and where a gap
    is.
    """
    return [_judge(one, metrics) for one in requirements]


def all_met(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the model may be promoted."""
    return all(row["met"] for row in rows)


def lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each row: ``missed  worst_group_gap 0.081, <= 0.05 required (smiling: ...)``."""
    for row in rows:
        value = "not estimable" if row["value"] is None else f"{row['value']:.6g}"
        why = f" ({row['why']})" if row["why"] else ""
        met = "met   " if row["met"] else "missed"
        yield f"{met}  {row['metric']} {value}, {row['op']} {row['bar']:g} required{why}"


def _judge(one: Requirement, metrics: Mapping[str, Any]) -> dict[str, Any]:
    value, why = _value(one, metrics)
    return {
        "text": one.text,
        "metric": one.name,
        "op": one.op,
        "bar": one.bar,
        "value": value,
        "met": value is not None and _OPS[one.op](value, one.bar),
        "why": why,
    }


def _value(one: Requirement, metrics: Mapping[str, Any]) -> tuple[float | None, str]:
    """What was measured, and what there is to say about it."""
    if one.metric == _GAP:
        return _worst_gap(metrics["attributes"], one.attribute)
    if one.metric == _DETECTION_GAP:
        return _detection_gap(metrics["coverage"])
    if one.metric in _REGRESSIONS:
        return _regressions(metrics["against"], confirmed=one.metric != "regressions")
    value = _figure(one, metrics)
    return value, "" if value is not None else _undefined(one, metrics)


def _figure(one: Requirement, metrics: Mapping[str, Any]) -> float | None:
    if one.attribute:
        return _number_of(metrics["attributes"][one.attribute].get(one.metric))
    if one.metric == "detection_recall":
        return _number_of(metrics[one.metric])
    part, _, name = one.metric.partition("_")
    if part == "against":
        interval = metrics["against"]["macro"][name]["interval"]
        return _number_of(interval[0] if interval else None)
    if part in ("micro", "selective"):
        return _number_of(metrics[part][name])
    return _number_of(metrics["macro"][one.metric.removeprefix("macro_")])


def _number_of(value: float | None) -> float | None:
    return None if value is None else float(value)


def _undefined(one: Requirement, metrics: Mapping[str, Any]) -> str:
    if not one.attribute:
        return "not estimable from these faces"
    n = metrics["attributes"][one.attribute]["n"]
    return f"not estimable from {n} labelled faces"


def _worst_gap(attributes: Mapping[str, Any], only: str) -> tuple[float | None, str]:
    """The largest accuracy difference between the groups of a column, and which groups those are.

    Of equal ones, the first.
    """
    gaps, num_unknown, left_out = [], 0, list[str]()
    for name, row in attributes.items():
        for column, fairness in row.get("fairness", {}).items():
            if "*" in column or only not in ("", name):
                continue
            reasons = fairness.get("groups_left_out", {})
            left_out += [f"{column} {v}" for v, why in reasons.items() if why == _TOO_FEW]
            gap = fairness.get("accuracy")  # not there where all groups are too few
            if gap is None or gap["difference"] is None:
                num_unknown += 1
                continue
            where = f"{name}: {column} {gap['worst_group']} to {gap['best_group']}"
            gaps.append((float(gap["difference"]), where))
    return _largest(gaps, num_unknown, left_out)


def _detection_gap(coverage: Mapping[str, Any]) -> tuple[float | None, str]:
    gaps, num_unknown, left_out = [], 0, list[str]()
    for column, cells in coverage.items():
        if "*" in column:
            continue
        left_out += [f"{column} {v}" for v, cell in cells.items() if cell["status"] == _TOO_FEW]
        recalls = {
            value: float(cell["detection_recall"])
            for value, cell in cells.items()
            if cell["status"] == "ok" and cell.get("detection_recall") is not None
        }
        if len(recalls) < 2:
            num_unknown += 1
        else:
            worst, best = (pick(recalls, key=recalls.__getitem__) for pick in (min, max))
            gaps.append((recalls[best] - recalls[worst], f"{column} {worst} to {best}"))
    return _largest(gaps, num_unknown, left_out)


def _largest(
    gaps: Sequence[tuple[float, str]], num_unknown: int, left_out: Iterable[str]
) -> tuple[float | None, str]:
    """The first of the largest gaps; ``num_unknown`` others could not be estimated.

    Groups ``left_out`` are named: however badly they are served, no gap tells.
    """
    few = list(dict.fromkeys(left_out))
    more = [f"and {len(few) - _NUM_NAMED} more"] if len(few) > _NUM_NAMED else []
    named = [f"{_TOO_FEW}: {', '.join(few[:_NUM_NAMED] + more)}"] if few else []
    if not gaps:
        return None, "; ".join(["no column has two groups of enough faces", *named])
    gap, where = max(gaps, key=lambda gap: gap[0])
    unknown = [f"{num_unknown} more not estimable"] if num_unknown else []
    return gap, "; ".join([where, *unknown, *named])


def _regressions(against: Mapping[str, Any], *, confirmed: bool) -> tuple[float | None, str]:
    if not against["num_cells"]:
        return None, "no group has enough faces"
    rows = [row for row in against["regressions"] if row["confirmed"] or not confirmed]
    worst = [f"{row['attribute']}: {row['column']} {row['group']}" for row in rows[:3]]
    more = [f"and {len(rows) - 3} more"] if len(rows) > 3 else []
    return float(len(rows)), ", ".join(worst + more)
