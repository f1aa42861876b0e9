import json
import math
import random
from itertools import permutations

import pytest
from scipy import stats

from nrm_keras.report import seeds
from tests.report.conftest import SUMMARY

VALUES = [0.97, 0.9812, 0.9634, 0.99, 0.9777]
OTHERS = [0.95, 0.9811, 0.9601, 0.97, 0.9700]


def test_interval_is_that_of_a_one_sample_t_test():
    expected = stats.ttest_1samp(VALUES, 0).confidence_interval(0.95)
    found = seeds.summary_of(VALUES)
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert (found.n, found.deviation) == (5, pytest.approx(stats.tstd(VALUES), rel=1e-12))


def test_two_values_have_a_closed_form():
    # the t quantile with one degree of freedom is tan(0.475 pi), and the deviation |a - b| / sqrt(2)
    found = seeds.summary_of([1.0, 4.0])
    half = math.tan(0.475 * math.pi) * 3 / 2
    assert found == seeds.Spread(2.5, pytest.approx(3 / math.sqrt(2)), pytest.approx((2.5 - half, 2.5 + half)), 2)


def test_paired_interval_is_that_of_a_paired_t_test():
    expected = stats.ttest_rel(VALUES, OTHERS).confidence_interval(0.95)
    found = seeds.paired(VALUES, OTHERS)
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-9)
    swapped = seeds.paired(OTHERS, VALUES)
    assert swapped.difference == -found.difference
    assert swapped.interval == (-found.interval[1], -found.interval[0])


def test_the_order_of_the_seeds_changes_no_bit():
    assert len({seeds.summary_of(values) for values in permutations(VALUES)}) == 1
    assert (
        len({seeds.paired(*zip(*pairs, strict=True)) for pairs in permutations(zip(VALUES, OTHERS, strict=True))}) == 1
    )


def test_95_of_100_intervals_hold_the_mean():
    chance = random.Random(0)
    intervals = [seeds.summary_of([chance.gauss(3, 2) for _ in range(4)]).interval for _ in range(2000)]
    share = sum(low <= 3 <= high for low, high in intervals) / len(intervals)
    assert share == pytest.approx(0.95, abs=0.02)  # four standard errors


def test_one_value_has_no_spread():
    assert seeds.summary_of([0.5]) == seeds.Spread(0.5, None, None, 1)
    assert seeds.paired([0.5], [0.25]) == seeds.Paired(0.25, None, 1)


def test_equal_values_have_an_interval_of_no_width():
    assert seeds.summary_of([0.5, 0.5, 0.5]) == seeds.Spread(0.5, 0.0, (0.5, 0.5), 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_seed_is_not_averaged_away(bad):
    found = seeds.summary_of([0.5, bad, 0.75])
    assert math.isnan(found.mean) and found.interval is None


def test_what_cannot_be_summed_up_is_refused():
    with pytest.raises(ValueError, match="one value at least"):
        seeds.summary_of([])
    with pytest.raises(ValueError):
        seeds.paired([1.0, 2.0], [1.0])


# From run directories ------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path):
    """Makes a run of each seed from its metrics."""

    def make(name, **by_split):
        paths = {}
        for seed in range(len(next(iter(by_split.values())))):
            path = paths[seed] = tmp_path / name / str(seed)
            path.mkdir(parents=True)
            (path / "recipe.yaml").write_text("title: x\n")
            metrics = {split: values[seed] for split, values in by_split.items()}
            (path / "summary.json").write_text(json.dumps({**SUMMARY, "metrics": metrics}))
        return seeds.scores(name, paths)

    return make


def accuracies(*values):
    return [{"accuracy": value} for value in values]


def test_test_metrics_count_and_those_of_validation_without_a_test_split(runs):
    found = runs("a", validation=accuracies(0.1, 0.2), test=accuracies(0.3, 0.4))
    assert (found.split, found.metrics) == ("test", {"accuracy": (0.3, 0.4)})
    found = runs("b", validation=accuracies(0.1, 0.2))
    assert (found.split, found.metrics) == ("validation", {"accuracy": (0.1, 0.2)})


def test_tables_show_each_seed_and_what_they_say_together(runs):
    a = runs("a", test=accuracies(0.5, 0.75))
    rows = {row[0]: row[1:] for row in seeds.table(a).rows}
    assert rows["0"] == ["0.5"] and rows["1"] == ["0.75"] and rows["mean"] == ["0.625"]
    low, high = map(float, rows["95 % interval of the mean"][0].split(" to "))
    assert (low + high) / 2 == pytest.approx(0.625, abs=1e-3)


def test_one_seed_says_that_it_has_no_interval(runs):
    a, b = runs("a", test=accuracies(0.5)), runs("b", test=accuracies(0.25))
    assert seeds.table(a).rows[-1][1] == "none (one seed)"
    found = seeds.difference_table(a, b)
    assert found.rows == [["accuracy", "0.5", "0.25", "0.25", "none (one seed)"]] and found.note == ""


def test_a_difference_is_told_with_what_it_means(runs):
    a = runs("a", test=[{"accuracy": x, "loss": y} for x, y in ((0.5, 1.0), (0.7, 2.0), (0.6, 3.1))])
    b = runs("b", test=[{"accuracy": x, "loss": y} for x, y in ((0.3, 2.0), (0.49, 2.1), (0.41, 1.0))])
    note = seeds.difference_table(a, b).note
    assert "0 is outside of the interval: accuracy." in note
    assert "do not tell the recipes apart: loss." in note


def test_a_metric_that_is_not_finite_is_said_to_be(runs):
    found = seeds.table(runs("a", test=accuracies(0.5, None)))
    assert [row[1] for row in found.rows] == ["0.5", "not finite", "not finite", "not finite", "none"]
