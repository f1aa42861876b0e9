"""How often the drift monitor cries wolf, and how often it sees images that were changed.

    python benchmarks/drift.py RUN [--reference validation|train] [--clean 1000] [--changed 200] [--json drift.json]

RUN is a finished run on images, such as one of images/fashion_mnist_resnet. The monitor's reference is the validation split;
requests of 1, 8 and 64 are drawn from the test split, without replacement within one. Flagged is what has p < 0.01. Changed
images are rounded to bytes, as cameras and files have them:

    noise       Gaussian, sigma 0.1 of the range
    blur        Gaussian, sigma 1 pixel
    contrast    x 0.6 about the image's mean (Hendrycks & Dietterich 2019, arXiv:1903.12261); "darker" is x 0.6 about black
    inverted    255 - x

At half severity sigma is half as large, contrast x 0.8, and every second image is inverted, by chance.
"""

import argparse
import itertools
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import nrm_keras
from nrm_keras.data import sources
from nrm_keras.recipe import loading
from nrm_keras.runs import directory
from nrm_keras.serving.drift.monitor import DriftMonitor
from nrm_keras.studies.probes.corruptions import corrupt

CHANGES = {"noise": 0.1, "blur": 1.0, "contrast": 0.4, "darker": 0.4, "inverted": 1.0}
SIZES = (1, 8, 64)
LEVELS = (0.01, 0.05)
BATCH = 250


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--reference", choices=["validation", "train"], default="validation")
    parser.add_argument("--clean", type=int, default=1000, help="requests of each size")
    parser.add_argument("--changed", type=int, default=200, help="requests of each size and change")
    parser.add_argument("--json", default="drift.json", help="where the figures go")
    arguments = parser.parse_args()
    model = nrm_keras.load(arguments.run)
    examples = sources.load(loading.load(arguments.run / directory.RECIPE).recipe.data)
    monitor, seconds = built(model, getattr(examples, arguments.reference).inputs)
    print(f"{len(monitor.layers)} layers, built in {seconds:.0f} s: {', '.join(monitor.layers)}")
    judge = tf.function(monitor, input_signature=[tf.TensorSpec((None, *examples.shape))])
    images, rng = examples.test.inputs.astype("float32"), np.random.default_rng(0)
    rows = {"unchanged": flagged(judge, images, arguments.clean, rng)}
    show("unchanged", rows["unchanged"])
    for name, severity in itertools.product(CHANGES, (1.0, 0.5)):
        changed = corrupt(images, {name: severity * CHANGES[name]}, rng)
        name = name if severity == 1 else f"{name}, half"
        rows[name] = flagged(judge, changed, arguments.changed, rng)
        show(name, rows[name])
    with open(arguments.json, "w") as file:
        results = {"reference": arguments.reference, "clean": arguments.clean, "changed": arguments.changed}
        json.dump(results | {"seconds": seconds, "flagged": rows}, file, indent=1)


def built(model, inputs):
    """The monitor, and the seconds that it took."""
    began = time.perf_counter()
    order = np.random.default_rng(0).permutation(len(inputs))
    batches = (tf.constant(inputs[part], tf.float32) for part in np.array_split(order, max(1, len(inputs) // BATCH)))
    return DriftMonitor.of(model, batches), time.perf_counter() - began


def flagged(judge, images, requests, rng):
    """The share of requests of each size with a p-value below each level."""
    row = {}
    for size in SIZES:
        chosen = (images[rng.choice(len(images), size, replace=False)] for _ in range(requests))
        p_values = np.array([float(judge(request)["p_value"]) for request in chosen])
        row[size] = {level: float(np.mean(p_values < level)) for level in LEVELS}
    return row


def show(name, row):
    shares = "".join(f"   {size:3}: {found[LEVELS[0]]:.3f}" for size, found in row.items())
    print(f"{name:16} p < 0.01 at size{shares}", flush=True)


if __name__ == "__main__":
    main()
