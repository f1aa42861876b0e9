"""Keras' own tests of its normalizers pass on ours, but for the exceptions named here."""

import functools

import pytest

from tests import programs

NO_RENORM = "Batch renormalization is not part of this layer. Received: renorm=True"
RENORM = {
    "test_renorm_basics": NO_RENORM,
    "test_renorm_correctness": NO_RENORM,
    "test_renorm_inference": NO_RENORM,
    "test_renorm_invalid_clipping_keys": NO_RENORM,
    "test_renorm_stddev_initializer": NO_RENORM,
    # the layer whose config it takes is one with renorm=True
    "test_serialization": NO_RENORM,
}
# the warm-up's counter is one weight more than these expect
COUNTED = {
    "test_bn_basics": "3 != 2 : Unexpected number of non_trainable_weights",
    "test_trainable_behavior": "5 != 4",
}
# Keras demands the reverse of what it checks, "groups must be a multiple of the number of channels"
REVERSED = {
    "test_groups_not_a_multiple_of_dim_error": "The number of channels (4) must be a multiple of the number of gro"
}

EXCEPTIONS = {
    "BatchNormalization": RENORM,
    "BatchNormalization with warm-up": RENORM | COUNTED,
    "GroupNormalization": REVERSED,
    "LayerNormalization": {},
}
# those that must be among the ones that pass: a file which holds no test would pass as well
AMONG = {
    "BatchNormalization": {"test_bn_basics", "test_trainable_behavior", "test_correctness15"},
    "BatchNormalization with warm-up": {"test_correctness15", "test_masked_broadcast_normalization"},
    "GroupNormalization": {"test_groupnorm", "test_correctness_2d", "test_mixed_precision_large_input_no_nan"},
    "LayerNormalization": {"test_ln_basics", "test_correctness", "test_output"},
}


@functools.cache
def outcomes(backend):
    return programs.report("-m", "tests.layers.keras_own_tests", backend=backend)


@pytest.mark.parametrize("backend", programs.BACKENDS)
@pytest.mark.parametrize("layer", EXCEPTIONS)
def test_keras_own_tests_pass_but_for_the_exceptions(layer, backend):
    found = outcomes(backend).get(layer)
    if found is None:
        pytest.skip(f"this package has no {layer} yet")
    excepted = EXCEPTIONS[layer]
    other = {test: outcome for test, outcome in found.items() if test not in excepted and outcome != "passed"}
    assert other == {}
    assert found.keys() >= excepted.keys() | AMONG[layer]
    for test, reason in excepted.items():
        assert reason in found[test], f"{test}: {found[test]}"
