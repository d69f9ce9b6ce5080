"""``metrics.json`` as one long table, a row a figure, for DuckDB, pandas and spreadsheets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from fattr.report.evaluation.words import NOT_ESTIMABLE, TOO_FEW

OK = "ok"
SCHEMA = pa.schema(
    [
        pa.field("attribute", pa.string()),
        pa.field("group_column", pa.string()),
        pa.field("group", pa.string()),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("n", pa.int64()),
        pa.field("status", pa.string(), nullable=False),
    ],
    metadata={"fattr.schema": "metrics/1"},
)
TOP = ("num_images", "detection_recall", "gated_frac", "num_macro_attributes")
PARTS = ("macro", "micro", "selective", "consistency")

# What is no figure of its own: the faces it is of, its interval, why it is absent.
BESIDE = ("n", "intervals", "interval", "status", "not_estimable")

# attribute, group_column, group, metric, value, low, high, n, status
Row: TypeAlias = tuple[
    str | None,
    str | None,
    str | None,
    str,
    float | None,
    float | None,
    float | None,
    int | None,
    str,
]


@dataclass(frozen=True, slots=True)
class Place:
    """What the figures of a part are of: an attribute, a group, both or all faces."""

    attribute: str | None = None
    group_column: str | None = None
    group: str | None = None
    path: tuple[str, ...] = ()

    def at(self, *steps: str) -> Place:
        """The same faces, further down the path."""
        return Place(self.attribute, self.group_column, self.group, (*self.path, *steps))

    def of(self, column: str, group: str | None = None) -> Place:
        """A column of groups, or one of its groups."""
        return Place(self.attribute, column, group, self.path)


def metrics_table(metrics: Mapping[str, Any]) -> pa.Table:
    """Every figure once, as ``SCHEMA``.

    ``metric`` is a path: ``f1`` and ``selective.accuracy_at_90`` of an attribute, ``macro.f1``,
    ``coverage.detection_recall`` of a group, ``robustness.blur.0.1.accuracy``. ``n`` counts the
    faces it was measured on, ``low`` and ``high`` are its 95 % interval, null where unknown. A
    value is null where the status is ``too few`` or ``not estimable``. Of the fairness of a
    ``group_column``, ``group`` is the one that is worst or best.
    """
    columns = zip(*_rows(metrics), strict=True)
    return pa.table(
        [pa.array(values, field.type) for field, values in zip(SCHEMA, columns, strict=True)],
        schema=SCHEMA,
    )


def _rows(metrics: Mapping[str, Any]) -> Iterator[Row]:
    yield from _figures({key: metrics[key] for key in TOP if key in metrics}, Place())
    for part in PARTS:
        yield from _figures(metrics.get(part) or {}, Place(path=(part,)))
    coverage = Place(path=("coverage",))
    yield from _groups(metrics.get("coverage") or {}, coverage)
    for column, spread in (metrics.get("coverage_gaps") or {}).items():
        yield from _fairness(spread, coverage.of(column))
    for name, own in metrics["attributes"].items():
        place = Place(attribute=name)
        rest = {key: value for key, value in own.items() if key not in ("by_group", "fairness")}
        yield from _figures(rest, place)
        yield from _groups(own.get("by_group") or {}, place)
        for column, spread in (own.get("fairness") or {}).items():
            yield from _fairness(spread, place.of(column))
    for name, own in (metrics.get("mistakes") or {}).items():
        yield from _figures(own, Place(attribute=name, path=("mistakes",)))
    for name, own in (metrics.get("robustness") or {}).items():
        yield from _robustness(own, Place(path=("robustness", name)))
    yield from _against(metrics.get("against") or {})
    for one in metrics.get("requirements") or ():
        place = Place(path=("requirements", one["text"]))
        yield _row(place, one["value"], None, None, "met" if one["met"] else "missed")


def _row(
    place: Place,
    value: float | None,
    ends: Sequence[float] | None,
    n: int | None,
    status: str | None = None,
) -> Row:
    low, high = ends or (None, None)
    known = OK if value is not None else NOT_ESTIMABLE
    where = (place.attribute, place.group_column, place.group, ".".join(place.path))
    return (*where, None if value is None else float(value), low, high, n, status or known)


# Any part


def _figures(part: Mapping[str, Any], place: Place, n: int | None = None) -> Iterator[Row]:
    """Every number of a part; ``n`` is of the part around it. Words are no figures."""
    n = part.get("n", n)
    for key, value in part.items():
        if key in BESIDE or key.endswith("_interval"):
            continue
        own = place.at(key)
        if key == "confusion":
            yield from _confusion(value, _class_names(part), own)
        elif isinstance(value, Mapping):
            yield from _figures(value, own, n)
        elif isinstance(value, list):
            yield from _listed(value, own, n)
        elif _is_figure(value):
            yield _row(own, value, _ends(part, key), n, _status(part, value))


def _is_figure(value: object) -> bool:
    """A number, or that there is none; yes and no are neither."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _ends(part: Mapping[str, Any], key: str) -> Sequence[float] | None:
    """The interval that belongs to a figure, wherever its part keeps it.

    One plain ``interval`` is of the part's rate or difference.
    """
    own: Sequence[float] | None = part.get("intervals", {}).get(key)
    if own is None and key in ("rate", "difference"):
        own = part.get("interval")
    return own or part.get(f"{key}_interval") or part.get(f"{key.removesuffix('_rate')}_interval")


