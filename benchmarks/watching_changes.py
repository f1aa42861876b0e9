"""How far watching moves a training in a plain float32 graph, where TensorFlow may add up in another order.

    python benchmarks/watching_changes.py [--steps 52] [--depth 8]

A residual net with Keras' BatchNormalization on random 16x16x3 images, SGD with momentum, trained from the same seed unwatched and
watched; printed is the largest difference of a weight array over its norm, as TensorFlow is, and without its arithmetic optimizer.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.callbacks import InternalStatistics
from nrm_keras.models import resnet


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=52)
    parser.add_argument("--depth", type=int, default=8)
    arguments = parser.parse_args()
    for optimized in (True, False):
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": optimized})
        alone = train(arguments, None)
        print(
            f"arithmetic optimization {'on' if optimized else 'off'}: repeated {difference(alone, train(arguments, None)):.2g}"
        )
        for every in (1, 10):
            watched = train(arguments, InternalStatistics(every=every, say=lambda line: None))
            print(f"  watched, every={every}: {difference(alone, watched):.2g}")


def train(arguments, watch):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    norm = lambda name: keras.layers.BatchNormalization(name=name)
    model = keras.Model(inputs, keras.layers.Dense(10)(resnet(inputs, norm, depth=arguments.depth)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(32 * arguments.steps, 16, 16, 3)), rng.integers(0, 10, 32 * arguments.steps)
    data = tf.data.Dataset.from_tensor_slices((images.astype("float32"), labels)).batch(32)
    model.fit(data, verbose=0, callbacks=[watch] if watch else [])
    return model.get_weights()


def difference(one, other):
    return max(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-12) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
