"""The page as headless Chromium shows it: what a reader sees, clicks and types."""

import pytest
from report.evaluation.chromium import ENTER, chromium
from report.evaluation.evaluation_metrics import evaluation_metrics

from fattr.report.evaluation.page import evaluation_page

pytestmark = pytest.mark.full

METRICS = evaluation_metrics()
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844, "is_phone": True}
ATTRIBUTES = "#attributes ~ .scroll table"
BUTTON = ATTRIBUTES + " th:nth-child({}) button"
ACCURACY, BALANCED = 3, 4

ROWS = """
const [css, column] = arguments;
const rows = [...document.querySelector(css).tBodies[0].rows];
return rows.map((row) => [row.cells[0].innerText, row.cells[column - 1].innerText.trim()]);
"""
CONTRASTS = """
function numbers(colour) { return colour.match(/[0-9.]+/g).map(Number); }
function luminance(rgb) {
  const [r, g, b] = rgb.map((c) => c / 255).map(
    (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(element) {
  for (let one = element; one; one = one.parentElement) {
    const colour = numbers(getComputedStyle(one).backgroundColor);
    if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
  }
  return [255, 255, 255];
}
const found = {};
for (const element of document.querySelectorAll("body *")) {
  const hasText = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!hasText || !element.checkVisibility() || element.closest("script")) continue;
  const style = getComputedStyle(element);
  const colour = numbers(element.closest("svg") ? style.fill : style.color).slice(0, 3);
  const [a, b] = [luminance(colour), luminance(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const name = element.tagName + "." + element.getAttribute("class");
  found[name] = Math.min(ratio, found[name] ?? 99);
}
return found;
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "evaluation.html"
    path.write_text(evaluation_page(METRICS))
    return path


@pytest.fixture(scope="module")
def desktop(file):
    with chromium(**DESKTOP) as page:
        page.open(file)
        yield page


@pytest.fixture
def page(desktop, file):
    desktop.open(file)
    return desktop


def names(rows):
    return [name for name, _ in rows]


def values(rows, metric):
    """The figures of the rows' attributes, in the order of the rows."""
    plain = {n: row for n, row in METRICS["attributes"].items() if n != "age"}
    known = {n.replace("_", " "): row[metric] for n, row in plain.items()}
    assert set(names(rows)) == known.keys()
    return [known[name] for name in names(rows)]


def test_a_click_on_a_header_sorts_and_another_turns_it_around(page):
    before = page.script(ROWS, ATTRIBUTES, ACCURACY)
    page.click(BUTTON.format(ACCURACY))
    down = values(page.script(ROWS, ATTRIBUTES, ACCURACY), "accuracy")
    assert down == sorted(down, reverse=True) != values(before, "accuracy")
    sort = "return document.querySelector(arguments[0]).closest('th').getAttribute('aria-sort')"
    assert page.script(sort, BUTTON.format(ACCURACY)) == "descending"
    page.click(BUTTON.format(ACCURACY))
    assert values(page.script(ROWS, ATTRIBUTES, ACCURACY), "accuracy") == sorted(down)
    assert page.script(sort, BUTTON.format(ACCURACY)) == "ascending"
    page.click(BUTTON.format(1))
    assert names(page.script(ROWS, ATTRIBUTES, 1)) == sorted(names(before))
    assert page.script(sort, BUTTON.format(ACCURACY)) is None


def test_a_header_sorts_by_keyboard(page):
    page.press(BUTTON.format(BALANCED), ENTER)
    down = values(page.script(ROWS, ATTRIBUTES, BALANCED), "balanced_accuracy")
    assert down == sorted(down, reverse=True)
    assert page.name_of(BUTTON.format(BALANCED)) == "balanced accuracy"


