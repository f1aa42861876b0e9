"""The layers' tests pass on Keras' other backends too, where those are installed."""

import pytest

from tests import programs

FILES = [f"tests/layers/test_{name}.py" for name in ("contract", "normalizer", "batch", "group", "adaptive")]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_layers_pass_their_tests(backend, monkeypatch):
    # JAX compiles each operation for each shape: without optimization, which takes most of the time.
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    summary = programs.python(
        "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *FILES, backend=backend, timeout=900
    )
    assert "about TensorFlow's tapes" in summary, "it must not have run on TensorFlow"


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_synchronized_statistics_name_the_backend(backend):
    code = """
from nrm_keras.layers import BatchNormalization
try:
    BatchNormalization(synchronized=True)
except ValueError as error:
    print(error)
"""
    assert f"Received: backend '{backend}'" in programs.python("-c", code, backend=backend)
