"""Pages in a real browser: what a reader sees, with a mouse, with keys, on paper and by a screen reader."""

import io
import re

import pytest
from PIL import Image, ImageChops

from nrm_keras.report import page
from tests.report.conftest import HEADER, SUMMARY, metric_rows
from tests.report.test_page import ATTACK

# whether the page has charts with a choice (of a layer, say): `select.choice` inside a `figure`
CHOICES = False
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])

SMALL_TEXTS = """
() => {
  const small = [], walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  for (let text; (text = walker.nextNode()); ) {
    const element = text.parentElement, size = parseFloat(getComputedStyle(element).fontSize);
    const range = document.createRange();
    range.selectNodeContents(text);
    const shown = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    const { width, height } = range.getBoundingClientRect();
    if (text.data.trim() && shown && width * height > 1 && size < 11) small.push(`${size}px: ${text.data.trim()}`);
  }
  return small;
}
"""
# what one must be able to reach with the Tab key, by number in the document
REACHABLE = """
() => {
  const all = [...document.querySelectorAll("*")];
  const kinds = "a[href], button, select, input, textarea, summary, [tabindex='0']";
  return all.flatMap((one, index) => (one.matches(kinds) && !one.disabled && one.checkVisibility() ? [index] : []));
}
"""
FOCUSED = """
() => {
  const one = document.activeElement, box = one.getBoundingClientRect();
  const name = `${one.tagName} ${one.className} ${one.getAttribute("aria-label") ?? one.textContent.slice(0, 40)}`;
  return {
    index: [...document.querySelectorAll("*")].indexOf(one), kind: `${one.tagName} ${one.className}`, name,
    box: [box.left, box.top, box.right, box.bottom],
  };
}
"""


def test_what_a_page_says_and_requests_is_heard(visit, tmp_path):
    noisy = tmp_path / "noisy.html"
    noisy.write_text(
        "<title>x</title><img src='picture.png'><script>alert(1); fetch('https://example.org/x').catch(() => 0);"
        "new WebSocket('ws://example.org/y').onerror = () => { document.title = 'done' }; undefinedFunction()</script>"
    )
    seen = visit(noisy)
    seen.page.wait_for_function("document.title === 'done'")
    assert "undefinedFunction" in " ".join(seen.errors) and seen.dialogs == ["dialog: 1"]
    assert sorted(line.rpartition("/")[2] for line in seen.requests) == ["picture.png", "x", "y"]
    assert seen.console  # the requests that failed
    for heard in (seen.console, seen.errors, seen.requests, seen.dialogs):
        heard.clear()


def test_every_curve_is_drawn_and_names_are_no_script(make_run, visit):
    header = HEADER.replace("accuracy", ATTACK)
    seen = visit(page.write(make_run(metric_rows(15), header=header, summary={**SUMMARY, "title": ATTACK})))
    seen.open_everything()
    lines = [line.get_attribute("d") for line in seen.page.locator(".cartesianlayer path.js-line").all()]
    assert len(lines) == 5 and all(line.count("L") > 5 for line in lines)
    assert seen.page.locator(".annotation-text").count() == 2  # the best epoch, on both metrics
    assert ATTACK in seen.page.title() and seen.page.title() != "hacked"


def test_every_section_of_a_real_run_is_there(real_run, visit):
    seen = visit(real_run / "report.html")
    for section in seen.page.locator("section").all():
        assert section.locator(":scope > h2").inner_text().strip()
    seen.open_everything()
    assert seen.page.locator(".chart").count() >= 3
    for chart in seen.page.locator(".chart").all():
        assert chart.locator(".main-svg").first.bounding_box()["height"] > 60


def test_each_chart_tells_its_numbers_under_the_mouse(real_run, visit):
    seen = visit(real_run / "report.html")
    seen.open_everything()
    mute = [c.get_attribute("aria-label") for c in seen.page.locator(".chart").all() if not seen.hover(c)]
    assert mute == []


