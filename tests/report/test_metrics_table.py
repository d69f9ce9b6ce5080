"""The long table against a walk over all numbers of metrics.json."""

import io
from collections import Counter

import duckdb
import pyarrow.parquet as pq
import pytest
from report.evaluation.evaluation_metrics import evaluation_metrics, small_metrics

from fattr.report.metrics_table import SCHEMA, metrics_table

METRICS = evaluation_metrics()
TABLE = metrics_table(METRICS)

# Numbers that say how it was done, not what came out.
SETTINGS = ("detector", "min_face_px", "seconds", "bar")


@pytest.fixture
def query(tmp_path):
    """A function that asks DuckDB about the table as a file."""
    path = tmp_path / "metrics.parquet"
    pq.write_table(TABLE, path)

    def ask(sql):
        return duckdb.sql(sql.replace("METRICS", f"'{path}'")).fetchall()

    return ask


def numbers(node, key=""):
    """All numbers below a node, but the sizes of groups and the settings."""
    if key in (*SETTINGS, "n"):
        return
    if isinstance(node, dict):
        for name, value in node.items():
            is_step = name == "value" and "detection_recall" in node  # of a robustness curve
            yield from numbers(value, "bar" if is_step else name)
    elif isinstance(node, list):
        for value in node:
            yield from numbers(value)
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield float(node)


def test_every_number_is_there_exactly_once():
    columns = [TABLE.column(name).to_pylist() for name in ("value", "low", "high")]
    found = Counter(value for column in columns for value in column if value is not None)
    gate = METRICS["robustness"]["face_size"]["gate"]["min_face_px"]  # a figure of its own there
    assert found == Counter(numbers(METRICS)) + Counter([gate])


def test_no_two_rows_are_of_the_same_thing():
    names = ("attribute", "group_column", "group", "metric")
    keys = list(zip(*(TABLE.column(name).to_pylist() for name in names), strict=True))
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("metrics", [METRICS, small_metrics()], ids=["all", "least"])
def test_the_schema_is_always_the_same(metrics):
    table = metrics_table(metrics)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    assert pq.read_table(buffer).equals(table)
    status = table.column("status").to_pylist()
    values = table.column("value").to_pylist()
    is_known = [one in ("ok", "met", "missed") for one in status]
    assert [value is not None for value in values] == is_known


def test_figures_of_an_attribute(query):
    row = METRICS["attributes"]["smiling"]
    sql = (
        "SELECT value, low, high, n, status FROM METRICS "
        "WHERE attribute = 'smiling' AND group_column IS NULL AND metric = '{}'"
    )
    assert query(sql.format("f1")) == [(row["f1"], *row["intervals"]["f1"], row["n"], "ok")]
    last = row["reliability"][9]
    assert query(sql.format("reliability.9.frac")) == [(last["frac"], None, None, last["n"], "ok")]
    at_90 = row["selective"]["accuracy_at_90"]
    assert query(sql.format("selective.accuracy_at_90")) == [(at_90, None, None, row["n"], "ok")]


def test_confusion_is_by_names(query):
    counts = METRICS["attributes"]["perceived_gender_presentation"]["confusion"]
    assert query(
        "SELECT value, n FROM METRICS WHERE metric = 'confusion.feminine.masculine'"
        " AND attribute = 'perceived_gender_presentation' AND group_column IS NULL"
    ) == [(counts[0][1], sum(counts[0]))]


def test_groups_have_figures_or_a_reason(query):
    rows = query(
        "SELECT \"group\", value, n, status FROM METRICS WHERE attribute = 'bald'"
        " AND group_column = 'perceived_gender_presentation' AND metric = 'recall' ORDER BY 1"
    )
    own = METRICS["attributes"]["bald"]["by_group"]["perceived_gender_presentation"]
    assert rows == [
        ("feminine", None, own["feminine"]["n"], "not estimable"),
        ("masculine", own["masculine"]["recall"], own["masculine"]["n"], "ok"),
    ]
    few = query(
        "SELECT DISTINCT value, n, status FROM METRICS"
        " WHERE group_column = 'race' AND \"group\" = 'Other' AND metric IN ('f1', 'accuracy')"
    )
    assert few == [(None, 15, "too few")]


def test_groups_have_figures_with_abstention_or_a_reason(query):
    rows = query(
        "SELECT \"group\", value, n, status FROM METRICS WHERE attribute = 'smiling'"
        " AND group_column = 'race' AND metric = 'selective.accuracy'"
    )
    own = METRICS["attributes"]["smiling"]["by_group"]["race"]
    found = {group: tuple(rest) for group, *rest in rows}
    black = own["Black"]
    assert found["Black"] == (black["selective"]["accuracy"], black["n"], "ok")
    assert found["Other"] == (None, own["Other"]["n"], "too few")
    assert found.keys() == own.keys()


def test_the_worst_group_of_each_attribute_can_be_asked_for(query):
    rows = query(
        'SELECT attribute, "group", value FROM METRICS'
        " WHERE metric = 'fairness.accuracy.worst' AND group_column = 'race' ORDER BY value LIMIT 1"
    )
    spreads = {n: r["fairness"]["race"]["accuracy"] for n, r in METRICS["attributes"].items()}
    name = min(spreads, key=lambda one: spreads[one]["worst"])
    assert rows == [(name, spreads[name]["worst_group"], spreads[name]["worst"])]


def test_parts_of_the_whole(query):
    def value(metric, where="attribute IS NULL"):
        sql = f"SELECT value, low, high, status FROM METRICS WHERE {where} AND metric = '{metric}'"
        (row,) = query(sql)
        return row

    assert value("macro.f1") == (METRICS["macro"]["f1"], None, None, "ok")
    assert value("micro.f1")[0] == 0.699
    assert value("consistency.bald_and_bangs.rate")[:3] == (0.0015, 0.0005, 0.0044)
    assert value("consistency.bald_and_bangs.target_rate")[:3] == (0.0005, 0.0001, 0.0028)
    assert value("robustness.blur.2.accuracy")[0] == pytest.approx(0.8844)
    assert value("robustness.face_size.15.accuracy") == (None, None, None, "too few")
    assert value("requirements.macro_f1>=0.70") == (0.61, None, None, "missed")
    assert value("mistakes.n_likely_label_errors", "attribute = 'smiling'")[0] == 31
    black = "\"group\" = 'Black' AND attribute IS NULL"
    assert (
        value("coverage.detection_recall", black)[0]
        == (METRICS["coverage"]["race"]["Black"]["detection_recall"])
    )
    assert value("against.macro.accuracy.difference")[:3] == pytest.approx((0.012, 0.008, 0.016))
    worse = "attribute = 'smiling' AND \"group\" = 'Black'"
    assert value("against.regression.difference", worse)[:3] == (-0.06, -0.09, -0.03)
