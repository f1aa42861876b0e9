"""Runs layers on two logical CPUs and on one device, and prints the largest differences as JSON.

A program of its own: logical devices must be there before TensorFlow starts.
"""

import json
import sys

import numpy as np
import tensorflow as tf

from nrm_keras.layers import (
    AdaptiveNormalization,
    BatchNormalization,
    DomainBatchNormalization,
    SwitchableNormalization,
)

CPUS = ["CPU:0", "CPU:1"]
SPLIT = 3
RNG = np.random.default_rng(0)
# The halves differ in mean: statistics of the halves, averaged, would be far from those of the whole.
X = (RNG.normal(1e3, 1.0, (5, 4, 3, 6)) + np.arange(5).reshape(5, 1, 1, 1)).astype("float32")
UPSTREAM = RNG.normal(size=X.shape).astype("float32")
MASK = RNG.random(X.shape[:-1]) < 0.7
MASK[4] = False


class ByExample(DomainBatchNormalization):
    """The five examples, which their means tell apart: domain 2 is on both replicas, 0 on one, 1 on none."""

    def call(self, inputs, training=None, mask=None):
        number = tf.cast(tf.round(tf.reduce_mean(inputs, (1, 2, 3)) - 1e3), "int32")
        return super().call(inputs, tf.gather([0, 2, -1, 2, 2], number), training, mask)


LAYERS = {
    "batch": lambda: BatchNormalization(synchronized=True),
    "adaptive": lambda: AdaptiveNormalization(synchronized=True, gate="channel", learn_slope=True),
    "switchable": lambda: SwitchableNormalization(synchronized=True),
    "domain": lambda: ByExample(3, synchronized=True),
    "adaptive-separate": lambda: AdaptiveNormalization(synchronized=True, positions="separate"),
}


def step(layer, x, upstream, mask):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, mask=mask)
        loss = tf.reduce_sum(tf.where(mask[..., None], y * upstream, 0.0))
    dx, *slopes = tape.gradient(loss, [x] + [v.value for v in layer.trainable_variables])
    # At padding the output has no meaning, and may be as large as x.
    return tf.where(mask[..., None], y, 0.0), dx, *slopes


def on_one(make, x, mask):
    layer = make()
    layer.build(x.shape)
    results = step(layer, tf.constant(x), tf.constant(UPSTREAM), tf.constant(mask))
    return [r.numpy() for r in results], [v.numpy() for v in layer.non_trainable_variables]


def on_two(strategy, make, x, mask):
    with strategy.scope():
        layer = make()
        layer.build(x.shape)

    def share(array):
        halves = array[:SPLIT], array[SPLIT:]
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(halves[context.replica_id_in_sync_group])
        )

    run = tf.function(lambda *values: strategy.run(lambda *v: step(layer, *v), values))
    y, dx, *slopes = (strategy.experimental_local_results(r) for r in run(share(x), share(UPSTREAM), share(mask)))
    results = [np.concatenate(y), np.concatenate(dx), *(sum(s).numpy() for s in slopes)]
    states = [[r.numpy() for r in strategy.experimental_local_results(v.value)] for v in layer.non_trainable_variables]
    return results, states


def difference(one, other):
    return max(float(np.max(np.abs(a - b))) for a, b in zip(one, other, strict=True))


def main():
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(CPUS)
    full = np.ones_like(MASK)
    report = {}
    for name, make in LAYERS.items():
        for mask_name, mask in (("all", full), ("masked", MASK)):
            results, states = on_one(make, X, mask)
            spread, spread_states = on_two(strategy, make, X, mask)
            report[f"{name} {mask_name}"] = {
                "results": difference(results, spread),
                "states": difference(states, [s[0] for s in spread_states]),
                "replicas": difference(*zip(*spread_states, strict=True)),
            }
    poisoned = X.copy()
    poisoned[0, 0, 0, 0] = np.nan
    _, states = on_two(strategy, LAYERS["batch"], poisoned, full)
    report["nan"] = difference([np.zeros(6), np.ones(6), np.zeros(())], [s[1] for s in states])
    # Not synchronized, each replica has its own statistics in training, and both keep the same average of them.
    _, states = on_two(strategy, BatchNormalization, X, full)
    mean = (X[:SPLIT].astype("float64").mean((0, 1, 2)) + X[SPLIT:].astype("float64").mean((0, 1, 2))) / 2
    report["local"] = {"replicas": difference(*zip(*states, strict=True)), "mean": difference([mean], [states[0][0]])}
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
