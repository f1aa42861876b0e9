"""Training through the data pipeline against training on the same tensors held in memory.

    python benchmarks/pipeline.py [--model mlp|resnet] [--rounds 7]

Prints steps per second of both and their ratio: medians of interleaved rounds in one process.
"""

import argparse
import itertools
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

from nrm_keras.data import sources
from nrm_keras.recipe import loading
from nrm_keras.training import train


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="images/fashion_mnist_resnet")
    parser.add_argument("--steps", type=int, default=60, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    arguments = parser.parse_args()
    recipe = loading.load(arguments.recipe, arguments.overrides).recipe
    examples = sources.load(recipe.data)
    batches = train.training_batches(recipe, examples)
    model = train.build_model(recipe, examples, batches.steps_per_epoch)
    held = [tuple(map(tf.identity, batch)) for batch in batches(0).take(arguments.steps)]
    model.make_train_function()

    def run(iterator):
        began = time.perf_counter()
        for _ in range(arguments.steps):
            model.train_function(iterator)
        keras.ops.convert_to_numpy(model.optimizer.iterations)
        return arguments.steps / (time.perf_counter() - began)

    kinds = {
        # an in-memory dataset of one batch a step: no shuffling, gathering, augmenting or casting left to do
        "memory": lambda: iter(from_memory(held)),
        "pipeline": lambda: iter(batches(0).take(arguments.steps)),
    }
    rates = {name: [] for name in kinds}
    for round_number, (name, make) in itertools.product(range(arguments.rounds + 1), kinds.items()):
        rate = run(make())
        if round_number:  # the first one traces and warms up
            rates[name].append(rate)
    ratios = [p / m for p, m in zip(rates["pipeline"], rates["memory"], strict=True)]
    result = {f"{name}_steps_per_second": round(statistics.median(values), 2) for name, values in rates.items()}
    result["ratio"] = round(statistics.median(ratios), 3)
    print(json.dumps({"recipe": arguments.recipe, **result}))


def from_memory(batches):
    choices = tf.data.Dataset.range(len(batches))
    columns = [tf.stack(column) for column in zip(*batches, strict=True)]
    return choices.map(lambda i: tuple(column[i] for column in columns))


if __name__ == "__main__":
    main()
