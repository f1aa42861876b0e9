import itertools
import json
import re
import subprocess
import sys

import pytest

from nrm_keras.errors import UserError
from nrm_keras.report import page
from tests.report.conftest import ENVIRONMENT, HEADER, RECIPE, SUMMARY, metric_rows
from tests.report.markup import Page

ATTACK = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"


def read(run) -> Page:
    return Page(page.write(run).read_text("utf-8"))


def sections(shown: Page) -> list[str]:
    return shown.texts("h2")


def charts(shown: Page) -> dict[str, dict]:
    data = [
        json.loads(e.text)["choices"][0] for e in shown.all("script", type="application/json") if e.within("figure")
    ]
    return dict(zip(shown.texts("h3"), data, strict=True))


def test_a_finished_run_shows_everything(make_run):
    shown = read(make_run())
    assert sections(shown) == ["Training", "Result", "Recipe", "Environment"]
    assert list(charts(shown)) == ["Loss", "Accuracy", "Learning rate"]
    assert shown.texts("h1") == [SUMMARY["title"]]
    verdict = shown.classed("verdict")[0].text
    assert verdict.startswith("97.8 % of 360 test examples are classified correctly.")
    assert "epoch 12" in verdict and "more than chance explains" in verdict
    tiles = " ".join(shown.classed("tiles")[0].text.split())
    assert "95.7 to 98.9" in tiles and "77,402" in tiles and "31 s" in tiles
    assert "python -m nrm_keras run images/digits_adaptive train.epochs=15" in shown.texts("pre")


def test_nothing_comes_from_the_network(make_run):
    shown = read(make_run())
    for element in shown.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"):
            assert name not in element.attributes, (element.tag, name)
        assert "url(" not in (element.attributes.get("style") or "")
    styles = " ".join(shown.texts("style"))
    assert styles and not re.search(r"@import|url\(|https?:", styles)
    ours = [e.text for e in shown.all("script") if len(e.text) < 1_000_000]
    assert ours and not any(re.search(r"https?:|fetch\(|import\(|XMLHttpRequest", text) for text in ours)
    (policy,) = [e.attributes["content"] for e in shown.all("meta", **{"http-equiv": "Content-Security-Policy"})]
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert not re.search(r"script-src[^;]*unsafe-inline|https?:|\*", policy)


def test_nothing_can_be_sent_to_plotlys_cloud(make_run):
    # plotly.js 4 shows a button that uploads the figure, unless told otherwise
    (script,) = [e.text for e in read(make_run()).all("script") if "Plotly.react" in e.text and len(e.text) < 5000]
    assert "showSendToCloud: false" in script


def test_plotly_is_inlined_once_and_scripts_carry_a_fresh_number(make_run):
    run = make_run()
    first, second = read(run), read(run)
    assert sum(len(e.text) > 1_000_000 for e in first.all("script")) == 1
    numbers = [{e.attributes["nonce"] for e in p.all("script") if "type" not in e.attributes} for p in (first, second)]
    assert len(numbers[0]) == len(numbers[1]) == 1 and numbers[0] != numbers[1]


def test_names_and_recipes_are_text(make_run):
    summary = {
        **SUMMARY,
        "title": ATTACK,
        "recipe": ATTACK,
        "status": ATTACK,
        "classes": [ATTACK, "b"],
        "monitor": ATTACK,
    }
    summary["metrics"] = {"test": {ATTACK: 0.5}}
    run = make_run(
        header=HEADER.replace("accuracy", ATTACK),
        summary=summary,
        environment={"versions": {ATTACK: ATTACK}, ATTACK: [ATTACK], "git": {"diff": f"</pre>{ATTACK}"}},
        recipe=f"{RECIPE}{ATTACK}: '{ATTACK}'   # {ATTACK}:4\n",
    )
    (run / "command.txt").write_text(f"</pre>{ATTACK}")
    shown = read(run)
    assert shown.texts("h1") == [ATTACK] and ATTACK in shown.texts("title")[0]
    assert not shown.all("img")
    assert (
        len([e for e in shown.all("script") if e.attributes.get("type") != "application/json"]) == 2
    )  # plotly's, ours
    handlers = [name for e in shown.elements for name in e.attributes if name.startswith("on")]
    assert handlers == []
    # plotly reads its own markup in texts: no name of a metric may get there unescaped
    for figure in charts(shown).values():
        assert "<" not in json.dumps(figure["data"]) + json.dumps(figure["layout"])


def test_an_unfinished_run_says_so_and_how_to_go_on(make_run):
    run = make_run(metric_rows(15)[:7], summary=None, torn="8,0.1,0.9")
    shown = read(run)
    assert sections(shown) == ["Training", "End of the log", "Recipe", "Environment"]
    assert "Still training, or interrupted" in shown.classed("verdict")[0].text
    assert "7 of 15 epochs are recorded" in shown.classed("verdict")[0].text
    assert shown.texts("h1") == ["Digits with the adaptive mixer"]
    assert f"python -m nrm_keras run --resume {run}" in shown.texts("pre")
    assert charts(shown)["Loss"]["data"][0]["x"] == list(range(1, 8))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"rows": []}, ["Result", "Recipe", "Environment"]),
        ({"rows": [], "summary": None}, ["End of the log", "Recipe", "Environment"]),
        ({"environment": None}, ["Training", "Result", "Recipe"]),
        ({"environment": {}, "recipe": ""}, ["Training", "Result"]),
        ({"summary": {**SUMMARY, "metrics": {}}}, ["Training", "Recipe", "Environment"]),
    ],
)
def test_sections_without_data_are_left_out(make_run, options, expected):
    shown = read(make_run(**options))
    assert sections(shown) == expected
    for table in shown.all("table"):
        assert any(e.tag in {"td", "th"} and table in e.parents for e in shown.elements)
    # no charts, no charting library
    assert bool([e for e in shown.all("script") if len(e.text) > 1_000_000]) is ("Training" in expected)


