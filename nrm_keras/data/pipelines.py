"""Batches as a function of (seed, epoch, step), so that training can start again at any step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from nrm_keras.data.examples import Split, limited
from nrm_keras.errors import UserError


class Batches:
    """The batches of one split; `batches(epoch, step)` is a `tf.data.Dataset` of those from `step` to the epoch's end.

    Every epoch visits each example once, in an order that depends on (seed, epoch) alone. A last batch of a single
    example (or of fewer than there are replicas) joins the batch before it: one example has no batch statistics.

    Args:
        split: the examples.
        batch_size: examples per step, over all replicas together.
        seed: of order and augmentation; None keeps the order of the split, for evaluation.
        augment: "crop" (shift by up to an eighth of the size, zeros come in) and "flip" (left to right).
        class_weights: one weight per class, multiplied onto the loss; None leaves all examples equal.
        replicas: with more than one, each step gives that many consecutive elements, one per replica.
        decode: turns an element of `split.inputs` into a tensor; None for plain arrays.

    Each element is `(x, y)` or, with class weights, `(x, y, weight)`; x and weight float32, y int32.

    Raises:
        UserError: fewer examples than replicas, a batch size that the replicas can't share evenly, or augmentation of
            what are no images.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int | None = None,
        augment: Sequence[str] = (),
        class_weights: np.ndarray | None = None,
        replicas: int = 1,
        decode=None,
    ):
        if batch_size % replicas or len(split) < replicas:
            raise UserError(
                "data.batch_size is a multiple of the replicas, and there are as many examples at least."
                f" Received: batch size {batch_size}, {replicas} replicas, {len(split)} examples."
            )
        self.examples = len(split)
        self.batch_size = batch_size
        self.seed = seed
        self.augment = tuple(augment)
        self.replicas = replicas
        full, rest = divmod(len(split), batch_size)
        self.steps_per_epoch = max(1, full + (rest >= max(2, replicas)))
        self._inputs = tf.convert_to_tensor(split.inputs)
        self._labels = tf.convert_to_tensor(split.labels)
        self._class_weights = None if class_weights is None else tf.constant(class_weights, "float32")
        self._decode = decode
        # traced once, not once an epoch
        order, scalar = tf.TensorSpec((self.examples,), "int64"), tf.TensorSpec((), "int64")
        self._batch = tf.function(self._make_batch, autograph=False).get_concrete_function(order, *[scalar] * 3)

    def __call__(self, epoch: int, step: int = 0) -> tf.data.Dataset:
        order = tf.constant(self._order(epoch))
        epoch = tf.constant(epoch, "int64")
        parts = tf.data.Dataset.range(step * self.replicas, self.steps_per_epoch * self.replicas)
        batches = parts.map(
            lambda part: self._batch(order, epoch, part // self.replicas, part % self.replicas),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return batches.prefetch(tf.data.AUTOTUNE)

    def _make_batch(self, order, epoch, step, replica):
        start = step * self.batch_size
        stop = tf.where(step == self.steps_per_epoch - 1, tf.cast(self.examples, "int64"), start + self.batch_size)
        count = stop - start
        low, high = count * replica // self.replicas, count * (replica + 1) // self.replicas
        index = order[start + low : start + high]
        x, y = tf.gather(self._inputs, index), tf.gather(self._labels, index)
        if self._decode is not None:
            x = tf.map_fn(self._decode, x, fn_output_signature="float32")
        if self.augment and x.shape.rank != 4:
            raise UserError(
                f"data.augment is for images of shape (height, width, channels)."
                f" Received: {', '.join(self.augment)} for examples of shape {tuple(x.shape[1:])}. Set data.augment=[]."
            )
        for name in self.augment:
            x = _AUGMENT[name](x, self._uniform(name, epoch, step, count)[low:high])
        x = tf.cast(x, "float32")  # last: bytes are a quarter to move
        return (x, y) if self._class_weights is None else (x, y, tf.gather(self._class_weights, y))

    def _order(self, epoch: int) -> np.ndarray:
        if self.seed is None:
            return np.arange(self.examples)
        # not tf.random.experimental.index_shuffle: its orders of two epochs correlate by 0.8
        return np.random.default_rng((self.seed, epoch)).permutation(self.examples)

    def _uniform(self, name, epoch, step, count):
        """Two random numbers in [0, 1) per example of the whole batch, however many replicas share it."""
        # each kind of augmentation has random numbers of its own
        stream = tf.constant(self.seed * len(_AUGMENT) + list(_AUGMENT).index(name), "int64")
        key = tf.stack([stream, epoch * self.steps_per_epoch + step])
        return tf.random.stateless_uniform(tf.stack([count, 2]), key)


def _crop(images, uniform):
    """Shifts each image by up to an eighth of its size; what comes in is zero, as in He et al. 2015 (section 4.2)."""
    height, width = images.shape[1:3]
    padding = (max(1, height // 8), max(1, width // 8))
    shifts = tf.cast(uniform * (2.0 * tf.constant(padding, "float32") + 1.0), "int32")
    images = tf.pad(images, [[0, 0], [padding[0]] * 2, [padding[1]] * 2, [0, 0]])
    images = tf.gather(images, shifts[:, :1] + tf.range(height), axis=1, batch_dims=1)
    return tf.gather(images, shifts[:, 1:] + tf.range(width), axis=2, batch_dims=1)


def _flip(images, uniform):
    return tf.where(uniform[:, :1, None, None] < 0.5, images[:, :, ::-1], images)


_AUGMENT = {"crop": _crop, "flip": _flip}


def standardization(split: Split, decode=None, sample: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (float64) of each channel, over at most `sample` random examples and their positions."""
    inputs = limited(split, sample).inputs
    if decode is not None:
        inputs = np.stack([decode(path).numpy() for path in inputs])
    axes = tuple(range(inputs.ndim - 1))
    mean = inputs.mean(axes, dtype="float64")
    variance = np.square(inputs - mean).mean(axes)
    return mean, np.where(variance > 0, variance, 1.0)
