"""Batches as a function of (seed, epoch, step), so that training can start again at any step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from nrm_keras.data.disk import release
from nrm_keras.data.examples import Split, limited
from nrm_keras.errors import UserError

_MOST_VALUES = 2**25  # of a sample: 256 MB as float64


class Batches:
    """The batches of one split; `batches(epoch, step)` is a `tf.data.Dataset` of those from `step` to the epoch's end.

    Every epoch visits each example once, in an order that depends on (seed, epoch) alone. A last batch of a single
    example (or of fewer than there are replicas) joins the batch before it: one example has no batch statistics.

    Args:
        split: the examples. What is in a `numpy.memmap` is read batch by batch.
        batch_size: examples per step, over all replicas together.
        seed: of order and augmentation; None keeps the order of the split, for evaluation.
        augment: "crop" (shift by up to an eighth of the size, zeros come in) and "flip" (left to right), of images and
            volumes, where a mask moves with its image; "drop_words" of text.
        class_weights: one weight per class, multiplied onto the loss; None leaves all examples equal.
        replicas: with more than one, each step gives that many consecutive elements, one per replica.
        decode: turns an element of `split.inputs` into a tensor; None for plain arrays.
        encode: turns the inputs of a batch into what the model takes, such as words into numbers; None leaves them.
        domains: whether the model takes the domain of each example too.

    Each element is `(x, y)` or, with class weights, `(x, y, weight)`; x float32 (text: strings, or what `encode` makes),
    y int32 or, for regression, float32, weight float32. With `domains` x is `{"inputs": x, "domain": int32}`.

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
        encode=None,
        domains: bool = False,
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
        self._inputs = _rows(split.inputs)
        self._labels = _rows(split.labels)
        self._labels_dtype = "float32" if split.labels.dtype.kind == "f" else "int32"
        self._domains = _rows(split.domains) if domains else None
        self._class_weights = None if class_weights is None else tf.constant(class_weights, "float32")
        self._decode = decode
        self._encode = encode
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
        x, y = self._inputs(index), tf.cast(self._labels(index), self._labels_dtype)
        if self._decode is not None:
            x = tf.map_fn(self._decode, x, fn_output_signature="float32")

        def uniform(name, numbers):
            return self._uniform(name, epoch, step, count, numbers)[low:high]

        if self._encode is not None:
            x = self._with_fewer_words(tf.cast(self._encode(x), "int32"), uniform)
        else:
            x, y = self._augmented(x, y, uniform)
            x = tf.cast(x, "float32") if x.dtype != tf.string else x  # last: bytes are a quarter to move
        weights = () if self._class_weights is None else (tf.gather(self._class_weights, y),)
        if self._domains is not None:
            x = {"inputs": x, "domain": tf.cast(self._domains(index), "int32")}
        return (x, y, *weights)

    def _augmented(self, x, y, uniform):
        """The images, and their masks with them, after what `augment` lists; `uniform` makes the random numbers."""
        if not self.augment:
            return x, y
        if x.shape.rank not in (4, 5) or _WORDS in self.augment:
            raise UserError(
                "data.augment takes crop and flip of images (height, width, channels) and volumes (depth, height, width,"
                f" channels), and {_WORDS} of text. Received: {', '.join(self.augment)} for examples of shape"
                f" {tuple(x.shape[1:])}. Set data.augment=[]."
            )
        has_mask = y.shape.rank == x.shape.rank - 1
        for name in self.augment:
            numbers = uniform(name, x.shape.rank - 2)
            x = _AUGMENT[name](x, numbers)
            y = _AUGMENT[name](y[..., None], numbers)[..., 0] if has_mask else y
        return x, y

    def _with_fewer_words(self, tokens, uniform):
        """Each word of a text is left out with a probability of 0.3, its place stays empty (Iyyer et al. 2015)."""
        if set(self.augment) - {_WORDS}:
            raise UserError(
                f"data.augment: of text only {_WORDS} can be had. Received: {', '.join(self.augment)}."
                f" Set data.augment=[{_WORDS}] or []."
            )
        return tf.where(uniform(_WORDS, tokens.shape[1]) < 0.3, 0, tokens) if self.augment else tokens

    def _order(self, epoch: int) -> np.ndarray:
        if self.seed is None:
            return np.arange(self.examples)
        # not tf.random.experimental.index_shuffle: its orders of two epochs correlate by 0.8
        return np.random.default_rng((self.seed, epoch)).permutation(self.examples)

    def _uniform(self, name, epoch, step, count, numbers):
        """Random numbers in [0, 1) for each example of the whole batch, however many replicas share it."""
        # each kind of augmentation has random numbers of its own
        stream = tf.constant(self.seed * len(_STREAMS) + _STREAMS.index(name), "int64")
        key = tf.stack([stream, epoch * self.steps_per_epoch + step])
        return tf.random.stateless_uniform(tf.stack([count, numbers]), key)


def _rows(array: np.ndarray):
    """A function from indices to those rows of the array."""
    if not isinstance(array, np.memmap):
        array = tf.convert_to_tensor(array)
        return lambda index: tf.gather(array, index)

    def read(index):
        rows = np.asarray(array[index])
        release(array)
        return rows

    def gather(index):
        rows = tf.numpy_function(read, [index], tf.as_dtype(array.dtype), stateful=False)
        return tf.ensure_shape(rows, (None, *array.shape[1:]))

    return gather


def _crop(images, uniform):
    """Shifts each image by up to an eighth of its size; what comes in is zero, as in He et al. 2015 (section 4.2)."""
    sizes = images.shape[1:-1]
    padding = [max(1, size // 8) for size in sizes]
    shifts = tf.cast(uniform * (2.0 * tf.constant(padding, "float32") + 1.0), "int32")
    images = tf.pad(images, [[0, 0], *([width] * 2 for width in padding), [0, 0]])
    for axis, size in enumerate(sizes):
        images = tf.gather(images, shifts[:, axis, None] + tf.range(size), axis=1 + axis, batch_dims=1)
    return images


def _flip(images, uniform):
    """Mirrors every second image along its last axis of positions."""
    mirrored = tf.reverse(images, [images.shape.rank - 2])
    return tf.where(tf.reshape(uniform[:, 0] < 0.5, [-1, *[1] * (images.shape.rank - 1)]), mirrored, images)


_AUGMENT = {"crop": _crop, "flip": _flip}
_WORDS = "drop_words"
_STREAMS = (*_AUGMENT, _WORDS)


def standardization(
    split: Split, decode=None, sample: int = 4096, shape: tuple[int, ...] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (float64) of each channel, over at most `sample` random examples and their positions.

    Args:
        shape: of a decoded example, where there is `decode`: of large ones fewer are taken.
    """
    fits = max(1, _MOST_VALUES // math.prod(shape or split.inputs.shape[1:]))
    inputs = limited(split, min(sample, fits)).inputs
    if decode is not None:
        inputs = np.stack([decode(path).numpy() for path in inputs])
    return moments(np.asarray(inputs))


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (float64) of each channel, the last axis; where it does not vary the variance is 1."""
    axes = tuple(range(values.ndim - 1))
    mean = values.mean(axes, dtype="float64")
    variance = np.square(values - mean).mean(axes)
    return mean, np.where(variance > 0, variance, 1.0)
