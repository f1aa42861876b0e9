"""The page of a study and its rows in RESULTS.md, from directories as a launch leaves them."""

import json
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

from nrm_keras.errors import UserError
from nrm_keras.report import results, studies, study_page
from nrm_keras.studies.store import Store
from tests import programs
from tests.report import study_files
from tests.report.browsing import needs_chromium
from tests.report.markup import Page
from tests.report.study_files import STUDY

ATTACK = "</script><img src=x onerror=\"document.title='hacked'\">"


def written(path):
    return Page(study_page.write(path).read_text("utf-8"))


def figures(page):
    return [
        json.loads(one.text)["choices"] for one in page.all("script", type="application/json") if "choices" in one.text
    ]


def test_the_verdict_of_the_first_claim_is_what_one_sees_first(tmp_path):
    page = written(study_files.make(tmp_path))
    (large,) = page.classed("outcome")
    assert large.text == "Supported"
    heading = next(one for one in page.elements if one.tag == "h1")
    assert heading.text == "Batch size"
    assert [one.text.split()[0] for one in page.classed("claim")] == ["supported", "not", "no"]
    badges = [one.text for one in page.classed("badge")]
    assert badges == ["supported", "not supported", "no clear difference"]


def test_a_card_has_the_numbers_of_its_claim(tmp_path):
    path = study_files.make(tmp_path)
    card = written(path).classed("claim")[0].text
    judged = Store(path).judged()[0]
    for word in ("At batch 2 BatchNorm errs more", f"{judged.difference:.4g} share", "0.01 share", "0, 1, 2, 3"):
        assert word in card
    # three claims: the level of Holm's first step
    assert "98.33 % interval" in card


def test_each_measurement_has_a_figure_with_every_seed_on_a_logarithmic_axis(tmp_path):
    found = figures(written(study_files.make(tmp_path)))
    forests, measured = found[:2], found[2:]
    assert len(measured) == len(STUDY["measurements"])
    (figure,) = measured[0]
    axis = figure["layout"]["xaxis"]
    assert axis["type"] == "log" and axis["tickvals"] == [2, 16, 256] and axis["ticktext"] == ["2", "16", "256"]
    lines = [trace for trace in figure["data"] if "lines" in trace["mode"]]
    points = [trace for trace in figure["data"] if trace["mode"] == "markers"]
    assert [trace["name"] for trace in lines] == ["batch", "group"]
    assert [len(trace["x"]) for trace in points] == [12, 12]
    assert lines[0]["y"][0] == pytest.approx(sum(points[0]["y"][:4]) / 4)
    assert sum(len(figure[0]["layout"]["yaxis"]["ticktext"]) for figure in forests) == 3


def test_a_level_without_any_value_is_not_in_the_figure(tmp_path):
    failed = [f"norm=batch,batch_size={size}/seed-{seed}" for size in (2, 16, 256) for seed in STUDY["seeds"]]
    figure = figures(written(study_files.make(tmp_path, failed=failed)))[-1][0]
    assert {(trace["name"], trace["marker"]["symbol"]) for trace in figure["data"]} == {("group", "square")}


@pytest.mark.parametrize(
    ("grid", "kind", "choices"),
    [
        ({}, "category", 1),
        ({"norm": {"batch": {}, "group": {}}}, "category", 1),
        ({"norm": {"batch": {}}, "depth": {"1": {}, "2": {}, "4": {}}}, "linear", 1),
        ({"norm": {"batch": {}}, "depth": {"0": {}, "100": {}}}, "linear", 1),
        ({"norm": {"batch": {}}, "place": {"before": {}, "after": {}}, "rate": {"low": {}, "high": {}}}, "category", 2),
    ],
)
def test_grids_of_other_shapes(tmp_path, grid, kind, choices):
    compare = {factor: next(iter(levels)) for factor, levels in grid.items()}
    claims = {"floor": {**STUDY["claims"]["floor"], "compare": compare}}
    found = figures(written(study_files.make(tmp_path, grid=grid, claims=claims)))
    assert [len(one) for one in found[1:]] == [choices, choices]
    assert all(figure["layout"]["xaxis"]["type"] == kind for one in found[1:] for figure in one)
    points = [trace for trace in found[1][0]["data"] if trace["mode"] == "markers" and "customdata" in trace]
    assert {seed for trace in points for seed in trace["customdata"]} == {0, 1, 2, 3}


