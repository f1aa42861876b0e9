"""Layer normalization."""

import math
import warnings

import keras
from keras import ops

from nrm_keras.layers import closed_form, kernel
from nrm_keras.layers.moments import expand_mask, reshape, without_padding
from nrm_keras.layers.normalizer import Normalizer


@keras.saving.register_keras_serializable(package="nrm_keras")
class LayerNormalization(Normalizer):
    """Normalizes each position over its channels, alike in training and at inference.

    Equation: `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`, with mean and population variance over `axis`.
    With several axes, `gamma` and `beta` have one value for each place in them. Arguments, defaults and weights are
    those of `keras.layers.LayerNormalization`.

    Args:
        axis: Integer, or list or tuple of integers in any order, the axes to normalize over; not 0, the batch.
        epsilon: Float added to the variance.
        center: Whether to add `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer, gamma_initializer: Initializers of the weights.
        beta_regularizer, gamma_regularizer: Optional regularizers.
        beta_constraint, gamma_constraint: Optional constraints.
        **kwargs: Arguments of `keras.layers.Layer`, and Keras' deprecated `rms_scaling`.

    Call arguments: see `Normalizer`. With several axes the mask has the leading dimensions of the inputs, and padding
    along one of the axes takes no part in the statistics.

    Shapes and dtypes: the output has the shape of the inputs and the layer's compute dtype; weights, of the shape of
    the normalized axes in the order of the inputs, and all mathematics are float32 at least.

    Raises:
        TypeError: if `axis` is not made of integers.
        ValueError: in `build`, if the inputs have no such axes, one is named twice or is the batch, or a size is
            unknown; in the call, if the mask does not fit.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.layers import LayerNormalization
    >>> x = np.array([[[1.0, 3.0], [10.0, 50.0]]], "float32")
    >>> print(keras.ops.convert_to_numpy(LayerNormalization(epsilon=0.0)(x)))
    [[[-1.  1.]
      [-1.  1.]]]
    >>> layer = LayerNormalization(axis=[-1, 1])
    >>> layer.build((None, 5, 7, 3))
    >>> print(layer.gamma.shape)
    (5, 3)

    Source: Ba et al. 2016 (arXiv:1607.06450), section 3.
    """

    def __init__(
        self,
        axis=-1,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        **kwargs,
    ):
        rms_scaling = kwargs.pop("rms_scaling", False)
        super().__init__(
            epsilon=epsilon,
            center=center and not rms_scaling,
            scale=scale or rms_scaling,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        if rms_scaling:
            warnings.warn(
                "`rms_scaling=True` is deprecated, as it divides by the standard deviation and not by the root mean "
                "square. Use keras.layers.RMSNormalization.",
                stacklevel=2,
            )
        self.axis = _checked_axis(axis)
        self.rms_scaling = rms_scaling

    def build(self, input_shape):
        axes = self._axes(input_shape)
        shape = tuple(input_shape[axis] for axis in axes)
        if None in shape:
            raise ValueError(
                f"The axes to normalize over must have a defined dimension each. Received: axis={self.axis} and inputs "
                f"of shape {tuple(input_shape)}. Give the Input fixed sizes there."
            )
        self.input_spec = keras.layers.InputSpec(axes={axis: input_shape[axis] for axis in self._given_axes})
        self.add_affine_weights(shape)

    def call(self, inputs, training=None, mask=None):
        axes = self._axes(inputs.shape)
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, self._weight_dtype))
        within = None
        if mask is not None:
            mask, divides = _mask_like(x, mask, axes)
            x = without_padding(x, mask)
            within = _rows(_move_last(ops.broadcast_to(mask, ops.shape(x)), axes), len(axes)) if divides else None
        moved = _move_last(x, axes)
        outputs = self._normalize_rows(_rows(moved, len(axes)), within)
        outputs = reshape(outputs, tuple(moved.shape), lambda: ops.shape(moved))
        return ops.cast(_move_back(outputs, axes), self.compute_dtype)

    def _normalize_rows(self, rows, mask):
        if self.rms_scaling:
            variance = ops.mean(ops.square(rows - ops.mean(rows, -1, keepdims=True)), -1, keepdims=True)
            return rows * kernel.rsqrt(variance + self.epsilon) * ops.reshape(ops.cast(self.gamma, rows.dtype), (-1,))
        gamma, beta = (ops.reshape(v, (-1,)) for v in self.parameters(rows.dtype))
        channels = (rows.shape[1],)
        gamma, beta = (ops.broadcast_to(v, channels) for v in (gamma, beta))
        return closed_form.rows(rows, mask, gamma, beta, self.epsilon)

    @property
    def _given_axes(self):
        return [self.axis] if isinstance(self.axis, int) else list(self.axis)

    def _axes(self, input_shape):
        """The axes, counted from the front and in order."""
        rank = len(input_shape)
        axes = sorted({axis % rank for axis in self._given_axes if -rank <= axis < rank})
        if not axes or len(axes) != len(self._given_axes) or 0 in axes:
            raise ValueError(
                "`axis` must be the channel axis of the inputs, or several of their axes, each named once, and not 0, "
                f"the batch. Received: axis={self.axis} and inputs of shape {tuple(input_shape)}. "
                "Pass axis=-1 for channels last, or a list such as [1, 2, 3]."
            )
        return axes

    def compute_output_shape(self, input_shape):
        rank = len(input_shape)
        for axis in self._given_axes:
            if not -rank <= axis < rank:
                raise ValueError(
                    f"Axis {axis} is out of bounds for input shape {tuple(input_shape)}. "
                    f"Received: axis={self.axis}. Pass axes below {rank}."
                )
        return input_shape

    def get_config(self):
        axis = self.axis if isinstance(self.axis, int) else list(self.axis)
        return {**super().get_config(), "axis": axis, "rms_scaling": self.rms_scaling}


def _checked_axis(axis):
    if isinstance(axis, int):
        return axis
    if not isinstance(axis, (list, tuple)) or not all(isinstance(one, int) for one in axis):
        raise TypeError(
            "Expected an int or a list/tuple of ints for the argument 'axis'. "
            f"Received: axis={axis!r}. Pass -1 or a list such as [1, 2, 3]."
        )
    return list(axis)


def _mask_like(x, mask, axes):
    """The mask on the axes of x, and whether it can divide what is normalized together."""
    channel = axes[0] if len(axes) == 1 else len(x.shape) - 1
    mask = expand_mask(mask, x, channel)
    sizes = list(ops.shape(x))
    sizes[channel] = mask.shape[2]
    return ops.reshape(mask, sizes), len(axes) > 1 or mask.shape[2] != 1


def _order(rank, axes):
    return [axis for axis in range(rank) if axis not in axes] + axes


def _move_last(x, axes):
    order = _order(len(x.shape), axes)
    return x if order == sorted(order) else ops.transpose(x, order)


def _move_back(x, axes):
    order = _order(len(x.shape), axes)
    return x if order == sorted(order) else ops.transpose(x, [order.index(axis) for axis in range(len(order))])


def _rows(moved, normalized):
    return ops.reshape(moved, (-1, math.prod(moved.shape[-normalized:])))
