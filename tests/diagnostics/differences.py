"""Oracles in float64 that share nothing with the package: first derivatives at assigned weights, and their differences."""

import contextlib
import itertools

import keras
import numpy as np
import tensorflow as tf


@contextlib.contextmanager
def float64():
    """Layers made within compute in float64."""
    kept = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(kept)


def values_of(model):
    return np.concatenate([np.ravel(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables])


def gradient_of(model, loss, x, training=True):
    """Flat weights -> gradient of loss(model(x)), by first derivatives, which TensorFlow gets right.

    The weights are assigned, and all variables are put back."""
    variables = [variable.value for variable in model.trainable_variables]

    @tf.function(autograph=False)
    def slopes():
        with tf.GradientTape() as tape:
            value = loss(model(x, training=training))
        return tape.gradient(value, variables, unconnected_gradients="zero")

    def gradient(flat):
        kept = [(variable, tf.identity(variable.value)) for variable in model.variables]
        parts = np.split(flat, np.cumsum([int(np.prod(variable.shape)) for variable in variables])[:-1])
        for variable, part in zip(variables, parts, strict=True):
            variable.assign(np.reshape(part, variable.shape))
        result = np.concatenate([np.ravel(tf.convert_to_tensor(slope)) for slope in slopes()])
        for variable, value in kept:
            variable.assign(value)
        return result

    return gradient


def derivative(function, at, direction, step=0.02, orders=5):
    """d function(at + e direction) / de at e = 0: central differences, extrapolated by Richardson to the tenth order."""

    def central(h):
        return (function(at + h * direction) - function(at - h * direction)) / (2 * h)

    table = [central(step / 2**i) for i in range(orders)]
    for k in range(1, orders):
        table = [(4**k * fine - coarse) / (4**k - 1) for coarse, fine in itertools.pairwise(table)]
    return table[0]


def dense_hessian(gradient, at, step=1e-4):
    """Rows by central differences of the gradient."""
    rows = [(gradient(at + step * e) - gradient(at - step * e)) / (2 * step) for e in np.eye(len(at))]
    return np.array(rows)


def relative(actual, expected):
    return np.linalg.norm(np.asarray(actual) - expected) / np.linalg.norm(expected)