@pytest.mark.skipif(not CHOICES, reason="the page has no chart with a choice yet")
def test_another_choice_draws_another_chart(real_run, visit):
    seen = visit(real_run / "report.html")
    seen.open_everything()
    choice = seen.page.locator("figure select.choice").first
    if not choice.count():
        pytest.fail("no figure with a select.choice")
    # the values and not only the marks on the screen, which a resize would change as well
    values = "figure => JSON.stringify(figure.querySelector('.js-plotly-plot').data.map(trace => [trace.y, trace.z]))"
    figure = seen.page.locator("figure", has=choice).first
    before, drawn = figure.evaluate(values), figure.locator(".cartesianlayer").first.inner_html()
    choice.focus()
    seen.page.keyboard.press("End")
    assert choice.evaluate("one => one.selectedIndex === one.options.length - 1 && one.options.length > 1")
    seen.page.wait_for_timeout(500)
    assert figure.evaluate(values) != before
    assert figure.locator(".cartesianlayer").first.inner_html() != drawn


@pytest.mark.parametrize("width", [400, 1600])
def test_narrow_and_wide_windows_are_readable(real_run, visit, width):
    seen = visit(real_run / "report.html", width=width)
    seen.open_everything()
    needed, there = seen.page.evaluate("() => ['scrollWidth', 'clientWidth'].map(k => document.documentElement[k])")
    assert needed <= there
    for heading in seen.page.locator("h1, h2").all():
        box = heading.bounding_box()
        assert heading.is_visible() and box["x"] >= 0 and box["x"] + box["width"] <= width
    for chart in seen.page.locator(".chart").all():
        svg = chart.locator(".main-svg").first.bounding_box()
        assert svg["x"] >= 0 and svg["x"] + svg["width"] <= width, chart.get_attribute("aria-label")
    assert seen.page.evaluate(SMALL_TEXTS) == []


@SCHEMES
def test_axe_finds_nothing_serious(real_run, visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    seen = visit(real_run / "report.html", scheme=scheme)
    seen.open_everything()
    found = Axe().run(seen.page, options={}).response
    assert "color-contrast" in {rule["id"] for rule in found["passes"]}
    grave = [
        f"{rule['id']} ({rule['impact']}): {rule['help']}: {' '.join(node['target'])}"
        for rule in found["violations"]
        for node in rule["nodes"]
        if rule["impact"] in ("serious", "critical")
    ]
    assert grave == []


@SCHEMES
def test_the_tab_key_reaches_everything_in_order_and_shows_where_it_is(real_run, visit, scheme):
    seen = visit(real_run / "report.html", scheme=scheme)
    seen.open_everything()
    seen.page.evaluate("() => scrollTo(0, 0)")
    stops = _tab_through(seen.page)
    indices = [stop["index"] for stop in stops]
    assert indices == sorted(set(indices))
    assert set(seen.page.evaluate(REACHABLE)) <= set(indices)
    assert [stop["name"] for stop in stops if not stop["outlined"]] == []


def _tab_through(view) -> list[dict]:
    """Where the Tab key goes until it leaves the page; one of each kind is looked at for its outline."""
    stops, outlined = [], {}
    while len(stops) < 500:
        view.keyboard.press("Tab")
        stop = view.evaluate(FOCUSED)
        if stop["kind"].strip() == "BODY":
            return stops
        if stop["kind"] not in outlined:
            outlined[stop["kind"]] = _is_outlined(view, stop["box"])
        stops.append({**stop, "outlined": outlined[stop["kind"]]})
    pytest.fail(f"the Tab key never leaves the page: {stops[-3:]}")


def _is_outlined(view, box: list[float]) -> bool:
    """Whether the surroundings of what has the focus look clearly different from what they are without it."""
    size = view.viewport_size
    left, top = max(box[0] - 6, 0), max(box[1] - 6, 0)
    right, bottom = min(box[2] + 6, size["width"]), min(box[3] + 6, size["height"])
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    focused = view.screenshot(clip=clip)
    # Tab goes on from here all the same
    view.evaluate("() => document.activeElement.blur()")
    difference = ImageChops.difference(*(_grey(shot) for shot in (focused, view.screenshot(clip=clip))))
    changed = sum(difference.histogram()[50:])
    return changed >= min(clip["width"], clip["height"])


def _grey(shot: bytes) -> Image.Image:
    return Image.open(io.BytesIO(shot)).convert("L")


def test_it_prints_on_several_pages(real_run, visit):
    seen = visit(real_run / "report.html", scheme="dark")
    seen.open_everything()
    seen.page.emulate_media(media="print")
    assert seen.page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    pdf = seen.page.pdf()
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 1
