import pytest

from nrm_keras.report import verdict
from nrm_keras.report.reading import Summary, read_run
from tests.report.conftest import SUMMARY


def summary(**changes) -> Summary:
    return Summary.model_validate({**SUMMARY, **changes})


def with_accuracy(train: float, test: float, examples: int) -> Summary:
    metrics = {"train": {"accuracy": train}, "test": {"accuracy": test}}
    return summary(metrics=metrics, examples={"train": 10 * examples, "test": examples})


def test_wilson_equals_its_closed_form():
    share, n, z = 0.9, 50, 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    assert verdict.wilson(share, n) == pytest.approx((centre - half, centre + half), abs=1e-12)


@pytest.mark.parametrize(
    ("train", "test", "examples", "told"),
    [
        (1.0, 0.90, 400, True),
        (1.0, 0.90, 10, False),  # one of ten wrong: chance explains it
        (0.95, 0.95, 400, False),
        (0.90, 0.99, 400, False),  # augmentation and dropout make training harder
        (0.9950, 0.9905, 100_000, False),  # beyond chance, but nothing to worry about
    ],
)
def test_a_gap_is_told_only_where_the_data_supports_it(train, test, examples, told):
    assert bool(verdict._gap(with_accuracy(train, test, examples))) is told


def test_smoke_runs_have_no_gap_but_a_warning():
    run = summary(smoke=True, metrics={"train": {"accuracy": 1.0}, "test": {"accuracy": 0.1}})
    assert verdict._gap(run) == "" and "smoke" in verdict._smoke(run)


def test_shares_get_an_interval_and_other_metrics_none():
    run = summary(metrics={"test": {"loss": 0.3, "accuracy": 0.9, "top_5_accuracy": 0.99}})
    assert verdict.score(run, "test", "loss").interval is None
    assert verdict.score(run, "test", "top_5_accuracy").interval is not None
    # accuracy of pixels doesn't count examples
    assert verdict.score(run.model_copy(update={"task": "segmentation"}), "test", "accuracy").interval is None


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_said_to_be_none(value):
    assert "no test or validation score" in verdict._result(summary(metrics={"test": {"accuracy": value}}))


@pytest.mark.parametrize(
    ("monitor", "measured", "main"),
    [
        ("val_accuracy", ["loss", "top_5_accuracy", "accuracy"], "accuracy"),
        ("val_loss", ["loss", "top_5_accuracy"], "top_5_accuracy"),
        ("val_loss", ["loss"], "loss"),
        ("val_loss", [], None),
    ],
)
def test_main_metric(monitor, measured, main):
    assert verdict.main_metric(summary(monitor=monitor, metrics={"test": dict.fromkeys(measured, 0.5)})) == main


@pytest.mark.parametrize(("share", "text"), [(1, "100 %"), (0.9999, "99.9 %"), (0.9778, "97.8 %"), (0, "0.0 %")])
def test_only_a_full_share_reads_100(share, text):
    assert verdict.percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (59.96, "1 min 0 s"), (31.2, "31 s"), (125, "2 min 5 s"), (7325, "2 h 2 min")],
)
def test_duration(seconds, text):
    assert verdict.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(3.2e11, "3.2e+11"), (25_600_000, "25,600,000"), (12_345.6, "12,346"), (0.12345, "0.1235")]
)
def test_numbers_stay_short_enough_to_be_read(value, text):
    """A diverged model's shift filled a line with 21 digits."""
    assert verdict.number(value) == text


def test_what_stands_beside_the_result_and_what_it_does_not_prove_are_told(make_run):
    beside = {"name": "linear model", "metrics": {"top_5_accuracy": 0.5, "accuracy": 0.75}}
    run = read_run(make_run(summary={**SUMMARY, "baseline": beside, "caveat": "One subject."}))
    told = verdict.sentences(run)
    assert told[1] == "For comparison, a simple model (linear model) on the same split: accuracy 0.75."
    assert told[-1] == "One subject."
