"""The layers' tests pass on Keras' other backends too, where those are installed."""

import pytest

from tests import programs

SHARED = ("contract", "normalizer")
# JAX compiles each operation for each shape, so that the other files would double the time, and these second cases of layers
# that others stand for add a third; they pass there as well
FILES = {"jax": SHARED, "torch": (*SHARED, "batch", "group", "adaptive")}
LEFT_OUT = {"jax": ("groups-of-one", "separate", "adaptive-pooled", "adaptive-virtual")}


@pytest.mark.parametrize("backend", FILES)
def test_the_layers_pass_their_tests(backend, monkeypatch):
    # most of JAX's time would go into optimizing what runs once
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    files = [f"tests/layers/test_{name}.py" for name in FILES[backend]]
    cases = " and ".join(f"not {case}" for case in LEFT_OUT.get(backend, ()))
    summary = programs.python(
        *("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-k", cases, *files), backend=backend, timeout=900
    )
    assert "about TensorFlow's tapes" in summary, "it must not have run on TensorFlow"


@pytest.mark.parametrize("backend", FILES)
def test_synchronized_statistics_name_the_backend(backend):
    code = """
from nrm_keras.layers import BatchNormalization
try:
    BatchNormalization(synchronized=True)
except ValueError as error:
    print(error)
"""
    assert f"Received: backend '{backend}'" in programs.python("-c", code, backend=backend)
