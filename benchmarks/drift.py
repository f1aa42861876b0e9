"""How often the drift monitor cries wolf, and how often it sees images that were changed.

    python benchmarks/drift.py RUN [--clean 1000] [--changed 200] [--json drift.json]

RUN is a finished run on images, such as one of images/fashion_mnist_resnet. It is exported, specialized, and the signature
`monitor` is asked, whose reference is the validation split. Requests of 1, 8 and 64 are drawn from the test split, without
replacement within one. Flagged is what has p < 0.01. Changed images are rounded to bytes, as cameras and files have them:

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
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

import nrm_keras
from nrm_keras.data import sources
from nrm_keras.recipe import loading
from nrm_keras.runs import directory
from nrm_keras.studies.probes.corruptions import corrupt

CHANGES = {"noise": 0.1, "blur": 1.0, "contrast": 0.4, "darker": 0.4, "inverted": 1.0}
SIZES = (1, 8, 64)
LEVELS = (0.01, 0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clean", type=int, default=1000, help="requests of each size")
    parser.add_argument("--changed", type=int, default=200, help="requests of each size and change")
    parser.add_argument("--json", default="drift.json", help="where the figures go")
    arguments = parser.parse_args()
    images = sources.load(loading.load(arguments.run / directory.RECIPE).recipe.data).test.inputs
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        exported = nrm_keras.export(arguments.run, folder)
        seconds = time.perf_counter() - began
        served = tf.saved_model.load(exported.path)
    judge = served.signatures["monitor"]
    layers = judge(image=tf.constant(images[:1]))["layers"].numpy()
    print(f"{len(layers)} layers, exported in {seconds:.0f} s: {', '.join(layer.decode() for layer in layers)}")
    rows = {"unchanged": flagged(judge, images, arguments.clean, rng)}
    show("unchanged", rows["unchanged"])
    for name, severity in itertools.product(CHANGES, (1.0, 0.5)):
        changed = corrupt(images, {name: severity * CHANGES[name]}, rng)
        name = name if severity == 1 else f"{name}, half"
        rows[name] = flagged(judge, changed.astype("uint8"), arguments.changed, rng)
        show(name, rows[name])
    results = {"clean": arguments.clean, "changed": arguments.changed, "seconds": seconds, "flagged": rows}
    Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")


def flagged(judge, images, requests, rng):
    """The share of requests of each size with a p-value below each level."""
    row = {}
    for size in SIZES:
        chosen = (images[rng.choice(len(images), size, replace=False)] for _ in range(requests))
        p_values = np.array([float(judge(image=tf.constant(request))["p_value"]) for request in chosen])
        row[size] = {level: float(np.mean(p_values < level)) for level in LEVELS}
    return row


def show(name, row):
    shares = "".join(f"   {size:3}: {found[LEVELS[0]]:.3f}" for size, found in row.items())
    print(f"{name:16} p < 0.01 at size{shares}", flush=True)


if __name__ == "__main__":
    main()
