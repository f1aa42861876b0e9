"""Training through the data pipeline against training on the same tensors held in memory.

    python benchmarks/pipeline.py [--recipe images/fashion_mnist_resnet] [--steps 60] [--rounds 7]

Both train the recipe's model with `fit`, an epoch in turn, in one process: once on the shuffled, augmented batches that the
pipeline makes as they are needed, once on float32 tensors of the first such batches, cut into batches in their order. Prints
steps per second of both, the ratio of neighbouring epochs, and the same ratio of processor time: medians.
"""

import argparse
import itertools
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from nrm_keras.data import sources
from nrm_keras.recipe import loading
from nrm_keras.training import assembly
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
    batches = assembly.training_batches(recipe, examples)
    model = assembly.build_model(recipe, examples, batches)
    x, y = (np.concatenate(column) for column in zip(*batches(0).as_numpy_iterator(), strict=True))

    requests = itertools.count()
    kinds = {
        "memory": tf.data.Dataset.from_tensor_slices((x, y)).batch(recipe.data.batch_size).prefetch(tf.data.AUTOTUNE),
        # fit asks for an iterator at an epoch's begin and again at its end, where training gives none
        "pipeline": LazyDataset(lambda: batches(asked) if (asked := next(requests)) % 2 == 0 else None, batches(0)),
    }
    seconds = {name: [] for name in kinds}
    for _ in range(arguments.rounds + 1):
        for name, data in kinds.items():
            began = time.perf_counter(), time.process_time()
            model.fit(data, shuffle=False, verbose=0)
            seconds[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    memory, pipeline = (np.array(values[1:]) for values in seconds.values())  # the first epoch traces
    wall, processor = np.median(memory / pipeline, axis=0)
    result = {
        "recipe": arguments.recipe,
        "memory_steps_per_second": round(batches.steps_per_epoch / np.median(memory[:, 0]), 2),
        "pipeline_steps_per_second": round(batches.steps_per_epoch / np.median(pipeline[:, 0]), 2),
        "ratio": round(wall, 3),
        "processor_ratio": round(processor, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