def test_only_the_test_score_has_an_interval(make_run):
    shown = read(make_run())
    (table,) = [t for t in shown.classed("numbers") if not t.within("details")]
    rows = [[e.text for e in shown.all("td") if row in e.parents] for row in shown.all("tr") if table in row.parents]
    # the epoch was chosen by the validation score, which is flattered by it
    assert [cells[-1] for cells in rows if cells] == ["100 %", "99.3 %", "97.8 % (95.7 to 98.9)"]


def test_the_loss_comes_first_whatever_the_order_of_columns(make_run):
    shown = read(make_run(["1,0.5,1.2,0.4,1.3"], header="epoch,accuracy,loss,val_accuracy,val_loss"))
    assert list(charts(shown)) == ["Loss", "Accuracy"]


def test_one_epoch_without_validation(make_run):
    shown = read(make_run(["1,0.5,0.1,3.0"], header="epoch,loss,learning_rate,seconds"))
    figures = charts(shown)
    assert list(figures) == ["Loss", "Learning rate"]
    assert [curve["name"] for curve in figures["Loss"]["data"]] == ["training"]


def test_a_metric_of_validation_only_has_its_chart(make_run):
    figures = charts(read(make_run(["1,0.5,0.1", "2,0.4,0.3"], header="epoch,loss,val_mean_iou")))
    assert [curve["name"] for curve in figures["Mean IoU"]["data"]] == ["validation"]


def test_values_that_are_not_finite_are_gaps_and_told(make_run):
    rows = [f"{epoch},{loss},0.5,0.9,0.5,0.1,1" for epoch, loss in enumerate(["1.5", "nan", "inf"], 1)]
    shown = read(make_run(rows))
    assert charts(shown)["Loss"]["data"][0]["y"] == [1.5, None, None]
    assert "not finite in 2 of 3 epochs, first in epoch 2" in shown.classed("notices")[0].text


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ({"summary": "{"}, "summary.json"),
        ({"summary": "[1]"}, "summary.json"),
        ({"summary": {**SUMMARY, "metrics": {"test": {"accuracy": "good"}}}}, "summary.json"),
        ({"environment": "\0"}, "environment.json"),
        ({"recipe": "a: [1"}, "recipe.yaml"),
        ({"header": HEADER.replace("epoch", "time")}, "metrics.csv"),
        ({"rows": ["nan,1,1,1,1,1,1"]}, "metrics.csv"),
    ],
)
def test_damage_becomes_a_notice(make_run, options, file):
    shown = read(make_run(**options))
    assert file in shown.classed("notices")[0].text
    assert "Recipe" in sections(shown)


def test_many_epochs_are_thinned_in_the_table_and_it_says_so(make_run):
    shown = read(make_run([f"{epoch},1,1,1,1,1,1" for epoch in range(1, 1002)]))
    (table,) = [t for t in shown.classed("numbers") if t.within("details")]
    rows = [e.text for e in shown.all("th", scope="row") if table in e.parents]
    assert len(rows) <= 201 and rows[0] == "1" and rows[-1] == "1001"
    assert "Every 6th of 1001 epochs" in " ".join(shown.texts("caption"))
    assert len(charts(shown)["Loss"]["data"][0]["x"]) == 1001


def test_recipe_lines_keep_value_and_origin(make_run):
    lines = [
        ('a: "x  # default"', ""),
        ('b: "y  # z"', "r.yaml:3"),
        ("list:", ""),
        ("  - c: 1", "command line"),
        ("  - 2", "default"),
        ('d: ["e: f"]', "odd # name's.yaml:12"),
    ]
    recipe = "".join(f"{value}{f'   # {origin}' if origin else ''}\n" for value, origin in lines)
    shown = read(make_run(recipe=recipe))
    (table,) = shown.classed("recipe")
    cells = [e.text for e in shown.all("td") if table in e.parents]
    assert list(zip(cells[::2], cells[1::2], strict=True)) == lines
    assert len(shown.classed("command")) == 2  # the line and the caption's example


def test_the_page_is_accessible(make_run):
    shown = read(make_run(environment={**ENVIRONMENT, "note": "x"}))
    (root,) = shown.all("html")
    assert root.attributes["lang"] == "en" and shown.texts("title")[0].startswith(SUMMARY["title"])
    levels = [int(e.tag[1]) for e in shown.elements if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for table in shown.all("table"):
        assert any(e.tag == "caption" and e.parents[-1] is table for e in shown.elements)
    ids = [e.attributes["id"] for e in shown.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in shown.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert element.attributes.get(name, ids[0]) in ids
    for chart in shown.classed("chart"):
        assert chart.attributes["role"] == "group" and chart.attributes["aria-label"]


def test_no_run_directory_is_an_error_that_helps(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        page.write(tmp_path)


def test_an_older_page_is_replaced_and_nothing_else_is_left(make_run):
    run = make_run()
    before = set(run.iterdir())
    path = page.write(run)
    path.write_text("old")
    assert page.write(run) == path and path.read_text("utf-8").startswith("<!doctype html>")
    assert set(run.iterdir()) == before | {path}


def test_a_page_is_made_without_tensorflow(make_run):
    code = (
        "import sys; from pathlib import Path; from nrm_keras.report import doctor, page; from nrm_keras.runs import environment;"
        "page.write(Path(sys.argv[1])); environment.collect();"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(make_run())], check=True, timeout=60)
