"""What watching a training with InternalStatistics costs, on the CPU.

    python benchmarks/diagnostics.py [--rounds 3] [--depth 20] [--batch 32] [--xla] [--json diagnostics.json]

ResNet on 32x32x3 images with Keras' BatchNormalization, SGD with momentum. Each variant is a model that `fit` trains
in turns, watched and not, in one process; the ratio is the median over the turns of CPU
time for CPU time. Traces come before. `everything` has curvature, covariate shift, landscape, noise scale and drift besides, once
in its 256 steps. Memory is the most that model, traces and training need on top of what the libraries hold, and then of the whole
process, in one of its own each.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import measuring
import numpy as np
import tensorflow as tf

from nrm_keras.callbacks import InternalStatistics
from nrm_keras.models import resnet

# steps of a turn, and the callback's arguments
VARIANTS = {
    "every step": (32, {"every": 1}),
    "every 64 steps": (64, {"every": 64}),
    "everything, every 256 steps": (256, {"every": 256, "deep_every": 256}),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--xla", action="store_true")
    parser.add_argument("--json", default="diagnostics.json", help="where the figures go")
    parser.add_argument("--peak-of", choices=["libraries", "plain", *VARIANTS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        return print(peak(arguments))
    results = {}
    for name, (steps, settings) in VARIANTS.items():
        watched = Training(arguments, settings)
        rounds = arguments.rounds * min(256 // steps, 3)  # short turns are noisier
        ratios = [watched.turn(steps) / watched.turn(steps, alone=True) for _ in range(rounds)]
        results[name] = {"ratio": statistics.median(ratios), "ratios": ratios, "products": watched.products()}
        print(f"{name:30} {results[name]['ratio']:.3f} of plain CPU time", flush=True)
    peaks = {name: measuring.in_own_process(*sys.argv, "--peak-of", name) for name in ("libraries", "plain", *VARIANTS)}
    for name in VARIANTS:
        results[name]["memory"] = peaks[name] / peaks["plain"]
        results[name]["process"] = (peaks["libraries"] + peaks[name]) / (peaks["libraries"] + peaks["plain"])
        print(
            f"{name:30} {results[name]['memory']:.2f} of plain memory, {peaks[name]:.0f} MB for {peaks['plain']:.0f}; "
            f"{results[name]['process']:.2f} of the whole process"
        )
    print(f"Hessian-vector products in a run of curvature: {results['everything, every 256 steps']['products']}")
    with open(arguments.json, "w") as file:
        json.dump({"threads": os.cpu_count(), **vars(arguments), "results": results}, file, indent=1)


class Training:
    """A traced model, watched unless `settings` are empty, that trains in turns."""

    def __init__(self, arguments, settings):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((32, 32, 3))
        norm = lambda name: keras.layers.BatchNormalization(name=name)
        outputs = keras.layers.Dense(10)(resnet(inputs, norm, depth=arguments.depth))
        self.model = keras.Model(inputs, outputs)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, jit_compile=arguments.xla)
        rng = np.random.default_rng(0)
        batch = rng.normal(size=(arguments.batch, 32, 32, 3)).astype("float32"), rng.integers(0, 10, arguments.batch)
        self.data = tf.data.Dataset.from_tensors(batch).repeat()
        self.watch, self._folder = None, tempfile.TemporaryDirectory()
        if settings:
            path = Path(self._folder.name) / "statistics.jsonl"
            early = settings | ({"deep_every": 2} if "deep_every" in settings else {})
            self.watch = InternalStatistics(path=path, say=lambda line: None, **early)
        self.turn(4)  # traces
        self.turn(4, alone=True)
        if settings:
            self.watch.deep_every = settings.get("deep_every")

    def turn(self, steps: int, alone: bool = False) -> float:
        """CPU seconds of so many steps."""
        began = time.process_time()
        callbacks = [self.watch] if self.watch and not alone else []
        self.model.fit(self.data, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=callbacks)
        return time.process_time() - began

    def products(self) -> list[int]:
        """How many Hessian-vector products each run of curvature took."""
        path = Path(self._folder.name) / "statistics.jsonl"
        records = map(json.loads, path.read_text().splitlines())
        return [record["products"] for record in records if record["kind"] == "curvature"]


def peak(arguments):
    """Megabytes that the libraries hold, or that model, traces and training need at most on top of them."""
    if arguments.peak_of == "libraries":
        return measuring.held_megabytes()
    _, settings = VARIANTS.get(arguments.peak_of, (16, {}))
    training = []

    def turn():
        if not training:
            training.append(Training(arguments, settings))
        watch = training[0].watch
        if watch and watch.deep_every:
            watch.deep_every = 8
        training[0].turn(16)

    return measuring.peak_megabytes(lambda: None, turn)


if __name__ == "__main__":
    main()
