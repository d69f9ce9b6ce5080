"""The page as a parser reads it; in Chromium: test_evaluation_page_in_chromium.py."""

import base64
import copy
import hashlib
import itertools
import re

import pytest
from report.evaluation.evaluation_metrics import evaluation_metrics, small_metrics
from report.evaluation.page_tree import parse, table

from fattr.report.evaluation.page import evaluation_page

KEPT = (
    "age",
    "bald",
    "black_hair",
    "eyeglasses",
    "perceived_gender_presentation",
    "smiling",
    "young",
)
METRICS = evaluation_metrics()
METRICS["attributes"] = {name: METRICS["attributes"][name] for name in KEPT}  # quick to parse
HOSTILE = '</title><script>alert("x")</script>\'"><img src=x onerror=alert(1)> & so on'


@pytest.fixture(scope="module")
def page():
    return parse(evaluation_page(METRICS))


def sections(page):
    return [section.all("h2")[0].text for section in page.all("section")]


def section(page, title):
    return next(one for one in page.all("section") if one.all("h2")[0].text == title)


# Figures


@pytest.mark.parametrize("name", ["smiling", "bald", "perceived_gender_presentation"])
def test_the_table_shows_the_figures_of_every_attribute(page, name):
    shown = table(page, "Every attribute")
    assert len(shown) == len(METRICS["attributes"]) - 1  # ages have their own
    row, wanted = shown[name.replace("_", " ")], METRICS["attributes"][name]
    assert row["n"].text == f"{wanted['n']:,}"
    for head, metric in (
        ("accuracy", "accuracy"),
        ("F1", "f1"),
        ("average precision", "average_precision"),
        ("ROC AUC", "roc_auc"),
        ("ECE", "ece"),
        ("Brier score", "brier"),
    ):
        assert row[head].text.strip() == f"{wanted[metric]:.3f}"
        assert float(row[head].attributes["data-value"]) == pytest.approx(wanted[metric])
    gaps = [
        wanted["fairness"][c]["accuracy"]["difference"] for c in wanted["fairness"] if "*" not in c
    ]
    assert row["widest gap"].text == f"{max(gaps):.3f}"


def test_an_age_has_years_and_neighbours(page):
    row, wanted = table(page, "Ages")["age"], METRICS["attributes"]["age"]
    assert row["MAE, years"].text.startswith(f"{wanted['mae']:.1f}")
    assert row["within one bin"].text.startswith(f"{wanted['one_off_accuracy']:.3f}")


def test_details_hold_intervals_confusion_and_groups(page):
    name = "perceived_gender_presentation"
    wanted = METRICS["attributes"][name]
    index = list(METRICS["attributes"]).index(name)
    inside = page.one("div", id=f"attribute-{index}")
    low, high = wanted["intervals"]["accuracy"]
    assert table(inside, "Figures of")["accuracy"]["95 %"].text == f"{low:.3f} to {high:.3f}"
    confusion = table(inside, "Confusion")
    assert confusion["feminine"]["masculine"].text.startswith(str(wanted["confusion"][0][1]))
    black = table(inside, "By race, with")["Black"]
    assert black["accuracy"].text.startswith(
        f"{wanted['by_group']['race']['Black']['accuracy']:.3f}"
    )
    spread = wanted["fairness"]["race"]["accuracy"]
    assert (
        table(inside, "Between the groups of race")["accuracy"]["worst group"].text
        == (spread["worst_group"])
    )


def test_groups_without_figures_say_why_in_words(page):
    heat = table(section(page, "Groups"), "Accuracy by race")
    other = next(head for head in heat["smiling"] if head.startswith("Other"))
    assert heat["smiling"][other].text == "too few"
    assert "data-value" not in heat["smiling"][other].attributes
    f1 = table(section(page, "Groups"), "F1 by perceived gender presentation")
    assert (
        METRICS["attributes"]["bald"]["by_group"]["perceived_gender_presentation"]["feminine"][
            "recall"
        ]
        is None
    )
    index = list(METRICS["attributes"]).index("bald")
    own = table(page.one("div", id=f"attribute-{index}"), "By perceived gender presentation, with")
    assert own["feminine"]["recall"].text == "not estimable"
    assert own["masculine"]["recall"].text != "not estimable"
    assert set(f1) == {n.replace("_", " ") for n in METRICS["attributes"] if n != "age"}


def test_a_cell_is_bold_where_the_overall_figure_is_outside_of_its_interval(page):
    heat = table(section(page, "Groups"), "Accuracy by race")
    num_bold = 0
    for name, row in METRICS["attributes"].items():
        for value, own in row["by_group"]["race"].items():
            if own["status"] != "ok":
                continue
            low, high = own["intervals"]["accuracy"]
            cells = heat[name.replace("_", " ")]
            cell = next(c for h, c in cells.items() if h.startswith(value.replace("_", " ")))
            is_bold = "off" in cell.attributes.get("class", "").split()
            assert is_bold == (not low <= row["accuracy"] <= high)
            num_bold += is_bold
    assert num_bold >= 4


def test_the_widest_difference_comes_first(page):
    heat = list(table(section(page, "Groups"), "Accuracy by race").values())
    differences = [float(row["difference"].attributes["data-value"]) for row in heat]
    assert differences == sorted(differences, reverse=True)


def test_many_groups_of_few_attributes_are_rows():
    metrics = copy.deepcopy(METRICS)
    metrics["attributes"] = {name: METRICS["attributes"][name] for name in ("age", "smiling")}
    heat = table(section(parse(evaluation_page(metrics)), "Groups"), "Accuracy by race and")
    assert heat["Black, feminine"]["n"].text == "178"
    assert heat["Middle Eastern, feminine"]["smiling"].text == "too few"


