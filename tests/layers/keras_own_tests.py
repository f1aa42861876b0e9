"""Runs Keras' own tests of its normalizers, as installed with Keras, on the layers of this package.

A program of its own: those tests clear Keras' global state and change how it reports errors. Prints, as JSON, what became
of each test: "passed", "skipped: why", or the first line of its failure.
"""

import importlib
import json
import types
import unittest

import keras
from keras.src import layers as keras_layers

from nrm_keras import layers


@keras.saving.register_keras_serializable(package="keras_own_tests")
class BatchNormalization(layers.BatchNormalization):
    """With the average of Keras' layer by default."""

    def __init__(self, *args, warmup=False, **kwargs):
        super().__init__(*args, warmup=warmup, **kwargs)


TESTED = {
    "BatchNormalization": BatchNormalization,
    "BatchNormalization with warm-up": layers.BatchNormalization,
    "GroupNormalization": layers.GroupNormalization,
    "LayerNormalization": getattr(layers, "LayerNormalization", None),
}
FILES = {
    "BatchNormalization": "batch_normalization_test",
    "GroupNormalization": "group_normalization_test",
    "LayerNormalization": "layer_normalization_test",
}


class Outcomes(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.by_test = {}

    def addSuccess(self, test):
        self._note(test, "passed")

    def addSkip(self, test, reason):
        self._note(test, f"skipped: {reason}")

    def addFailure(self, test, error):
        self._note(test, f"{error[0].__name__}: {error[1]}".splitlines()[0])

    addError = addFailure

    def _note(self, test, outcome):
        self.by_test[test._testMethodName] = outcome


def run(title, layer):
    name = title.split()[0]
    module = importlib.import_module(f"keras.src.layers.normalization.{FILES[name]}")
    # the tests reach their layer as `layers.<name>`; all other layers stay Keras'
    module.layers = types.SimpleNamespace(**{**vars(keras_layers), name: layer})
    outcomes = Outcomes()
    unittest.defaultTestLoader.loadTestsFromModule(module).run(outcomes)
    return outcomes.by_test


if __name__ == "__main__":
    report = {title: run(title, layer) for title, layer in TESTED.items() if layer is not None}
    # fit writes progress bars: the report is the last line
    print(f"\n{json.dumps(report)}")
