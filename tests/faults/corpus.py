"""What a program of the corpus is, and how one is written down."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import tensorflow as tf

from tests.faults.data import Data

PROGRAMS: list["Program"] = []


class Run(NamedTuple):
    """A compiled model with what its fit is given. `train` is a tf.data.Dataset, or (x, y) in arrays."""

    model: keras.Model
    train: object
    validation: tuple
    epochs: int
    batch_size: int

    def fit(self, **arguments) -> keras.callbacks.History:
        """Trains the model as its program says; arguments go to `fit`."""
        if isinstance(self.train, tf.data.Dataset):
            given = {"x": self.train, "shuffle": False}
        else:
            given = {"x": self.train[0], "y": self.train[1], "batch_size": self.batch_size}
        return self.model.fit(**given, validation_data=self.validation, epochs=self.epochs, verbose=0, **arguments)


class Program(NamedTuple):
    """One program: a function of the seed, and for a faulty one the argument that plants its fault."""

    name: str
    family: str
    fault: str | None
    twin: str | None
    layers: tuple[str, ...]
    function: Callable[..., Run]
    planted: dict

    @property
    def layer(self) -> str | None:
        """The layer at fault, or None where no single layer is; `layers` also has those where it rightly shows."""
        return self.layers[0] if self.layers else None

    def build(self, seed: int) -> Run:
        """The program ready for fit; the seed sets initial weights, order of the data and its split."""
        keras.utils.set_random_seed(seed)
        return self.function(seed, **self.planted)


def healthy(family: str) -> Callable:
    """Decorator of a program that has no fault and no faulty partner."""

    def register(function):
        PROGRAMS.append(Program(function.__name__, family, None, None, (), function, {}))
        return function

    return register


def pair(family: str, fault: str, layers: tuple[str, ...] = (), **planted) -> Callable:
    """Decorator of a healthy program and its faulty twin, which gets the `planted` argument besides the seed."""

    def register(function):
        healthy(family)(function)
        name = f"{function.__name__}_faulty"
        PROGRAMS.append(Program(name, family, fault, function.__name__, layers, function, planted))
        return function

    return register


def classifier(model, data: Data, optimizer, epochs: int, batch_size: int, loss=None, **arguments) -> Run:
    """A model that gives logits of several classes, unless a loss says otherwise."""
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metric = keras.metrics.SparseCategoricalAccuracy(name="score")
    return prepare(model, data, optimizer, loss, metric, epochs, batch_size, **arguments)


def detector(model, data: Data, optimizer, epochs: int, batch_size: int, **arguments) -> Run:
    """A model that gives the probability of one class."""
    loss, metric = keras.losses.BinaryCrossentropy(), keras.metrics.BinaryAccuracy(name="score")
    return prepare(model, data, optimizer, loss, metric, epochs, batch_size, **arguments)


def regressor(model, data: Data, optimizer, epochs: int, batch_size: int, **arguments) -> Run:
    """A model that gives one number."""
    loss, metric = keras.losses.MeanSquaredError(), keras.metrics.R2Score(name="score")
    return prepare(model, data, optimizer, loss, metric, epochs, batch_size, **arguments)


def prepare(model, data: Data, optimizer, loss, metric, epochs, batch_size, arrays=False) -> Run:
    """Compiles and builds the model, and makes a data set of the data unless arrays are wanted."""
    model.compile(optimizer=optimizer, loss=loss, metrics=[metric])
    if not model.built:
        model(data.x[:2])
    return Run(model, data.train if arrays else batches(data, batch_size), data.validation, epochs, batch_size)


def batches(data: Data, batch_size: int) -> tf.data.Dataset:
    """The training data in batches, in another order each epoch."""
    return tf.data.Dataset.from_tensor_slices(data.train).shuffle(len(data.x)).batch(batch_size)
