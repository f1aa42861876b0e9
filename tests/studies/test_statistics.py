"""Tests, intervals and power against other libraries' functions and against simulation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from nrm_keras.studies.statistics import (
    Differences,
    detectable_effect,
    detectable_margin,
    holm,
    power_of_direction,
    power_of_equality,
)

A = (0.31, 0.352, 0.298, 0.377, 0.329)
B = (0.29, 0.311, 0.301, 0.345, 0.32)
FOUND = Differences(tuple(a - b for a, b in zip(A, B, strict=True)))


def test_one_sided_p_values_are_those_of_a_paired_t_test():
    assert FOUND.p_above(0.0) == pytest.approx(stats.ttest_rel(A, B, alternative="greater").pvalue)
    assert FOUND.p_below(0.0) == pytest.approx(stats.ttest_rel(A, B, alternative="less").pvalue)
    other = DescrStatsW(np.subtract(A, B))
    assert FOUND.p_above(0.01) == pytest.approx(other.ttest_mean(0.01, alternative="larger")[1])
    assert FOUND.p_below(0.03) == pytest.approx(other.ttest_mean(0.03, alternative="smaller")[1])


def test_equality_is_the_two_one_sided_tests_of_statsmodels():
    ours = max(FOUND.p_above(-0.05), FOUND.p_below(0.05))
    assert ours == pytest.approx(DescrStatsW(np.subtract(A, B)).ttost_mean(-0.05, 0.05)[0])


@pytest.mark.parametrize("alpha", [0.025, 0.025 / 6, 0.1])
def test_the_interval_is_that_of_statsmodels(alpha):
    assert FOUND.interval(alpha) == pytest.approx(DescrStatsW(np.subtract(A, B)).tconfint_mean(2 * alpha))


@pytest.mark.parametrize("n", range(3, 11))
def test_the_interval_holds_the_mean_as_often_as_it_says(n):
    drawn = np.random.default_rng(n).normal(3.0, 2.0, (4000, n))
    ends = np.array([Differences(tuple(row)).interval(0.025) for row in drawn])
    coverage = np.mean((ends[:, 0] <= 3.0) & (ends[:, 1] >= 3.0))
    # four standard errors of the simulation are 0.014
    assert 0.936 <= coverage <= 0.964


def test_one_seed_says_nothing_of_the_noise():
    one = Differences((0.5,))
    assert one.interval(0.025) is None and one.deviation is None
    assert one.p_above(0.0) == one.p_below(0.0) == 1.0


def test_differences_that_are_all_the_same_are_judged_by_their_signs():
    same = {n: Differences((0.01,) * n) for n in (3, 5, 6)}
    for n, found in same.items():
        assert found.deviation is None
        assert found.p_above(0.0) == stats.binomtest(n, n, 0.5, alternative="greater").pvalue
        assert found.p_below(0.0) == 1.0
    assert same[5].interval(0.025) is None
    assert same[6].interval(0.025) == pytest.approx((0.01, 0.01))


def test_float32_rounding_is_no_deviation():
    a, b = np.float32([0.97, 0.96, 0.98]), np.float32([0.96, 0.95, 0.97])
    values = tuple(float(x) - float(y) for x, y in zip(a, b, strict=True))
    assert len(set(values)) > 1
    assert Differences(values, 5e-7).identical
    assert not Differences((0.01, 0.01001, 0.01), 5e-7).identical


@pytest.mark.parametrize("alpha", [0.025, 0.2])
def test_holm_is_that_of_statsmodels(alpha):
    random = np.random.default_rng(0)
    for p_values in (random.uniform(0, 1 / size, size) ** 2 for size in (1, 4, 8)):
        rejected, adjusted, *_ = multipletests(p_values, alpha, method="holm")
        steps = holm(list(p_values), alpha)
        assert [one for one, _ in steps] == pytest.approx(list(adjusted))
        # rejected at the level of its own step, and not otherwise
        assert [p <= level for p, (_, level) in zip(p_values, steps, strict=True)] == list(rejected)


def test_a_claim_behind_one_that_was_not_rejected_keeps_that_step():
    (_, first), (_, stopped), (_, behind) = holm([0.001, 0.02, 0.021], 0.03)
    assert (first, stopped, behind) == pytest.approx((0.01, 0.015, 0.015))


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.025), (5, 0.025 / 3), (10, 0.025)])
def test_power_is_how_often_the_test_rejects(n, alpha):
    drawn = np.random.default_rng(1).normal(0.0, 2.0, (100_000, n))
    mean, error = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / np.sqrt(n)
    critical = stats.t.isf(alpha, n - 1)
    assert power_of_direction(3.0, 2.0, n, alpha) == pytest.approx(np.mean((mean + 3.0) / error > critical), abs=0.006)
    within = np.abs(mean) + critical * error < 3.0
    assert power_of_equality(3.0, 2.0, n, alpha) == pytest.approx(np.mean(within), abs=0.006)


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.025), (3, 0.025 / 6), (5, 0.025), (10, 0.025 / 6)])
def test_the_effect_that_is_detected_as_often_as_asked_for(n, alpha):
    effect = detectable_effect(n, alpha, 0.8)
    rejects = stats.nct.sf(stats.t.isf(alpha, n - 1), n - 1, effect * np.sqrt(n))
    assert rejects == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.025), (5, 0.025 / 6), (10, 0.025)])
def test_the_margin_within_which_equality_is_found_as_often_as_asked_for(n, alpha):
    drawn = np.random.default_rng(2).normal(size=(100_000, n))
    reach = np.abs(drawn.mean(axis=1)) + stats.t.isf(alpha, n - 1) * drawn.std(axis=1, ddof=1) / np.sqrt(n)
    assert np.mean(reach < detectable_margin(n, alpha, 0.8)) == pytest.approx(0.8, abs=0.006)


def test_no_effect_is_large_enough_for_one_seed():
    assert detectable_effect(1, 0.025) == detectable_margin(1, 0.025) == np.inf
