"""Trains and watches until it is killed: python -m tests.diagnostics.watched_until_killed STATISTICS."""

import sys

import keras
import numpy as np

from nrm_keras.callbacks import InternalStatistics


def main():
    layers = [keras.layers.Dense(50, "relu") for _ in range(8)]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    watch = InternalStatistics(every=1, path=sys.argv[1], alerts=False, drift_every=5)
    model.fit(np.ones((512, 4)), np.ones((512, 1)), epochs=10**6, batch_size=8, verbose=0, callbacks=[watch])


if __name__ == "__main__":
    main()