def test_coverage_fairness_requirements_and_the_other_parts(page):
    groups = section(page, "Groups")
    own = METRICS["coverage"]["race"]["Black"]
    assert table(groups, "Coverage by race")["Black"]["faces found"].text.strip() == (
        f"{own['detection_recall']:.3f}"
    )
    spread = METRICS["attributes"]["smiling"]["fairness"]["race"]
    fair = table(groups, "Fairness by race")["smiling"]
    assert fair["parity"].text == f"{spread['demographic_parity_difference']:.3f}"
    assert fair["opportunity"].text == f"{spread['equal_opportunity_difference']:.3f}"
    assert fair["left out"].text == "too few: Other"
    assert table(groups, "Fairness by race")["age"]["parity"].text == "-"
    required = table(section(page, "Requirements"), "Requirements")
    assert required["macro_f1>=0.70"]["result"].text == "missed"
    assert required["worst_group_gap<=0.20"]["result"].text == "met"
    worse = table(section(page, "Comparison"), "Groups labelled less accurately")
    assert worse["smiling"]["evidence"].text == "beyond chance"
    assert worse["bald"]["evidence"].text == "may be chance"
    rules = table(section(page, "Consistency"), "Labels that cannot")
    assert rules["bald and bangs"]["rate"].text.startswith("0.0015")
    assert "From 48 px on" in section(page, "Robustness").text


def test_where_few_faces_were_found_robustness_says_so(page):
    curves = table(section(page, "Robustness"), "Robustness: Face size")
    assert curves["15"]["accuracy"].text == "too few"
    assert curves["15"]["faces found"].text == "0.390"


# What is there, and in which order


def test_sections_come_in_order_and_are_linked(page):
    titles = sections(page)
    assert titles == [
        "Attributes",
        "Details",
        "Groups",
        "Calibration",
        "Abstention",
        "Robustness",
        "Consistency",
        "Mistakes",
        "Comparison",
        "Requirements",
        "Limits",
        "How to read",
        "Provenance",
    ]
    links = page.all("nav")[0].all("a")
    assert [link.text for link in links] == titles
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    targets = [a.attributes["href"] for a in page.all("a")]
    assert {target.removeprefix("#") for target in targets} <= set(ids)


def test_what_was_not_measured_is_not_shown_but_said():
    page = parse(evaluation_page(small_metrics()))
    assert sections(page) == ["Attributes", "Details", "Limits", "How to read", "Provenance"]
    assert "Not measured. No groups were given." in page.all("header")[0].text
    assert "Not measured here: by group (--groups), abstention" in section(page, "Limits").text
    assert table(page, "Every attribute")["smiling"]["F1"].text == "not estimable"
    assert "Research only" not in page.text


def test_the_restriction_is_told_at_the_top_and_at_the_end(page):
    assert "Research only" in page.all("header")[0].text
    assert "Research only" in section(page, "Provenance").text


def test_cautions_stand_at_the_top():
    cautions = ["figures flatter: <trained> on it", "figures flatter: calibrated on it"]
    header = parse(evaluation_page(small_metrics() | {"cautions": cautions})).all("header")[0]
    banners = [one.text for one in header.all("p") if one.attributes.get("class") == "banner"]
    assert banners == ["Figures flatter: <trained> on it.", "Figures flatter: calibrated on it."]


# Safety


def names_in(value):
    """Every word of a metrics.json that comes from outside, made hostile."""
    if isinstance(value, dict):
        return {hostile(key): names_in(one) for key, one in value.items()}
    if isinstance(value, list):
        return [names_in(one) for one in value]
    return value


def hostile(key):
    outside = ("smiling", "feminine", "Black", "race", "blur", "bald_and_bangs")
    return HOSTILE + key if key in outside else key


def test_no_name_becomes_markup(page):
    metrics = names_in(METRICS)
    for key in ("model", "data", "split", "command", "run_id"):
        metrics[key] = HOSTILE
    metrics["licence"] = {"model": HOSTILE, "data": HOSTILE}
    metrics["versions"] = {HOSTILE: HOSTILE}
    metrics["cautions"] = [HOSTILE]
    metrics["requirements"][0]["text"] = HOSTILE
    metrics["against"] |= {"model": HOSTILE, "verdict": HOSTILE, "summary": HOSTILE}
    metrics["against"]["regressions"][0] |= {"attribute": HOSTILE, "group": HOSTILE}
    attacked = parse(evaluation_page(metrics))
    assert HOSTILE in attacked.text
    assert HOSTILE.replace("_", " ") + "Black" in attacked.text
    assert len(attacked.all("script")) == len(attacked.all("style")) == 1
    assert not attacked.all("img", "iframe", "object", "embed", "form", "base")
    named = {name for element in attacked.all() for name in element.attributes}
    assert not [name for name in named if name.startswith("on") or name == "style"]
    assert {e.name for e in attacked.all()} == {e.name for e in page.all()}


def test_the_policy_names_the_only_script_and_style_and_nothing_is_loaded(page):
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    for kind in ("script", "style"):
        text = page.all(kind)[0].text.encode()
        digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    for element in page.all():
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = element.attributes.get(name, "#")
            assert value.startswith("#")
    assert not re.search(r"url\(|@import|https?:", page.all("style")[0].text)


def test_it_can_be_read_out(page):
    levels = [int(h.name[1]) for h in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(one.all("caption")[0].text for one in page.all("table"))
    for chart in page.all("svg"):
        assert chart.attributes.get("aria-label") or chart.attributes.get("aria-hidden") == "true"
    for head in page.all("th"):
        assert head.attributes["scope"] in ("col", "row")
    assert page.one("html").attributes["lang"] == "en"
