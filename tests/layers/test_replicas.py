"""Two replicas, as two logical CPUs in programs of their own: synchronized statistics, and what `fit` leaves behind."""

import pytest

from tests.programs import report as run


@pytest.fixture(scope="module")
def report():
    """One call of each layer with batches of 3 and 2 examples."""
    return run("-m", "tests.layers.two_replicas")


@pytest.fixture(scope="module")
def fitted():
    return run("-m", "tests.layers.two_replicas_fit")


@pytest.mark.parametrize("mask", ["all", "masked"])
@pytest.mark.parametrize("name", ["batch", "switchable", "domain", "adaptive", "adaptive-separate"])
def test_synchronized_replicas_are_one_device(report, name, mask):
    """Outputs, gradients and running statistics, at a mean of 1000, where float32 has 6e-5 to give."""
    found = report[f"{name} {mask}"]
    assert found["results"] < 1e-4
    assert found["states"] < 2e-4
    assert found["replicas"] == 0


def test_nan_on_one_replica_leaves_both_alone(report):
    assert report["nan"] == 0


def test_unsynchronized_replicas_agree_on_running_statistics(report):
    assert report["local"]["replicas"] == 0
    assert report["local"]["mean"] < 2e-4


@pytest.mark.parametrize("name", ["batch", "batch synchronized", "adaptive", "adaptive synchronized"])
def test_either_replica_is_the_saved_model(fitted, name):
    """Running statistics bit for bit, and predictions of `.keras` and SavedModel, whose graphs may round differently."""
    assert fitted[name]["statistics"] == 0
    assert fitted[name]["saved"] < 1e-6
    assert fitted[name]["exported"] < 1e-6


def test_replicas_of_keras_layer_drift_apart(fitted):
    """The control: each keeps statistics of its own half, and the saved model is one of them."""
    assert all(fitted["keras"][what] > 0.1 for what in ("statistics", "saved", "exported"))
