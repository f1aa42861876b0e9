"""Whether running statistics serve after 20 steps: validation accuracy with them and with recalibrated ones.

    python benchmarks/early_validation.py [--seeds 5] [--norms batch adaptive] [--json early_validation.json]

The first epoch of the recipe images/digits_adaptive (ResNet-8, width 16, batch 64, SGD with momentum), which has 20
steps, with each normalizer. "recalibrated" are the same weights with the exact statistics of the training data.
"""

import argparse
import json
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import nrm_keras
from nrm_keras.data import sources
from nrm_keras.recipe import loading
from nrm_keras.training import assembly

STEPS = 20
NORMS = ("batch", "adaptive", "keras_batch")

nrm_keras.register("norm", "keras_batch")(lambda name: keras.layers.BatchNormalization(name=name))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--norms", nargs="+", default=NORMS, choices=NORMS)
    parser.add_argument("--json", default="early_validation.json", help="where the figures go")
    arguments = parser.parse_args()
    rows = {}
    for norm in arguments.norms:
        pairs = accuracies(norm, arguments.seeds)
        running, recalibrated = zip(*pairs, strict=True)
        gaps = [abs(one - other) for one, other in pairs]
        median, worst = statistics.median(gaps), max(gaps)
        rows[norm] = {"running": running, "recalibrated": recalibrated, "median_gap": median, "worst_gap": worst}
        for name in ("running", "recalibrated"):
            print(f"{norm:12} {name:13}" + "".join(f"{value:8.3f}" for value in rows[norm][name]))
        print(f"{norm:12} gap: median {median:.3f}, worst {worst:.3f}", flush=True)
    with open(arguments.json, "w") as file:
        json.dump({"steps": STEPS, **rows}, file, indent=1)


def accuracies(norm, seeds):
    """Validation accuracy after 20 steps with running statistics, and with recalibrated ones, for each seed."""
    pairs, model = [], None
    for seed in range(seeds):
        overrides = ["norm=null", f"norm={{type: {norm}}}", f"train.seed={seed}"]
        recipe = loading.load("images/digits_adaptive", overrides).recipe
        keras.utils.set_random_seed(seed)
        examples = sources.load(recipe.data)
        batches = assembly.training_batches(recipe, examples)
        fresh = assembly.build_model(recipe, examples, batches)
        model = fresh if model is None else restarted(model, fresh)  # traced once
        model.fit(batches(0), steps_per_epoch=STEPS, shuffle=False, verbose=0)
        validation = assembly.evaluation_data(recipe, examples, "validation")
        running = accuracy(model, validation)
        nrm_keras.recalibrate(model, batches(0), evaluate=False, verbose=0)
        pairs.append((running, accuracy(model, validation)))
    return pairs


def restarted(model, fresh):
    """The model with the weights of a fresh one, and an optimizer that has done nothing yet."""
    model.set_weights(fresh.get_weights())
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))
    return model


def accuracy(model, data):
    return model.evaluate(data, return_dict=True, verbose=0)["accuracy"]


if __name__ == "__main__":
    main()
