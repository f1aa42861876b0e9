"""Our layers against Keras' BatchNormalization and GroupNormalization: forward and backward pass on the CPU.

    python benchmarks/layers.py [--rounds 30] [--only graph|xla] [--json layers.json]

All run interleaved in one process; the times are medians in milliseconds, of y, dx, dgamma and dbeta in training. "floor"
is a call and the memory traffic that the method needs, two passes forward and two backward, from an elementwise pass over
the same tensor in the same run. Geometric means of the ratios to Keras' layer follow.
"""

import argparse
import functools
import json
import math
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import tensorflow as tf

from nrm_keras import layers

SHAPES = [(32, 32, 32, 64), (2, 128, 128, 32), (128, 16, 16, 32), (64, 128, 256), (256, 512)]
LAYERS = {
    "keras batch": keras.layers.BatchNormalization,
    "batch": layers.BatchNormalization,
    "adaptive": layers.AdaptiveNormalization,
    "keras group": keras.layers.GroupNormalization,
    "group": layers.GroupNormalization,
    "keras layer": keras.layers.LayerNormalization,
    "layer": layers.LayerNormalization,
}
AGAINST = {"batch": "keras batch", "adaptive": "keras batch", "group": "keras group", "layer": "keras layer"}
PASSES = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", choices=["graph", "xla"])
    parser.add_argument("--json", default="layers.json", help="where the figures go")
    arguments = parser.parse_args()
    rows = []
    print(f"{'':5} {'shape':18} {'floor':>7}" + "".join(f"{name:>18}" for name in LAYERS))
    for mode in [arguments.only] if arguments.only else ["graph", "xla"]:
        for shape in SHAPES:
            rows.append({"mode": mode, "shape": shape, **measure(shape, mode == "xla", arguments.rounds)})
            print(line(rows[-1]), flush=True)
    means = summary(rows)
    for name, ratio in means.items():
        print(f"{name:40} {ratio:.2f}")
    with open(arguments.json, "w") as file:
        json.dump({"threads": os.cpu_count(), "rows": rows, "geometric_means": means}, file, indent=1)


def measure(shape, xla, rounds):
    """Median milliseconds of every layer, and the floor."""
    x, upstream = tf.random.normal(shape, 1.0, 2.0), tf.random.normal(shape)
    steps = {name: step(make(), shape, xla) for name, make in LAYERS.items()}
    steps["pass"] = tf.function(lambda x, upstream: x * 2.0, jit_compile=xla, autograph=False)
    steps["call"] = tf.function(lambda x, upstream: tf.constant(0.0), jit_compile=xla, autograph=False)
    calls = {name: functools.partial(run, x, upstream) for name, run in steps.items()}
    medians = measuring.interleaved(calls, rounds)
    call = medians.pop("call")
    return {"call": call, "floor": call + PASSES * (medians.pop("pass") - call), **medians}


def step(layer, shape, xla):
    layer.build((None, *shape[1:]))
    weights = [layer.gamma.value, layer.beta.value]

    def run(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, [x, *weights], upstream)

    return tf.function(run, jit_compile=xla, autograph=False)


def line(row):
    cells = []
    for name in LAYERS:
        ratio = f" ({row[name] / row[AGAINST[name]]:.2f})" if name in AGAINST else ""
        cells.append(f"{row[name]:.2f}{ratio}".rjust(18))
    return f"{row['mode']:5} {row['shape']!s:18} {row['floor']:7.2f}" + "".join(cells)


def summary(rows):
    """Geometric means of the ratios to Keras' layer, by mode and rank."""
    means = {}
    for mode in dict.fromkeys(row["mode"] for row in rows):
        for name, other in AGAINST.items():
            for where, chosen in (("rank 4", (4,)), ("ranks 2 and 3", (2, 3))):
                fits = [row for row in rows if row["mode"] == mode and len(row["shape"]) in chosen]
                logs = [math.log(row[name] / row[other]) for row in fits]
                means[f"{name} / {other}, {mode}, {where}"] = math.exp(statistics.mean(logs))
    return means


if __name__ == "__main__":
    main()