def test_every_cell_is_there_and_leads_to_its_report(tmp_path):
    path = study_files.make(tmp_path)
    page = written(path)
    links = [one.attributes["href"] for one in page.all("a")]
    assert len(links) == len(set(links)) == 24
    assert all((path / unquote(link)).is_file() for link in links)


def test_a_cell_that_failed_shows_its_log_and_leaves_its_claim_open(tmp_path):
    cell = "norm=batch,batch_size=2/seed-1"
    page = written(study_files.make(tmp_path, failed=[cell]))
    assert page.classed("outcome")[0].text == "Not judged"
    assert "1 of 24 cells failed" in page.classed("notices")[0].text
    (log,) = page.all("pre", **{"aria-label": f"Log of {cell}"})
    assert log.text == study_files.FAILED  # as text
    assert len(page.all("a")) == 23


def test_a_run_that_diverged_is_not_averaged_away(tmp_path):
    page = written(study_files.make(tmp_path, diverged=["norm=group,batch_size=16/seed-2"]))
    floor = page.classed("claim")[2].text
    assert "no clear difference" in floor and "not finite with seed 2" in floor
    assert "not finite" in [one.text for one in page.all("td")]


def test_a_study_that_has_only_begun(tmp_path):
    cells = [cell.name for cell in Store(study_files.make(tmp_path)).cells]
    path = study_files.make(tmp_path, name="begun", left_out=cells)
    page = written(path)
    assert page.classed("outcome")[0].text == "Not judged"
    assert "24 of 24 cells are not trained yet" in page.classed("notices")[0].text
    assert figures(page) == []


def test_a_smoke_test_says_nothing_about_the_claims(tmp_path):
    page = written(study_files.make(tmp_path, smoke=True))
    assert page.classed("outcome")[0].text == "Not judged"
    assert "smoke test" in page.classed("notices")[0].text


def test_how_it_was_made(tmp_path):
    made = written(study_files.make(tmp_path)).classed("environment")[0].text
    for word in (
        "images/digits_adaptive",
        "{train: {epochs: 3}}",
        "2, 16, 256",
        "local",
        "AMD EPYC",
        "5 min 0 s",
        "2.21.0",
    ):
        assert word in made
    assert "4f1c2b7e9d with uncommitted changes" in made


def test_words_of_a_study_are_no_markup(tmp_path):
    changes = {word: ATTACK for word in ("title", "claim", "source")}
    measurements = {**STUDY["measurements"], "error": {"metric": "test.error", "unit": ATTACK, "title": ATTACK}}
    claims = {name: {**claim, "statement": ATTACK} for name, claim in STUDY["claims"].items()}
    path = study_files.make(tmp_path, measurements=measurements, claims=claims, **changes)
    text = study_page.write(path).read_text("utf-8")
    assert "<img" not in text and Page(text).texts("h1") == [ATTACK]
    for figure in (figure for one in figures(Page(text)) for figure in one):
        titles = [
            figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis") if "title" in figure["layout"][axis]
        ]
        assert not any("<" in title for title in titles)


def test_it_needs_neither_tensorflow_nor_a_training(tmp_path):
    path = study_files.make(tmp_path)
    code = "import sys; from nrm_keras.report import study_page; study_page.write(sys.argv[1]); print('tensorflow' in sys.modules)"
    assert programs.python("-c", code, str(path)).split()[-1] == "False"


def test_no_study_no_page(tmp_path):
    with pytest.raises(UserError, match="study.yaml"):
        study_page.write(tmp_path)


# In a browser ---------------------------------------------------------------------------------------------------------


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(tmp_path, visit, scheme):
    from axe_playwright_python.sync_playwright import Axe

    seen = visit(study_page.write(study_files.make(tmp_path, failed=["norm=batch,batch_size=2/seed-1"])), scheme=scheme)
    seen.open_everything()
    found = Axe().run(seen.page).response["violations"]
    assert [rule["id"] for rule in found if rule["impact"] in ("serious", "critical")] == []


