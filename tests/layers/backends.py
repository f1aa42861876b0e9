"""What tests need of the backend that Keras runs on."""

import keras
import numpy as np
import pytest

from tests.layers.cases import to_numpy

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="about TensorFlow's tapes and graphs, or its gradients in closed form",
)

# keras.backend.result_type has no float64 on the others, so that Keras' operations and these layers use float32
HAS_FLOAT64 = keras.backend.backend() == "tensorflow"


def tolerance(float64: float, float32: float = 2e-4) -> float:
    """How far what is asked for in float64 may be off."""
    return float64 if HAS_FLOAT64 else float32


def gradients(layer, x, upstream, training=True, mask=None):
    """[y, dx, d(trainable variables)...] for the loss sum(y * upstream), as arrays; running statistics move."""
    return [to_numpy(tensor) for tensor in _BY_BACKEND[keras.backend.backend()](layer, x, upstream, training, mask)]


def _tensorflow(layer, x, upstream, training, mask):
    import tensorflow as tf

    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=training, mask=mask)
        loss = tf.reduce_sum(tf.cast(y, x.dtype) * tf.cast(upstream, x.dtype))
    return [y, *tape.gradient(loss, [x] + [variable.value for variable in layer.trainable_variables])]


def _torch(layer, x, upstream, training, mask):
    import torch

    if not layer.built:
        layer.build(x.shape)
    x = torch.tensor(x, requires_grad=True)
    y = layer(x, training=training, mask=mask)
    loss = torch.sum(y.to(x.dtype) * torch.tensor(np.asarray(upstream)).to(x.dtype))
    return [y, *torch.autograd.grad(loss, [x] + [variable.value for variable in layer.trainable_variables])]


def _jax(layer, x, upstream, training, mask):
    import jax

    if not layer.built:
        layer.build(x.shape)

    def loss(x, trainable):
        values = [variable.value for variable in layer.non_trainable_variables]
        y, moved = layer.stateless_call(trainable, values, x, training=training, mask=mask)
        return jax.numpy.sum(y.astype(x.dtype) * upstream.astype(x.dtype)), (y, moved)

    trainable = [variable.value for variable in layer.trainable_variables]
    (dx, slopes), (y, moved) = jax.grad(loss, (0, 1), has_aux=True)(jax.numpy.asarray(x), trainable)
    for variable, value in zip(layer.non_trainable_variables, moved, strict=True):
        variable.assign(value)
    return [y, dx, *slopes]


_BY_BACKEND = {"tensorflow": _tensorflow, "torch": _torch, "jax": _jax}
