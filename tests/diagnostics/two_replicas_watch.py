"""Watches a model on two logical CPUs and on one, and prints how far what it sees differs, as JSON.

A program of its own: logical devices must be there before TensorFlow starts.
"""

import json
import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.callbacks import InternalStatistics
from nrm_keras.layers import BatchNormalization

RNG = np.random.default_rng(0)
# Each batch of 8 goes to the replicas in halves, which differ in mean and spread.
SECOND_HALF = (np.arange(48) % 8 >= 4).reshape(-1, 1, 1, 1)
X = (RNG.normal(size=(48, 4, 4, 2)) * (1 + 2 * SECOND_HALF) + SECOND_HALF).astype("float32")
Y = RNG.normal(size=(48, 3)).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            keras.layers.Conv2D(4, 3, use_bias=False, name="convolution"),
            BatchNormalization(synchronized=True, name="normalizer"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(3, "tanh", name="last"),
        ],
        name="net",
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    return model


def watched(model, folder):
    path = folder / "statistics.jsonl"
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    watch = InternalStatistics(every=2, drift_every=1, path=path, alerts=False, say=lambda line: None)
    model.fit(data, epochs=1, verbose=0, callbacks=[watch])
    return [json.loads(line) for line in path.read_text().splitlines()]


def difference(one, other):
    """The largest relative difference between numbers of two records."""
    assert one.keys() == other.keys()
    worst = 0.0
    for key, value in one.items():
        a, b = (np.array(v, "float64") if not isinstance(v, str) else v for v in (value, other[key]))
        if isinstance(value, (str, bool)) or value is None:
            assert value == other[key], (key, value, other[key])
        else:
            worst = max(worst, float(np.max(np.abs(a - b) / (1e-3 + np.abs(a)))))
    return worst


def main():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        with strategy.scope():
            model = network()
        two = watched(model, folder / "two")
        one = watched(network(), folder / "one")
        model.save(folder / "model.keras")
        model.export(folder / "exported", verbose=False)
        served = tf.saved_model.load(str(folder / "exported"))
        saved = np.max(np.abs(served.serve(X).numpy() - model.predict(X, verbose=0)))
    report: dict = {"records": [len(one), len(two)], "saved": float(saved)}
    for a, b in zip(one, two, strict=True):
        if a["kind"] != "cost":
            report[a["kind"]] = max(report.get(a["kind"], 0), difference(a, b))
    own = [name for layer in model._flatten_layers() for name in vars(layer) if name == "call"]
    report["hooks"] = len(own) + hasattr(model.train_function, "__self__")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
