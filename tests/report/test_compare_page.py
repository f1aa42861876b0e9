import itertools
import json
import re

import pytest

from nrm_keras.errors import UserError
from nrm_keras.report import compare_page, compare_parts, comparison
from tests.report.conftest import RECIPE
from tests.report.markup import Page
from tests.report.test_comparison import BATCH, seeds
from tests.report.test_page import ATTACK, charts
from tests.report.watched import records, write


def page_of(tmp_path, *runs, paired=False):
    found = comparison.read(runs)
    return compare_page.write(found, compare_parts.parts(found, paired), tmp_path / "compare.html")


def shown(tmp_path, *runs, **options) -> Page:
    return Page(page_of(tmp_path, *runs, **options).read_text("utf-8"))


def six(tmp_path):
    return [*seeds(tmp_path, "a", RECIPE), *seeds(tmp_path, "b", BATCH, base=10)]


def test_everything_is_shown(tmp_path):
    seen = shown(tmp_path, *six(tmp_path), paired=True)
    assert [name.partition(" on ")[0] for name in seen.texts("h2")] == [
        *("Results", "Paired difference", "Recipes", "Environments", "Where they part", "Layers")
    ]
    figures = charts(seen)
    titles = list(figures)
    assert titles[:2] == ["Loss, validation", "Accuracy, validation"] and titles[-1] == "Layer by layer"
    assert titles[-2] == "Share of the numbers of D, E, F outside of the band"
    loss = figures["Loss, validation"]
    assert [curve["name"] for curve in loss["data"]] == [*"ABCDEF"]
    assert [curve["line"].get("dash", "solid") for curve in loss["data"]] == ["solid"] * 3 + ["dash"] * 3
    assert loss["layout"]["xaxis"]["title"]["text"] == "epoch" and loss["data"][0]["x"] == list(range(1, 16))
    # every layer that all have, in its order
    assert figures["Layer by layer"]["data"][0]["y"] == ["stem", "stem_norm", "logits"]
    (rows,) = [t for t in seen.classed("numbers") if t.within("details")]
    assert sum(e.tag == "tr" and rows in e.parents for e in seen.elements) == 1 + 3 * 4 + 3


def test_learning_rates_are_drawn_where_they_differ_and_training_where_one_has_no_validation(tmp_path):
    other = "epoch,loss,learning_rate\n1,0.5,0.1\n2,0.4,0.2\n"
    figures = charts(shown(tmp_path, write(tmp_path / "a"), write(tmp_path / "b", metrics=other)))
    assert list(figures) == ["Loss, training", "Accuracy, validation", "Learning rate"]
    assert figures["Loss, training"]["data"][1]["y"] == [0.5, 0.4]


def test_names_are_text(tmp_path):
    layers = [ATTACK, "stem"]
    recipe = f"title: {json.dumps(ATTACK)}\n{json.dumps(ATTACK)}: {json.dumps(ATTACK)}\n"
    metrics = f'epoch,"{ATTACK}",loss\n1,0.5,0.5\n'
    environment = json.dumps({"versions": {ATTACK: ATTACK}})
    attacked = write(
        tmp_path / "a", records(layers=layers), recipe=recipe, metrics=metrics, environment=environment, summary=None
    )
    plain = write(tmp_path / "b", records(1, layers=layers), metrics=metrics)
    seen = shown(tmp_path, attacked, plain)
    assert not seen.all("img") and ATTACK in seen.texts("title")[0] and ATTACK in " ".join(seen.texts("th"))
    assert len([e for e in seen.all("script") if e.attributes.get("type") != "application/json"]) == 2
    assert not [name for e in seen.elements for name in e.attributes if name.startswith("on")]
    for figure in charts(seen).values():
        assert "<" not in json.dumps(figure).replace("<br>", "").replace("<extra></extra>", "")


def test_the_page_is_accessible_and_loads_nothing(tmp_path):
    seen = shown(tmp_path, *six(tmp_path), paired=True)
    levels = [int(e.tag[1]) for e in seen.elements if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [e.attributes["id"] for e in seen.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in seen.elements:
        assert not {"src", "href", "srcset"} & set(element.attributes)
        for name in ("aria-labelledby", "aria-describedby"):
            assert element.attributes.get(name, ids[0]) in ids
    (policy,) = [e.attributes["content"] for e in seen.all("meta", **{"http-equiv": "Content-Security-Policy"})]
    assert "default-src 'none'" in policy


def test_runs_without_anything_to_draw_bring_no_charting_library(tmp_path):
    empty = {"metrics": None, "summary": None, "environment": None}
    seen = shown(tmp_path, write(tmp_path / "a", **empty), write(tmp_path / "b", **empty))
    assert seen.texts("h2") == ["Results", "Recipes", "Environments", "Where they part", "Layers"]
    assert not [e for e in seen.all("script") if len(e.text) > 1_000_000]


def test_a_page_that_cannot_be_written_is_an_error(tmp_path):
    runs = write(tmp_path / "a"), write(tmp_path / "b")
    with pytest.raises(UserError, match="a directory that exists. Received: No such file or directory. Choose"):
        page_of(tmp_path / "none", *runs)
    (tmp_path / "taken" / "compare.html").mkdir(parents=True)
    with pytest.raises(UserError, match="written to a file, .* Received: Is a directory. Choose"):
        page_of(tmp_path / "taken", *runs)
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["compare.html"]


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (400, "dark")])
def test_in_a_browser(tmp_path, visit, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    seen = visit(page_of(tmp_path, *six(tmp_path), paired=True), width=width, scheme=scheme)
    seen.open_everything()
    found = Axe().run(seen.page, options={}).response["violations"]
    assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    profile = seen.page.locator("figure", has=seen.page.locator("select"))
    assert seen.hover(profile.locator(".chart"))
    profile.locator("select").select_option("update ratio")
    profile.locator(".xtitle", has_text="update ratio").wait_for(timeout=5_000)