def test_rows_without_a_figure_stay_last_however_sorted(page):
    css = "#robustness ~ details table"  # the smallest face size has too few faces
    page.script("document.querySelectorAll('#robustness ~ details').forEach((d) => d.open = true)")
    for _ in range(2):
        page.click(f"{css} th:nth-child(3) button")
        assert page.script(ROWS, css, 3)[-1] == ["15", "too few"]


def test_a_link_opens_the_details_it_leads_to(page):
    index = list(METRICS["attributes"]).index("wearing_hat")
    find = f"const one = document.getElementById('attribute-{index}');"
    assert not page.script(find + "return one.checkVisibility()")
    page.click(f'{ATTRIBUTES} a[href="#attribute-{index}"]')
    shown = page.script(find + "return one.checkVisibility() && one.innerText")
    assert "wearing_hat (true: a hat or other head covering)" in shown
    assert 0 <= page.script(find + "return one.getBoundingClientRect().top") < DESKTOP["height"]


def test_a_button_opens_and_closes_all_details(page):
    closed = (
        "return [...document.querySelectorAll('#details ~ details')].filter((d) => !d.open).length"
    )
    assert page.script(closed) == len(METRICS["attributes"])
    page.click("button.all")
    assert page.script(closed) == 0
    page.click("button.all")
    assert page.script(closed) == len(METRICS["attributes"])


def test_what_has_no_figure_is_said_in_words_that_can_be_seen(page):
    shown = page.script("return document.querySelector('main').innerText")
    assert "too few" in shown
    assert "not estimable" in shown
    assert "NaN" not in shown
    assert "undefined" not in shown
    assert "Not for 23 of 41 attributes." in page.script("return document.body.innerText")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_loads_nothing_and_logs_nothing(file, size, tmp_path):
    with chromium(**size) as page:
        page.open(file)
        assert page.script("return innerWidth") == size["width"]
        for is_open in ("false", "true"):
            page.script(f"document.querySelectorAll('details').forEach((d) => d.open = {is_open})")
            assert page.script("return document.documentElement.scrollWidth") <= size["width"]
        assert page.console() == []
        assert page.requested() == [file.absolute().as_uri()]
        page.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 20_000  # not a blank page


def test_on_a_phone_the_heads_of_rows_stay_while_a_table_moves(file):
    with chromium(**PHONE) as page:
        page.open(file)
        moved = f"""
        const table = document.querySelector('{ATTRIBUTES}');
        table.closest('.scroll').scrollLeft = 200;
        const [head, cell] = table.tBodies[0].rows[0].cells;
        const edge = table.closest('.scroll').getBoundingClientRect().left;
        return [head.getBoundingClientRect().left - edge, cell.getBoundingClientRect().left - edge];
        """
        head, cell = page.script(moved)
        assert head == pytest.approx(0, abs=1)
        assert cell < 0


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(file, is_dark):
    with chromium(**DESKTOP, is_dark=is_dark) as page:
        page.open(file)
        page.script("document.querySelectorAll('details').forEach((d, i) => d.open = i % 8 == 0)")
        contrasts = page.script(CONTRASTS)
        assert len(contrasts) > 15
        assert {name: ratio for name, ratio in contrasts.items() if ratio < 4.5} == {}
        ground = page.script("return getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") is not is_dark


def test_in_print_there_is_no_navigation_and_nothing_is_cut_off(page):
    page.show_as("print")
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    assert page.script(style, "nav", "display") == "none"
    assert page.script(style, ".scroll", "overflowX") == "visible"
    page.show_as("screen")


def test_even_markup_that_got_in_could_not_run(file):
    with chromium(**DESKTOP) as page:
        page.open(file)
        inject = """
        const [probe, script] = [document.createElement('div'), document.createElement('script')];
        probe.innerHTML = '<img src="data:," onerror="window.attacked = 1">';
        script.textContent = 'window.attacked = 1';
        document.body.append(probe, script);
        """
        page.script(inject)
        assert page.script("return window.attacked ?? 'no'") == "no"
        refused = page.console()
        assert any("Content Security Policy" in message for message in refused)
