import numpy as np
import pytest

from nrm_keras.layers import GroupNormalization, InstanceNormalization
from tests.layers.cases import to_numpy


def test_hand_worked():
    # (1, 5) has mean 3 and variance 4, (7, 7) is constant; epsilon 5 makes the divisor 3.
    x = np.array([[[1.0, 7.0], [5.0, 7.0]]], "float32")
    y = to_numpy(InstanceNormalization(epsilon=5.0)(x))
    np.testing.assert_allclose(y, np.array([[[-2, 0], [2, 0]]]) / 3, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axis", [-1, 1])
def test_is_group_normalization_with_one_group_per_channel(axis):
    x = np.random.default_rng(0).normal(2, 3, (4, 6, 5, 6)).astype("float32")
    np.testing.assert_allclose(InstanceNormalization(axis)(x), GroupNormalization(-1, axis)(x), rtol=1e-5, atol=1e-6)


def test_arguments_are_those_of_group_normalization_without_groups():
    ours, theirs = InstanceNormalization().get_config(), GroupNormalization().get_config()
    assert set(theirs) - set(ours) == {"groups", "positions"}
    assert all(ours[key] == theirs[key] for key in ours if key != "name")


def test_has_no_argument_groups():
    with pytest.raises((TypeError, ValueError), match="groups"):
        InstanceNormalization(groups=4)
