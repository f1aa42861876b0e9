import keras
import numpy as np
import pytest

from nrm_keras.layers import GroupNormalization
from tests.layers.cases import to_numpy


def test_hand_worked_groups():
    # Group 1: 0, 2, 4, 6 with mean 3 and variance 5; group 2: constant. Epsilon 4 makes the divisor 3.
    x = np.array([[[0.0, 4.0, 7.0, 7.0], [2.0, 6.0, 7.0, 7.0]]], "float32")
    y = to_numpy(GroupNormalization(groups=2, epsilon=4.0)(x))
    np.testing.assert_allclose(y, np.array([[[-3, 1, 0, 0], [-1, 3, 0, 0]]]) / 3, rtol=1e-6, atol=1e-6)


def test_hand_worked_separate_positions():
    # Each position on its own: (0, 4) has variance 4, (2, 8) has 9.
    x = np.array([[[0.0, 4.0], [2.0, 8.0]]], "float32")
    y = to_numpy(GroupNormalization(groups=1, epsilon=0.0, positions="separate")(x))
    np.testing.assert_allclose(y, [[[-1, 1], [-1, 1]]], rtol=1e-6)


def test_hand_worked_mask():
    x = np.array([[[1.0], [3.0], [1000.0]]], "float32")
    y = to_numpy(GroupNormalization(groups=1, epsilon=0.0)(x, mask=np.array([[True, True, False]])))
    np.testing.assert_allclose(y[0, :2, 0], [-1, 1], rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 6, -1])
@pytest.mark.parametrize("axis", [-1, 1])
def test_equals_keras_layer(groups, axis):
    x = np.random.default_rng(0).normal(2, 3, (4, 6, 5, 6)).astype("float32")
    ours, theirs = GroupNormalization(groups, axis), keras.layers.GroupNormalization(groups, axis)
    np.testing.assert_allclose(to_numpy(ours(x)), to_numpy(theirs(x)), rtol=1e-5, atol=1e-5)


def test_one_group_of_separate_positions_is_layer_normalization():
    x = np.random.default_rng(0).normal(2, 3, (4, 5, 6)).astype("float32")
    ours, theirs = GroupNormalization(1, positions="separate"), keras.layers.LayerNormalization()
    np.testing.assert_allclose(to_numpy(ours(x)), to_numpy(theirs(x)), rtol=1e-5, atol=1e-5)


def test_examples_and_separate_positions_do_not_touch_each_other():
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("float32")
    broken = x.copy()
    broken[0, 0] = np.nan
    y, z = (to_numpy(GroupNormalization(2, positions="separate")(values)) for values in (x, broken))
    np.testing.assert_array_equal(z.reshape(12, 6)[1:], y.reshape(12, 6)[1:])
    y, z = (to_numpy(GroupNormalization(2)(values)) for values in (x, broken))
    np.testing.assert_array_equal(z[1:], y[1:])


def test_separate_positions_need_no_mask():
    x = np.random.default_rng(0).normal(2, 3, (3, 4, 6)).astype("float32")
    layer = GroupNormalization(2, positions="separate")
    mask = np.random.default_rng(1).random((3, 4)) < 0.5
    np.testing.assert_array_equal(to_numpy(layer(x, mask=mask)), to_numpy(layer(x)))


def test_groups_is_never_rewritten():
    layer = GroupNormalization(-1)
    layer.build((None, 6))
    assert layer.groups == layer.get_config()["groups"] == -1


@pytest.mark.parametrize("groups", [0, -2, 1.5, "32"])
def test_groups_that_are_no_number_of_groups(groups):
    with pytest.raises(ValueError, match=r"argument `groups`.*Received: groups="):
        GroupNormalization(groups)


def test_groups_must_divide_channels():
    with pytest.raises(ValueError, match=r"number of channels \(4\) must be a multiple of the number of groups \(3\)"):
        GroupNormalization(3).build((None, 4))
    with pytest.raises(ValueError, match=r"groups \(32\) cannot be more than the number of channels \(4\)"):
        GroupNormalization().build((None, 4))


def test_unknown_positions_and_channels():
    with pytest.raises(ValueError, match="`positions` must be one of"):
        GroupNormalization(positions="shared")
    with pytest.raises(ValueError, match="defined dimension"):
        GroupNormalization().build((None, 2, None))
