"""Latency of exported models on the CPU: normalizers folded away against Keras' BatchNormalization.

    python benchmarks/serving.py [--rounds 200] [--batches 1,64] [--depth 20] [--width 16] [--json serving.json]

ResNet on 32x32x3 images, exported by `model.export` and called through its serving signature. All run interleaved in one
process; the times are medians in milliseconds, the ratios medians over the rounds of the ratio to "keras batch", which is
exported as it is. "none" has no normalizers: the floor. "settled gate" has gates of 0.9995, which are rounded to 1.
"""

import argparse
import functools
import json
import os
import statistics
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np
import tensorflow as tf

from nrm_keras import layers
from nrm_keras.models import resnet
from nrm_keras.serving.specialize import specialize

REFERENCE = "keras batch"
SETTLED, SOFT = 0.9995, 0.9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--json", default="serving.json", help="where the figures go")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        exported = {name: export(model, f"{folder}/{name}") for name, model in models(arguments).items()}
        batches = [int(size) for size in arguments.batches.split(",")]
        rows = []
        for row in (row for size in batches for row in measure(exported, size, arguments.rounds)):
            print(
                f"batch {row['batch']:4}  {row['name']:24} {row['milliseconds']:9.3f} ms {row['ratio']:6.3f}",
                flush=True,
            )
            rows.append(row)
    with open(arguments.json, "w") as file:
        json.dump({"threads": os.cpu_count(), **vars(arguments), "rows": rows}, file, indent=1)


def models(arguments):
    """The models to export."""
    build = functools.partial(network, arguments)
    batch, adaptive = layers.BatchNormalization, layers.AdaptiveNormalization
    return {
        REFERENCE: build(keras.layers.BatchNormalization),
        "keras batch, folded": special(build(keras.layers.BatchNormalization)),
        "batch": build(batch),
        "batch, folded": special(build(batch)),
        "none": build(None),
        "adaptive": build(adaptive),
        "settled gate": special(with_gate(build(adaptive), SETTLED), tolerance=0.05),
        "soft gate": special(with_gate(build(adaptive), SOFT)),
    }


def network(arguments, norm):
    """A network with the running statistics of some batches."""
    inputs = keras.Input((32, 32, 3), name="image")
    factory = None if norm is None else lambda name: norm(name=name)
    features = resnet(inputs, factory, depth=arguments.depth, width=arguments.width)
    model = keras.Model(inputs, keras.layers.Dense(10)(features))
    for number in range(3):
        model(images(32, number), training=True)
    return model


def with_gate(model, value):
    """The model with that weight on batch statistics, by the equation of `AdaptiveNormalization`."""
    for layer in model.layers:
        if isinstance(layer, layers.AdaptiveNormalization):
            theta = np.log(np.expm1(float(layer.moving_log_count))) - np.log(value / (1 - value))
            layer.gate_delta.assign((theta - np.log(layer.balance - 1)) / layer.gate_scale)
    return model


def special(model, **options):
    return specialize(model, images(8, 10), **options).model


def export(model, path):
    """The serving signature; the loaded model goes with it, or its variables would be gone."""
    model.export(path, verbose=False)
    loaded = tf.saved_model.load(path)
    return loaded, loaded.signatures["serving_default"]


def measure(exported, size, rounds):
    """One row for each model, at that batch size."""
    x = tf.constant(images(size, 11))
    calls = {name: functools.partial(signature, image=x) for name, (_, signature) in exported.items()}
    times = measuring.interleaved_times(calls, rounds)
    reference = times[REFERENCE]
    for name, values in times.items():
        ratio = statistics.median(one / other for one, other in zip(values, reference, strict=True))
        yield {"batch": size, "name": name, "milliseconds": statistics.median(values), "ratio": ratio}


def images(size, seed):
    return np.random.default_rng(seed).normal(size=(size, 32, 32, 3)).astype("float32")


if __name__ == "__main__":
    main()
