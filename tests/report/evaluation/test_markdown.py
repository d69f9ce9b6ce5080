"""The Markdown report, read back as tables."""

import copy
import re

import pytest
from report.evaluation.evaluation_metrics import evaluation_metrics, small_metrics

from fattr.report.evaluation.markdown import evaluation_markdown
from fattr.report.markdown_text import code, safe

METRICS = evaluation_metrics()
REPORT = evaluation_markdown(METRICS)


def section(report, title):
    return re.split(rf"^#+ {re.escape(title)}\n", report, flags=re.MULTILINE)[1].split("\n## ")[0]


def tables(text):
    """Every table as rows by their first cell, each row by its heads."""
    found, block = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif block:
            head, ruler, *rows = block
            assert set("".join(ruler)) <= set("-:")
            assert {len(row) for row in block} == {len(head)}
            found.append({row[0]: dict(zip(head, row, strict=True)) for row in rows})
            block = []
    return found


@pytest.mark.parametrize("name", ["smiling", "bald", "perceived_gender_presentation"])
def test_figures_of_an_attribute_with_intervals(name):
    row = tables(section(REPORT, "Attributes"))[0][name.replace("_", " ")]
    wanted = METRICS["attributes"][name]
    assert row["n"] == "2,000"
    for head, metric in (("accuracy", "accuracy"), ("F1", "f1"), ("recall", "recall")):
        low, high = wanted["intervals"][metric]
        assert row[head] == f"{wanted[metric]:.3f} ({low:.3f} to {high:.3f})"
    assert row["ECE"] == f"{wanted['ece']:.3f}"


def test_means():
    means = tables(REPORT.split("## Attributes")[0])[0]
    assert means["macro"]["balanced accuracy"] == f"{METRICS['macro']['balanced_accuracy']:.3f}"
    assert means["micro"]["F1"] == "0.699"
    assert means["micro"]["ECE"] == "-"


def test_groups_with_intervals_and_words():
    coverage, accuracy, f1, fairness = tables(section(REPORT, "By race"))[:4]
    own = METRICS["attributes"]["smiling"]["by_group"]["race"]["Latino_Hispanic"]
    low, high = own["intervals"]["accuracy"]
    head = f"Latino Hispanic (n {own['n']})"
    assert accuracy["smiling"][head] == f"{own['accuracy']:.3f} ({low:.3f} to {high:.3f})"
    assert accuracy["smiling"]["Other (n 15)"] == f1["bald"]["Other (n 15)"] == "too few"
    assert coverage["Other"]["faces found"] == "too few"
    spread = METRICS["attributes"]["smiling"]["fairness"]["race"]
    assert fairness["smiling"]["worst"] == (
        f"{spread['accuracy']['worst_group']} {spread['accuracy']['worst']:.3f}"
    )
    assert fairness["smiling"]["equal opportunity"] == (
        f"{spread['equal_opportunity_difference']:.3f}"
    )
    assert fairness["smiling"]["left out"] == "Other: too few"


def test_where_groups_are_more_than_attributes_they_are_rows():
    metrics = copy.deepcopy(METRICS)
    metrics["attributes"] = {name: METRICS["attributes"][name] for name in ("age", "bald")}
    report = evaluation_markdown(metrics)
    accuracy = tables(section(report, "By race and perceived gender presentation"))[1]
    assert accuracy["Black, feminine"]["n"] == "178"
    assert accuracy["Other, masculine"]["bald"] == "too few"


def test_a_figure_without_faces_is_not_estimable():
    metrics = copy.deepcopy(METRICS)
    own = metrics["attributes"]["smiling"]["by_group"]["race"]["Black"]
    own |= {"f1": None, "not_estimable": ["f1"]}
    f1 = tables(section(evaluation_markdown(metrics), "By race"))[2]
    assert f1["smiling"]["Black (n 309)"] == "not estimable"


def test_reliability_abstention_and_robustness_are_there_in_numbers():
    bins = METRICS["attributes"]["smiling"]["reliability"]
    row = tables(section(REPORT, "Calibration"))[0]["smiling"]
    assert row["10"] == f"{bins[9]['prob']:.2f} / {bins[9]['frac']:.2f}"
    curve, by_name = tables(section(REPORT, "Abstention"))
    assert curve["accuracy"]["90 %"] == f"{METRICS['selective']['accuracy_at_90']:.3f}"
    at_90 = METRICS["attributes"]["bald"]["selective"]["accuracy_at_90"]
    assert by_name["bald"]["of the surest 90 %"] == f"{at_90:.3f}"
    face_size = tables(section(REPORT, "Robustness"))[0]
    assert face_size["15"]["accuracy"] == "too few"
    assert face_size["224"]["accuracy"] == "0.910"
    assert "From 48 px on" in section(REPORT, "Robustness")


def test_comparison_requirements_and_limits():
    changes, worse = tables(section(REPORT, "Comparison"))
    assert changes["mean"]["accuracy"] == "+0.012 (+0.008 to +0.016)"
    assert changes["mean"]["average precision"] == "not estimable"
    assert changes["age"]["F1"] == "-"
    assert worse["smiling"]["group"] == "race: Black"
    assert worse["smiling"]["evidence"] == "beyond chance"
    required = tables(section(REPORT, "Requirements"))[0]
    assert required["`macro_f1>=0.70`"]["result"] == "**missed**"
    assert "- bald: F1" in section(REPORT, "Limits")
    assert "**Research only" in REPORT


def test_what_was_not_measured_has_no_section():
    report = evaluation_markdown(small_metrics())
    headings = re.findall(r"^## (.*)$", report, re.MULTILINE)
    assert headings == ["Attributes", "Limits", "Provenance"]
    assert "Not measured here: by group" in report
    assert tables(report)[1]["smiling"]["F1"] == "not estimable"


def test_cautions_stand_above_the_figures():
    cautions = ["figures flatter: <trained> on it", "figures flatter: calibrated on it"]
    report = evaluation_markdown(small_metrics() | {"cautions": cautions})
    top = report[: report.index("| ")].split("\n\n")
    assert "**Figures flatter: &lt;trained> on it.**" in top
    assert "**Figures flatter: calibrated on it.**" in top


HOSTILE = "<script>`*[a](http://b)*`|\n# c"


def test_no_name_becomes_markup():
    metrics = small_metrics() | {"model": HOSTILE, "command": HOSTILE}
    metrics["attributes"] = {HOSTILE: metrics["attributes"]["smiling"]}
    report = evaluation_markdown(metrics)
    outside = re.sub(r"(`+).*?\1", "", report.replace("\\`", ""))
    assert "<script>" not in outside
    assert not re.search(r"(?<!\\)\[a(?<!\\)\]\(", report.splitlines()[0])
    assert "\n# c" not in report
    assert len(tables(report)[1]) == 1  # the row is still one row


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Latino_Hispanic 20-29", "Latino_Hispanic 20-29"),
        ("a*b*c", r"a\*b\*c"),
        ("<b>&", "&lt;b>&amp;"),
        ("a\n\n# b", "a # b"),
        (r"\[x](y)", r"\\\[x\](y)"),
    ],
)
def test_safe_text(text, wanted):
    assert safe(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("a b", "`a b`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a\nb", "`a b`")],
)
def test_code_cannot_be_ended_by_its_text(text, wanted):
    assert code(text) == wanted
