"""Trains models on two logical CPUs, saves and exports them, and prints how far the replicas are apart as JSON.

A program of its own: logical devices must be there before TensorFlow starts.
"""

import json
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.layers import AdaptiveNormalization, BatchNormalization

RNG = np.random.default_rng(0)
# Each batch of 8 goes to the replicas in halves, which differ in mean and spread.
SECOND_HALF = (np.arange(24) % 8 >= 4).reshape(-1, 1, 1, 1)
X = (RNG.normal(size=(24, 6, 6, 2)) * (1 + 2 * SECOND_HALF) + SECOND_HALF).astype("float32")
Y = RNG.normal(size=(24, 3)).astype("float32")

LAYERS = {
    "batch": BatchNormalization,
    "batch synchronized": lambda: BatchNormalization(synchronized=True),
    "adaptive": AdaptiveNormalization,
    "adaptive synchronized": lambda: AdaptiveNormalization(synchronized=True),
    "keras": lambda: keras.layers.BatchNormalization(momentum=0.5),
}


def network(make):
    layers = [keras.layers.Conv2D(4, 3), make(), keras.layers.ReLU(), keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6, 6, 2)), *layers])


def trained(strategy, make):
    with strategy.scope():
        model = network(make)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    model.fit(tf.data.Dataset.from_tensor_slices((X, Y)).batch(8), epochs=2, verbose=0)
    return model


def by_replica(strategy, variables):
    """The values of the variables on each replica."""
    return zip(*([v.numpy() for v in strategy.experimental_local_results(one.value)] for one in variables), strict=True)


def predictions(make, weights):
    """Those of a model on one device with these weights."""
    model = network(make)
    model.set_weights(weights)
    return model.predict(X, verbose=0)


def served(model, folder):
    """Predictions of the model saved as .keras, and of the SavedModel."""
    model.save(folder / "model.keras")
    model.export(folder / "exported", verbose=False)
    exported = tf.saved_model.load(str(folder / "exported"))
    return keras.models.load_model(folder / "model.keras").predict(X, verbose=0), exported.serve(X).numpy()


def difference(ones, others):
    return float(np.max([np.max(np.abs(a - b)) for a, b in zip(ones, others, strict=True)]))


def main():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    report = {}
    for name, make in LAYERS.items():
        model = trained(strategy, make)
        own = [predictions(make, weights) for weights in by_replica(strategy, model.weights)]
        with tempfile.TemporaryDirectory() as folder:
            saved, exported = served(model, pathlib.Path(folder))
        report[name] = {
            "statistics": difference(*by_replica(strategy, model.non_trainable_variables)),
            "saved": difference(own, [saved] * 2),
            "exported": difference(own, [exported] * 2),
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
