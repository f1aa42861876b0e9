import numpy as np
import pytest
from scipy.stats.contingency import association

from nrm_keras.data.confounding import cramers_v, crosstab


def test_the_association_without_bias_is_scipys():
    table = np.array([[10, 3, 1], [2, 9, 4], [0, 5, 16], [7, 7, 7]])
    # with many samples nothing is left to correct
    assert cramers_v(table * 10**7) == pytest.approx(association(table, "cramer"), abs=1e-6)
    assert cramers_v(table) < association(table, "cramer")


def test_association_of_the_extremes():
    assert cramers_v(np.diag([3, 4, 5])) == pytest.approx(1)  # one determines the other
    assert cramers_v(np.outer([1, 2, 3], [4, 5])) == 0  # independent
    assert cramers_v(np.array([[3, 4, 5]])) == 0  # a single batch
    assert cramers_v(np.array([[3, 0], [0, 4], [0, 0]])) == pytest.approx(1)  # an empty batch is none


def test_independent_samples_are_not_associated_on_average():
    chance = np.random.default_rng(0)
    labels, domains = chance.integers(0, 3, (400, 57)), chance.integers(0, 5, (400, 57))
    tables = [crosstab(d, c, 3)[1] for d, c in zip(domains, labels, strict=True)]
    corrected, plain = np.mean([cramers_v(t) for t in tables]), np.mean([association(t, "cramer") for t in tables])
    assert corrected < 0.1 < plain  # 57 samples look associated by chance alone


def test_crosstab_counts_pairs():
    names, table = crosstab(np.array([5, 2, 2, 5]), np.array([0, 1, 1, 2]), 3)
    assert names.tolist() == [2, 5] and table.tolist() == [[0, 2, 0], [1, 0, 1]]
