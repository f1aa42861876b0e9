"""A training step of a whole model on our layers against the same model on Keras' layers, on the CPU.

    python benchmarks/training_step.py [--rounds 30] [--depth 20] [--batch 64] [--xla] [--json training_step.json]

ResNet on 32x32x3 images, SGD with momentum, graph mode. All models run interleaved in one process; the times are medians
in milliseconds of one step of `train_on_batch`. Memory is what a step needs at most on top of the traced model, in a process of its own each.
"""

import argparse
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np
import tensorflow as tf

from nrm_keras import layers
from nrm_keras.models import resnet

NORMS = {
    "none": None,
    "keras batch": lambda name: keras.layers.BatchNormalization(name=name),
    "batch": lambda name: layers.BatchNormalization(name=name),
    "adaptive": lambda name: layers.AdaptiveNormalization(name=name),
    "keras group": lambda name: keras.layers.GroupNormalization(8, name=name),
    "group": lambda name: layers.GroupNormalization(8, name=name),
}
AGAINST = {"none": "keras batch", "batch": "keras batch", "adaptive": "keras batch", "group": "keras group"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--xla", action="store_true")
    parser.add_argument("--json", default="training_step.json", help="where the figures go")
    parser.add_argument("--peak-of", choices=NORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        return print(peak(NORMS[arguments.peak_of], arguments))
    times = measuring.interleaved({name: train_step(norm, arguments) for name, norm in NORMS.items()}, arguments.rounds)
    peaks = {name: measuring.in_own_process(*sys.argv, "--peak-of", name) for name in NORMS}
    print(f"{'':12} {'ms':>8} {'ratio':>6} {'MB':>8} {'ratio':>6}")
    for name, value in times.items():
        other = AGAINST.get(name)
        ratios = (f"{v[name] / v[other]:6.2f}" if other else " " * 6 for v in (times, peaks))
        print(f"{name:12} {value:8.1f} {next(ratios)} {peaks[name]:8.0f} {next(ratios)}")
    with open(arguments.json, "w") as file:
        json.dump({"threads": os.cpu_count(), **vars(arguments), "milliseconds": times, "megabytes": peaks}, file)


def train_step(norm, arguments):
    run, (images, labels) = trainer(norm, arguments), map(tf.constant, batch(arguments.batch))
    return lambda: run(images, labels)


def peak(norm, arguments):
    run, large = trainer(norm, arguments), batch(arguments.batch)

    def trace():
        # Two sizes, and TensorFlow traces once more, for all.
        for size in (1, 2, 3):
            run(*batch(size))

    return measuring.peak_megabytes(trace, lambda: run(*large))


def trainer(norm, arguments):
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(10)(resnet(inputs, norm, depth=arguments.depth))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=arguments.xla)
    return model.train_on_batch


def batch(size):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 32, 32, 3)).astype("float32"), rng.integers(0, 10, size)


if __name__ == "__main__":
    main()
