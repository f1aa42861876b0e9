"""Numbers that JSON can hold and Python, plotly or a browser can not: pages of both kinds are written all the same."""

import json

import pytest

from nrm_keras.report import compare_page, compare_parts, comparison, page
from tests.report.conftest import SUMMARY
from tests.report.markup import Page
from tests.report.watched import records, write

HUGE = "9" * 400  # beyond the floats
ENDLESS = "9" * 5000  # longer than Python makes a number of
ACTIVATION = '{"step": %s, "epoch": 0, "kind": "activation", "layer": "stem", "mean": %s, "variance": %s, "dead": %s}\n'
CURVATURE = '{"step": 36, "epoch": 0, "kind": "curvature", "density_nodes": [%s, 1], "density_weights": [0.5, %s]}\n'


def as_a_browser_reads_it(text: str) -> None:
    """`JSON.parse` knows no NaN and no Infinity, which `json` writes and reads."""
    blocks = Page(text).all("script", type="application/json")
    assert blocks
    for block in blocks:
        json.loads(block.text, parse_constant=pytest.fail)


def both_pages(run, other) -> str:
    """The run's page, after a look at it and at that of a comparison."""
    found = comparison.read([run, other])
    as_a_browser_reads_it(compare_page.render(found, compare_parts.parts(found)))
    text = page.render(page.read_run(run))
    as_a_browser_reads_it(text)
    return text


@pytest.fixture
def other(tmp_path):
    return write(tmp_path / "other", records(1))


@pytest.mark.parametrize(
    ("line", "notice"),
    [
        (ACTIVATION % (41, HUGE, HUGE, HUGE), ""),
        (ACTIVATION % (36, "1e308", "-1.0", "1e999"), ""),
        (ACTIVATION % (HUGE, 1, 1, 0), "statistics.jsonl: 1 damaged line"),
        (ACTIVATION % (ENDLESS, 1, 1, 0), "statistics.jsonl: 1 damaged line"),
        (CURVATURE % (HUGE, "NaN"), ""),
    ],
    ids=["huge", "infinite", "huge step", "endless step", "curvature"],
)
def test_numbers_in_statistics(tmp_path, other, line, notice):
    run = write(tmp_path / "run", records())
    with (run / "statistics.jsonl").open("a") as file:
        file.write(line)
    assert notice in both_pages(run, other)


@pytest.mark.parametrize("threshold", ["NaN", "Infinity", "1e999"])
def test_a_threshold_that_is_not_finite_is_not_drawn(tmp_path, other, threshold):
    run = write(tmp_path / "run", records())
    alert = f'{{"rule": "dead_units", "step": 6, "layer": "stem", "threshold": {threshold}}}\n'
    (run / "alerts.jsonl").write_text(alert)
    assert "Dead units: stem" in both_pages(run, other)


@pytest.mark.parametrize(
    "change",
    [
        {"examples": {"test": -3}},
        {"examples": {"test": 10**400}},
        {"seconds": float("inf")},
        {"seconds": -1.0},
        {"epochs": 10**400},
        {"best_epoch": -3},
    ],
)
def test_counts_and_times_that_cannot_be_are_told(tmp_path, other, change):
    run = write(tmp_path / "run", records(), summary=json.dumps(SUMMARY | change))
    assert f"summary.json is not as expected and is left out: {next(iter(change))}" in both_pages(run, other)