def _status(part: Mapping[str, Any], value: float | None) -> str | None:
    return TOO_FEW if value is None and part.get("status") == TOO_FEW else None


def _listed(values: Iterable[Any], place: Place, n: int | None) -> Iterator[Row]:
    """Parts of a list by their place in it; words are no figures."""
    for i, value in enumerate(values):
        if isinstance(value, Mapping):
            yield from _figures(value, place.at(str(i)), n)


def _class_names(part: Mapping[str, Any]) -> list[str]:
    names = list(part.get("per_class") or part.get("per_bin") or ())
    num = len(part["confusion"])
    return names if len(names) == num else [str(k) for k in range(num)]


def _confusion(
    counts: Sequence[Sequence[int]], names: Sequence[str], place: Place
) -> Iterator[Row]:
    """``confusion.LABELLED.PREDICTED``; n is of the faces so labelled."""
    for labelled, line in zip(names, counts, strict=True):
        for predicted, count in zip(names, line, strict=True):
            yield _row(place.at(labelled, predicted), float(count), None, sum(line))


# Groups


def _groups(columns: Mapping[str, Mapping[str, Any]], place: Place) -> Iterator[Row]:
    """Figures of each group; one of too few faces has a row for each figure that others have."""
    for column, values in columns.items():
        metrics = dict.fromkeys(name for one in values.values() for name in _names(one))
        for value, one in values.items():
            own = place.of(column, value)
            if one.get("status") == TOO_FEW:
                for metric in metrics or ("accuracy",):
                    yield _row(own.at(metric), None, None, one["n"], TOO_FEW)
            else:
                yield from _figures(one, own)


def _names(one: Mapping[str, Any]) -> Iterator[str]:
    """Figures of a group that each group should have, ``selective.accuracy`` among them."""
    own = {key: value for key, value in one.items() if key not in BESIDE}
    yield from (key for key, value in own.items() if _is_figure(value))
    yield from (f"selective.{key}" for key in own.get("selective", ()))


def _fairness(fairness: Mapping[str, Any], place: Place) -> Iterator[Row]:
    """``fairness.METRIC.difference`` and so on; worst and best are of their group."""
    for key, value in fairness.items():
        own = place.at("fairness", key)
        if _is_figure(value):
            yield _row(own, value, None, None)
        elif isinstance(value, Mapping):
            yield from _spread(value, own)


def _spread(spread: Mapping[str, Any], place: Place) -> Iterator[Row]:
    """How far groups are apart in one metric."""
    for key, value in spread.items():
        if _is_figure(value) and not key.endswith(("_interval", "_group")):
            group = spread.get(f"{key}_group")
            own = Place(place.attribute, place.group_column, group, (*place.path, key))
            yield _row(own, value, spread.get(f"{key}_interval"), None)


# Robustness and comparison


def _robustness(one: Mapping[str, Any], place: Place) -> Iterator[Row]:
    """``robustness.CORRUPTION.VALUE.METRIC``, of all faces, of attributes and of groups."""
    yield from _figures({key: value for key, value in one.items() if key != "points"}, place)
    for point in one["points"]:
        own = place.at(f"{point['value']:g}")
        apart = ("value", "attributes", "by_group")
        rest = {key: value for key, value in point.items() if key not in apart}
        yield from _figures(rest | {"n": point.get("n")}, own)
        for name, accuracy in point.get("attributes", {}).items():
            yield _row(Place(attribute=name, path=(*own.path, "accuracy")), accuracy, None, None)
        yield from _groups(point.get("by_group", {}), own)


def _against(against: Mapping[str, Any]) -> Iterator[Row]:
    """``against.METRIC.difference``, of the mean, of attributes, and of groups that lost."""
    apart = ("attributes", "regressions")
    rest = {key: value for key, value in against.items() if key not in apart}
    yield from _figures(rest, Place(path=("against",)))
    for name, own in against.get("attributes", {}).items():
        yield from _figures(own, Place(attribute=name, path=("against",)))
    for one in against.get("regressions", ()):
        place = Place(one["attribute"], one["column"], one["group"], ("against", "regression"))
        yield from _figures(one, place)
