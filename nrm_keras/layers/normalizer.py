"""The base layer of all normalizers."""

import keras
from keras import constraints, initializers, ops, regularizers

from nrm_keras.layers import kernel
from nrm_keras.layers.moments import Moments, Tensor, expand_mask, four_axes, per_channel, reshape, without_padding

# What a subclass may override to say whose statistics it uses, and how.
HOOKS = ("measure", "pool", "coefficients", "standardize", "affine", "statistics", "running")


@keras.saving.register_keras_serializable(package="nrm_keras")
class Normalizer(keras.layers.Layer):
    """Base layer: a normalizer is the choice of whose mean and variance each channel gets.

    Equation: `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`.

    A normalizer of one's own overrides `pool(moments, training)`; weights, precision, masks, gradient, saving and
    loading come with it. `moments.over_batch()`, `moments.over_groups(groups)` and `moments.per_channel()` each return
    `(mean, variance)`; any mixture of them whose weights add up to 1 may be returned. Means are measured from
    `moments.shift`; `moments.relative(mean)` so measures a known mean of shape `(channels,)`. Weights of one's own are
    added in `build`, behind `super().build(input_shape)`. A layer that mixes normalized values instead of statistics
    overrides `coefficients`.

    Args:
        axis: Integer, the channel axis; not 0, the batch.
        epsilon: Float added to the variance.
        center: Whether to add `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer, gamma_initializer: Initializers, "zeros" and "ones" by default.
        beta_regularizer, gamma_regularizer: Optional regularizers.
        beta_constraint, gamma_constraint: Optional constraints.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Tensor of rank 2 or more, `(batch, ..., channels)` with `axis=-1`.
        training: Whether to use the statistics of training. A layer with `trainable=False` is in inference mode.
        mask: Optional tensor with the leading dimensions of `inputs`, its channel axis left out; False marks padding,
            which takes no part in any statistics. Output at padding is finite and of no meaning.

    Shapes and dtypes: the output has the shape of the inputs and the layer's compute dtype. All mathematics is done in
    float32 at least, with float32 weights at least, whatever the dtype policy.

    Raises:
        ValueError: in `build`, if the rank is below 2, `axis` is no channel axis or the number of channels is unknown;
            in the call, if the mask does not fit.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.layers import Normalizer
    >>> @keras.saving.register_keras_serializable(package="docs")
    ... class BatchInstanceMean(Normalizer):
    ...     def pool(self, moments, training):
    ...         batch_mean, batch_variance = moments.over_batch()
    ...         mean, variance = moments.per_channel()
    ...         return (batch_mean + mean) / 2, (batch_variance + variance) / 2
    >>> x = np.array([[[0.0], [2.0]], [[4.0], [6.0]]], "float32")
    >>> print(keras.ops.convert_to_numpy(BatchInstanceMean(epsilon=0.0, beta_initializer="ones")(x)).ravel().round(2))
    [-0.15  1.    1.    2.15]

    Source: the view of normalizers as a choice of whom to pool over is Wu & He 2018 (arXiv:1803.08494), section 3.1.
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
        super().__init__(**kwargs)
        self.supports_masking = True
        # Inputs come as they are: cast to float16, values above 65504 would be infinite before they are normalized.
        self.autocast = False
        self.axis = int(axis)
        self.epsilon = float(epsilon)
        self.center = center
        self.scale = scale
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self.gamma = None
        self.beta = None

    def build(self, input_shape):
        channels = self._check_shape(input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape), axes={self.axis: channels})
        self.add_affine_weights((channels,))
        super().build(input_shape)

    def call(self, inputs, training=None, mask=None):
        return self.on_four_axes(self.normalize, inputs, training, mask)

    def on_four_axes(self, normalize, inputs, training=None, mask=None):
        """The call, with the function `normalize(x, mask, training)` in place of the method of that name."""
        axis = self.axis % len(inputs.shape)
        dtype = keras.backend.result_type(inputs.dtype, self._weight_dtype)
        if mask is not None:
            mask = expand_mask(mask, inputs, axis)
        shape = tuple(inputs.shape)
        x = reshape(ops.cast(inputs, dtype), four_axes(shape, axis), lambda: four_axes(ops.shape(inputs), axis))
        if mask is not None:
            x = without_padding(x, mask)
        outputs = normalize(x, mask, bool(training) and self.trainable)
        return ops.cast(reshape(outputs, shape, lambda: ops.shape(inputs)), self.compute_dtype)

    def normalize(self, x: Tensor, mask: Tensor | None, training: bool) -> Tensor:
        """The call on x of shape (batch, positions before, channels, positions behind), float32 at least."""
        moments = self.measure(x, mask, training)
        scale, offset = self.coefficients(moments, training)
        return self.affine(moments.centered, scale, offset)

    def affine(self, centered: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """gamma * (centered * scale + offset) + beta."""
        return kernel.affine(centered, scale, offset, *self.parameters(centered.dtype))

    def parameters(self, dtype: str) -> tuple[Tensor, Tensor]:
        """(gamma, beta) on the four axes, 1 and 0 where the layer has none."""
        gamma = ops.ones((1, 1, 1, 1), dtype) if self.gamma is None else per_channel(self.gamma, dtype)
        beta = ops.zeros((1, 1, 1, 1), dtype) if self.beta is None else per_channel(self.beta, dtype)
        return gamma, beta

    def measure(self, x: Tensor, mask: Tensor | None, training: bool) -> Moments:
        """Moments of x, of shape (batch, positions before, channels, positions behind the channel axis)."""
        return Moments(x, mask)

    def pool(self, moments: Moments, training: bool) -> tuple[Tensor, Tensor]:
        """(mean, variance) to normalize with, broadcastable to `moments.mean`; the mean measured from the shift."""
        raise NotImplementedError(
            f"A Normalizer must say whose statistics it uses. Received: {type(self).__name__} without `pool`. "
            "Override `pool(self, moments, training)` and return `(mean, variance)`, such as `moments.over_batch()`."
        )

    def coefficients(self, moments: Moments, training: bool) -> tuple[Tensor, Tensor]:
        """(scale, offset) with which `(x - shift) * scale + offset` is the normalized x, before gamma and beta."""
        return self.standardize(*self.pool(moments, training))

    def standardize(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, offset) that make the mean 0 and the variance 1, up to epsilon."""
        scale = kernel.rsqrt(variance + self.epsilon)
        return scale, -mean * scale

    def overrides(self, cls: type) -> bool:
        """Whether a subclass of `cls` has hooks of its own, which closed forms would pass over."""
        hooks = (name for name in HOOKS if hasattr(cls, name))
        return any(getattr(type(self), name) is not getattr(cls, name) for name in hooks)

    def add_affine_weights(self, shape):
        """Adds `gamma` and `beta`, or those of them that the layer has."""
        if self.scale:
            self.gamma = self.add_precise_weight(
                name="gamma",
                shape=shape,
                initializer=self.gamma_initializer,
                regularizer=self.gamma_regularizer,
                constraint=self.gamma_constraint,
            )
        if self.center:
            self.beta = self.add_precise_weight(
                name="beta",
                shape=shape,
                initializer=self.beta_initializer,
                regularizer=self.beta_regularizer,
                constraint=self.beta_constraint,
            )

    def add_precise_weight(self, **kwargs):
        """`add_weight` that stays float32 (or float64) under every dtype policy."""
        return self.add_weight(dtype=self._weight_dtype, autocast=False, **kwargs)

    @property
    def _weight_dtype(self):
        return keras.backend.result_type(self.variable_dtype, "float32")

    def _check_shape(self, input_shape):
        rank = len(input_shape)
        if rank < 2 or not -rank < self.axis < rank or self.axis == 0:
            raise ValueError(
                f"`axis` must be the channel axis of inputs of rank 2 or more, and not 0, the batch. "
                f"Received: axis={self.axis} and inputs of shape {tuple(input_shape)}. "
                "Pass axis=-1 for channels last, axis=1 for channels first."
            )
        channels = input_shape[self.axis]
        if channels is None:
            raise ValueError(
                f"Axis {self.axis} of the input tensor should have a defined dimension but the layer received an input "
                f"with shape {tuple(input_shape)}. Give the Input a fixed number of channels."
            )
        return channels

    def compute_output_shape(self, input_shape):
        rank = len(input_shape)
        if not -rank <= self.axis < rank:
            raise ValueError(
                f"Axis {self.axis} is out of bounds for input shape {tuple(input_shape)}. "
                f"Received: axis={self.axis}. Pass an axis below {rank}."
            )
        return input_shape

    def get_config(self):
        config = {
            "axis": self.axis,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": initializers.serialize(self.beta_initializer),
            "gamma_initializer": initializers.serialize(self.gamma_initializer),
            "beta_regularizer": regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": constraints.serialize(self.beta_constraint),
            "gamma_constraint": constraints.serialize(self.gamma_constraint),
        }
        return {**super().get_config(), **config}
