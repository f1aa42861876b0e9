"""Latency of exported models on the CPU: normalizers folded away against Keras' BatchNormalization.

    python benchmarks/serving.py [--rounds 200] [--batches 1,64] [--depth 20] [--width 16] [--json serving.json]

ResNet on 32x32x3 images, called through the serving signature of what `nrm_keras.export` writes with its defaults. The
reference, "keras batch", is exported as it is, by `model.export`. All run interleaved in one process; the times are
medians in milliseconds, the ratios medians over the rounds: to the reference, and to "none", which has no normalizers and is
the floor. "none, again" is a second export of that: its ratio to "none" is what the benchmark itself errs by.
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

import nrm_keras
from nrm_keras import layers
from nrm_keras.models import resnet

REFERENCE, FLOOR = "keras batch", "none"
NEAR_0, SOFT, NEAR_1 = 5e-4, 0.9, 1 - 5e-4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--json", default="serving.json", help="where the figures go")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        exported = exports(arguments, folder)
        for size in map(int, arguments.batches.split(",")):
            for row in measure(exported, size, arguments.rounds):
                print("batch {batch:4}  {name:32} {milliseconds:9.3f} ms {ratio:6.3f} {to_floor:6.3f}".format(**row))
                rows.append(row)
    with open(arguments.json, "w") as file:
        json.dump({"threads": os.cpu_count(), **vars(arguments), "rows": rows}, file, indent=1)


def exports(arguments, folder):
    """The exported models by name, loaded."""
    build = functools.partial(network, arguments)
    batch, adaptive = layers.BatchNormalization, layers.AdaptiveNormalization
    reference = build(keras.layers.BatchNormalization)
    reference.export(f"{folder}/reference", verbose=False)
    loaded = {REFERENCE: tf.saved_model.load(f"{folder}/reference")}
    for name, model, options in (
        ("keras batch, folded", reference, {}),
        ("batch, folded", build(batch), {}),
        (FLOOR, build(None), {}),
        (f"{FLOOR}, again", build(None), {}),
        ("adaptive, not specialized", build(adaptive), {"specialized": False}),
        ("gate near 1", with_gate(build(adaptive), NEAR_1), {}),
        ("gate near 1, tolerance 0.05", with_gate(build(adaptive), NEAR_1), {"tolerance": 0.05}),
        ("gate near 0", with_gate(build(adaptive), NEAR_0), {}),
        ("soft gate", with_gate(build(adaptive), SOFT), {}),
    ):
        path = f"{folder}/{name}"
        done = nrm_keras.export(model, path, inputs=images(64, 10), monitor=False, say=lambda line: None, **options)
        loaded[name] = tf.saved_model.load(done.path)
    return loaded


def network(arguments, norm):
    """A network with the running statistics of some batches."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3), name="inputs")
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


def measure(exported, size, rounds):
    """One row for each model, at that batch size."""
    x = tf.constant(images(size, 11))
    calls = {name: functools.partial(model.signatures["serving_default"], inputs=x) for name, model in exported.items()}
    times = measuring.interleaved_times(calls, rounds)
    for name, values in times.items():
        ratios = {key: median_ratio(values, times[to]) for key, to in (("ratio", REFERENCE), ("to_floor", FLOOR))}
        yield {"batch": size, "name": name, "milliseconds": statistics.median(values), **ratios}


def median_ratio(values, others):
    return statistics.median(one / other for one, other in zip(values, others, strict=True))


def images(size, seed):
    return np.random.default_rng(seed).normal(size=(size, 32, 32, 3)).astype("float32")


if __name__ == "__main__":
    main()
