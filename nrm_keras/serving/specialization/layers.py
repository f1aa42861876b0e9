"""What normalizers become at inference: their constant parts are worked out beforehand."""

import math

import keras
import numpy as np
from keras import ops

from nrm_keras.layers import closed_form
from nrm_keras.layers.moments import Tensor, four_axes, reciprocal, reshape
from nrm_keras.layers.normalizer import Normalizer

# Of a variance of 1 with it, TensorFlow's kernel takes the root.
_EPSILON = 1e-3
# TensorFlow broadcasts along short rows slowly: several positions side by side make a row of this many numbers.
_ROW = 256


@keras.saving.register_keras_serializable(package="nrm_keras")
class Affine(keras.layers.Layer):
    """Multiplies each channel and adds to it: batch normalization at inference, where no layer in front takes it over.

    Equation: `y = x * factor + offset`.

    Args:
        axis: Integer, the channel axis; not 0, the batch.
        **kwargs: Arguments of `keras.layers.Layer`.

    Shapes and dtypes: the output has the shape of the inputs and the layer's compute dtype; `factor` and `offset`, of
    shape `(channels,)`, and all mathematics are float32 at least.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.serving.specialization.layers import Affine
    >>> layer = Affine()
    >>> layer.build((None, 2))
    >>> layer.set_weights([np.array([2.0, 3.0]), np.array([0.0, 1.0])])
    >>> print(keras.ops.convert_to_numpy(layer(np.array([[1.0, 1.0]], "float32"))))
    [[2. 4.]]
    """

    def __init__(self, axis=-1, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        # Inputs come as they are: cast to float16, values above 65504 would be infinite.
        self.autocast = False
        self.axis = int(axis)

    def build(self, input_shape):
        dtype = keras.backend.result_type(self.variable_dtype, "float32")
        options = {"shape": (input_shape[self.axis],), "dtype": dtype, "autocast": False, "trainable": False}
        self.factor = self.add_weight(name="factor", initializer="ones", **options)
        self.offset = self.add_weight(name="offset", initializer="zeros", **options)

    def call(self, inputs):
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, self.factor.dtype))
        axis = self.axis % len(x.shape)
        rows = reshape(x, four_axes(tuple(x.shape), axis), lambda: four_axes(ops.shape(x), axis))
        factor, offset = (ops.cast(v, x.dtype) for v in (self.factor, self.offset))
        if closed_form.fits_fused_kernel(rows, _EPSILON):
            mean, variance = ops.zeros_like(factor), ops.full_like(factor, 1 - _EPSILON)
            factor, offset = (ops.reshape(v, (1, 1, -1, 1)) for v in (factor, offset))
            y = closed_form.batch_known(rows, factor, offset, mean, variance, _EPSILON)
        else:
            factor, offset = (ops.reshape(v, (1, 1, -1, 1)) for v in (factor, offset))
            y = rows * factor + offset
        return ops.cast(reshape(y, tuple(x.shape), lambda: ops.shape(x)), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(package="nrm_keras")
class FixedMixture(Normalizer):
    """`AdaptiveNormalization` at inference: the gate, the running statistics, gamma and beta are constants.

    Equation: `y = x * (factor + share / deviation) + (offset - mean * share / deviation)`, where mean and
    `deviation = sqrt(variance + epsilon)` are those of the example's channels, or of a group of them.

    Args:
        axis: Integer, the channel axis; not 0, the batch.
        epsilon: Float added to the variance.
        groups: Integer that divides the number of channels.
        positions: "pooled", if the positions of an example share their statistics, or "separate".
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments, shapes and dtypes: see `Normalizer`. `factor`, `offset` and `share` hold one number per channel, where
    positions are pooled over and over for some positions side by side; `set_constants` sets them.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.serving.specialization.layers import FixedMixture
    >>> layer = FixedMixture(epsilon=0.0)
    >>> layer.build((None, 2))
    >>> layer.set_constants(factor=np.zeros(2), offset=np.zeros(2), share=np.ones(2))
    >>> print(keras.ops.convert_to_numpy(layer(np.array([[1.0, 5.0]], "float32"))))
    [[-1.  1.]]
    """

    def __init__(self, axis=-1, epsilon=1e-3, groups=1, positions="pooled", **kwargs):
        super().__init__(axis=axis, epsilon=epsilon, center=False, scale=False, **kwargs)
        self.groups = groups
        self.positions = positions
        self._columns = 1

    def build(self, input_shape):
        super().build(input_shape)
        channels, positions = input_shape[self.axis], _positions(input_shape)
        if self._has_rows(input_shape) and self.positions == "pooled" and positions:
            self._columns = math.gcd(positions, max(1, _ROW // channels))
        shape = (self._columns * channels,)
        self.factor, self.offset, self.share = (
            self.add_precise_weight(name=name, shape=shape, initializer="zeros", trainable=False)
            for name in ("factor", "offset", "share")
        )

    def set_constants(self, factor: np.ndarray, offset: np.ndarray, share: np.ndarray) -> None:
        """Sets the weights, each from one number per channel."""
        for variable, value in zip((self.factor, self.offset, self.share), (factor, offset, share), strict=True):
            variable.assign(np.tile(value, self._columns))

    def call(self, inputs, training=None, mask=None):
        shape = tuple(inputs.shape)
        if mask is not None or not self._has_rows(shape):
            return super().call(inputs, training, mask)
        # The usual case as it lies in memory: for one example, what counts is the number of operations.
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, self._weight_dtype))
        axes = -1 if self.positions == "separate" else tuple(range(1, len(shape)))
        positions, columns = _positions(shape), 1
        if self._columns > 1 and positions and positions % self._columns == 0:
            columns, axes = self._columns, (1, 2)
            x = reshape(x, (shape[0], positions // columns, columns * shape[-1]), None)
        y = self._mix(x, *ops.moments(x, axes, keepdims=True), *self._constants(x.dtype, columns))
        if columns > 1:
            y = reshape(y, shape, None)
        return ops.cast(y, self.compute_dtype)

    def normalize(self, x, mask, training):
        groups, shape = self.groups, tuple(x.shape)
        # A last axis of size 1 would be slow to sum over.
        behind = () if shape[3] == 1 else (shape[3],)
        split = (shape[0], shape[1], groups, shape[2] // groups, *behind)
        rows = reshape(x, split, lambda: _dynamic(x, split))
        factor, offset, share = (
            ops.reshape(v, (1, 1, groups, -1, *(1 for _ in behind))) for v in self._constants(x.dtype)
        )
        if mask is not None:
            mask = reshape(ops.broadcast_to(mask, ops.shape(x)), split, lambda: _dynamic(x, split))
        y = self._mix(rows, *self._statistics(rows, mask), factor, offset, share)
        return reshape(y, shape, lambda: ops.shape(x))

    def _mix(self, x, mean, variance, factor, offset, share):
        slope = share / ops.sqrt(variance + self.epsilon)
        return x * (factor + slope) + (offset - mean * slope)

    def _has_rows(self, shape):
        """Whether all channels of a position share their statistics and lie side by side."""
        return self.groups == 1 and self.axis % len(shape) == len(shape) - 1

    def _constants(self, dtype, columns=1):
        """The weights for so many positions side by side."""
        length = self.factor.shape[0] // self._columns * columns
        constants = (ops.cast(v, dtype) for v in (self.factor, self.offset, self.share))
        return (v if columns == self._columns else v[:length] for v in constants)

    def _statistics(self, rows, mask):
        """Mean and variance of each group, of shape (n, 1 or positions, groups, 1, ...)."""
        if self.positions == "separate":
            return ops.moments(rows, 3, keepdims=True)
        if self.groups > 1:
            # Numbers that lie one behind the other are added up alike whatever the batch.
            order = (0, 2, 1, *range(3, len(rows.shape)))
            rows, mask = (None if v is None else ops.transpose(v, order) for v in (rows, mask))
        axes = tuple(range(1 if self.groups == 1 else 2, len(rows.shape)))
        pair = ops.moments(rows, axes, keepdims=True) if mask is None else _moments(rows, mask, axes)
        return tuple(ops.reshape(v, (-1, 1, self.groups, *(1 for _ in rows.shape[3:]))) for v in pair)

    def get_config(self):
        config = super().get_config()
        kept = {name: config[name] for name in ("name", "trainable", "dtype", "axis", "epsilon")}
        return {**kept, "groups": self.groups, "positions": self.positions}


def _positions(shape: tuple) -> int | None:
    """The number of positions of channels last, if it is known."""
    return None if None in shape[1:-1] else math.prod(shape[1:-1])


def _dynamic(x: Tensor, split: tuple) -> tuple:
    sizes = ops.shape(x)
    return (sizes[0], sizes[1], *split[2:4], *sizes[3 : len(split) - 1])


def _moments(rows: Tensor, mask: Tensor, axes: tuple) -> tuple[Tensor, Tensor]:
    """Mean and variance over what the mask lets through."""
    share = reciprocal(ops.sum(ops.cast(mask, rows.dtype), axes, keepdims=True))
    mean = share * ops.sum(ops.where(mask, rows, 0), axes, keepdims=True)
    return mean, share * ops.sum(ops.where(mask, ops.square(rows - mean), 0), axes, keepdims=True)
