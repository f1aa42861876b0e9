"""Training through the data pipeline against training on the same tensors held in memory.

    python benchmarks/pipeline.py [--recipe images/fashion_mnist_resnet] [--steps 60] [--rounds 7]

Both train the recipe's model with `fit`, an epoch in turn, in one process: once on the shuffled, augmented batches that the
pipeline makes as they are needed, once on float32 arrays of the first such batches, in their order. Prints steps per second
of both and the ratio of neighbouring epochs: medians.
"""

import argparse
import itertools
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from nrm_keras.data import sources
from nrm_keras.recipe import loading
from nrm_keras.training import train
from nrm_keras.training.distribution import LazyDataset


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="images/fashion_mnist_resnet")
    parser.add_argument("--steps", type=int, default=60, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    recipe = loading.load(arguments.recipe, arguments.overrides).recipe
    recipe = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"limit": arguments.steps * recipe.data.batch_size})}
    )
    examples = sources.load(recipe.data)
    batches = train.training_batches(recipe, examples)
    model = train.build_model(recipe, examples, batches.steps_per_epoch)
    x, y = (np.concatenate(column) for column in zip(*batches(0).as_numpy_iterator(), strict=True))

    epochs = itertools.count()
    kinds = {
        "memory": {"x": x, "y": y, "batch_size": recipe.data.batch_size},
        "pipeline": {"x": LazyDataset(lambda: batches(next(epochs)), batches(0))},
    }
    rates = {name: [] for name in kinds}
    for _ in range(arguments.rounds + 1):
        for name, data in kinds.items():
            began = time.perf_counter()
            model.fit(**data, shuffle=False, verbose=0)
            rates[name].append(batches.steps_per_epoch / (time.perf_counter() - began))
    rates = {name: values[1:] for name, values in rates.items()}  # the first epoch traces
    ratios = [p / m for p, m in zip(rates["pipeline"], rates["memory"], strict=True)]
    result = {f"{name}_steps_per_second": round(statistics.median(values), 2) for name, values in rates.items()}
    print(json.dumps({"recipe": arguments.recipe, **result, "ratio": round(statistics.median(ratios), 3)}))


if __name__ == "__main__":
    main()