@needs_chromium
@pytest.mark.parametrize("width", [400, 1280])
def test_all_figures_are_drawn_within_the_window_and_tell_their_numbers(tmp_path, visit, width):
    seen = visit(study_page.write(study_files.make(tmp_path)), width=width)
    seen.open_everything()
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    charts = seen.page.locator("main .chart").all()
    assert len(charts) == 4
    for chart in charts:
        box = chart.locator(".main-svg").first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] > 100
        assert seen.hover(chart)


@needs_chromium
def test_it_prints_on_white(tmp_path, visit):
    seen = visit(study_page.write(study_files.make(tmp_path)), scheme="dark")
    seen.open_everything()
    seen.page.emulate_media(media="print")
    assert (
        seen.page.evaluate("getComputedStyle(document.querySelector('.outcome span')).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    assert seen.page.pdf().startswith(b"%PDF")


# RESULTS.md -----------------------------------------------------------------------------------------------------------


def table(tmp_path, *roots):
    """What is said, and the table of studies as another program reads it."""
    said = results.write([tmp_path / root for root in roots], tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text("utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text.partition("## Studies")[2])
    cells = [
        "".join(part.content for part in one.children) for one in tokens if one.type == "inline" and one.level == 4
    ]
    many = len(studies.COLUMNS)
    rows = [dict(zip(studies.COLUMNS, cells[at : at + many], strict=True)) for at in range(many, len(cells), many)]
    return said, text, rows


def test_a_claim_is_a_row_and_cells_are_no_runs(tmp_path):
    path = study_files.make(tmp_path / "studies")
    said, text, rows = table(tmp_path, "studies")
    judged = Store(path).judged()
    assert [row["claim"] for row in rows] == [one.claim.statement for one in judged]
    assert rows[0].pop("power for it").endswith(" %")
    assert rows[0] == {
        "study": "batch_size",
        "claim": "at batch 2 BatchNorm errs more",
        "data": "digits",
        "seeds": "0, 1, 2, 3",
        "difference": f"{judged[0].difference:.4g} [{judged[0].interval[0]:.4g}, {judged[0].interval[1]:.4g}] share",
        "smallest effect": "0.01 share",
        "verdict": "supported",
        "p (Holm)": f"{judged[0].p_adjusted:.4g}",
        "cells": "24 of 24",
        "time": "5 min 0 s",
        "commit": "4f1c2b7e9d with uncommitted changes",
    }
    assert "There is no finished run." in text
    assert "3 claims of studies" in said


def test_what_failed_is_counted_and_what_is_no_result_is_left_out(tmp_path):
    study_files.make(tmp_path, failed=["norm=batch,batch_size=2/seed-1"])
    study_files.make(tmp_path, name="smoked", smoke=True)
    (study_files.make(tmp_path, name="damaged") / "study.yaml").write_text("title: [")
    said, text, rows = table(tmp_path, ".")
    assert {row["study"] for row in rows} == {"batch_size"}
    assert rows[0]["verdict"] == "not judged" and rows[0]["difference"] == "none"
    assert rows[0]["cells"] == "23 of 24 (1 failed)"
    assert "Left out: 1 damaged study, 1 smoke test of a study." in text and "damaged study" in said


def test_a_study_named_twice_counts_once(tmp_path):
    study_files.make(tmp_path / "studies")
    assert len(table(tmp_path, "studies", "studies/batch_size", ".")[2]) == 3


def test_words_that_would_be_markdown(tmp_path):
    claims = {"small": {**STUDY["claims"]["small"], "statement": "a | b <b>*c*</b>"}}
    study_files.make(tmp_path, claims=claims)
    assert table(tmp_path, ".")[2][0]["claim"] == "a | b <b>*c*</b>"


def test_runs_and_studies_of_this_folder_are_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such directory"):
        results.write([], tmp_path / "RESULTS.md")
    study_files.make(tmp_path / "studies")
    results.write([], tmp_path / "RESULTS.md")
    assert "python -m nrm_keras results studies" in (tmp_path / "RESULTS.md").read_text("utf-8")
