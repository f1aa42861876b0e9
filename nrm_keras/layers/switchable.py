"""Switchable normalization."""

import keras
from keras import ops

from nrm_keras.layers.moments import Moments
from nrm_keras.layers.running import RunningNormalizer

SOURCES = 3


@keras.saving.register_keras_serializable(package="nrm_keras")
class SwitchableNormalization(RunningNormalizer):
    """Mixes the statistics of instance, layer and batch normalization with learned weights.

    Equation: `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`, with

        mean     = softmax(mean_logits)     . (mean_instance, mean_layer, mean_batch)
        variance = softmax(variance_logits) . (variance_instance, variance_layer, variance_batch)

    Instance statistics are those of one channel of an example over its valid positions, layer statistics those of all
    its channels and positions, batch statistics those of one channel over the batch. All weights are equal before
    training. At inference running statistics stand in for the batch's, see `BatchNormalization`.

    The weights do not know how large the batch is: they fit the batch sizes of training, and a batch of one or two
    examples has its noisy statistics mixed in all the same. `AdaptiveNormalization` knows.

    Args:
        axis: Integer, the channel axis; not 0, the batch.
        momentum: Float, what an update keeps of the running statistics.
        epsilon: Float added to the variance.
        center: Whether to add `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer, gamma_initializer: Initializers of the trainable weights.
        moving_mean_initializer, moving_variance_initializer: Initializers of the running statistics.
        beta_regularizer, gamma_regularizer: Optional regularizers.
        beta_constraint, gamma_constraint: Optional constraints.
        warmup: Whether the momentum of the running statistics starts at 0, see `BatchNormalization`.
        synchronized: Whether to use the statistics of all replicas together, under tf.distribute.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments: see `Normalizer`. With `trainable=False` the layer is in inference mode.

    Shapes and dtypes: the output has the shape of the inputs and the layer's compute dtype; weights and all mathematics
    are float32 at least. `mean_logits` and `variance_logits` have shape `(3,)`, in the order of the equation.

    Raises:
        ValueError: if `synchronized` is True on another backend than TensorFlow; in `build` and in the call as in
            `Normalizer`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.layers import SwitchableNormalization
    >>> layer = SwitchableNormalization(epsilon=0.0)
    >>> x = np.array([[[0.0], [2.0]], [[4.0], [6.0]]], "float32")
    >>> print(keras.ops.convert_to_numpy(layer(x, training=True)).ravel().round(2))
    [-1.09  0.22 -0.22  1.09]
    >>> print(keras.ops.convert_to_numpy(keras.ops.softmax(layer.mean_logits)).round(2))
    [0.33 0.33 0.33]

    Source: Luo et al. 2019 (arXiv:1806.10779), section 2.
    """

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        *,
        warmup=True,
        synchronized=False,
        **kwargs,
    ):
        super().__init__(
            axis=axis,
            momentum=momentum,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            moving_mean_initializer=moving_mean_initializer,
            moving_variance_initializer=moving_variance_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            warmup=warmup,
            synchronized=synchronized,
            **kwargs,
        )

    def build(self, input_shape):
        super().build(input_shape)
        self.mean_logits = self.add_precise_weight(name="mean_logits", shape=(SOURCES,), initializer="zeros")
        self.variance_logits = self.add_precise_weight(name="variance_logits", shape=(SOURCES,), initializer="zeros")

    def measure(self, x, mask, training):
        # Two of the three need a shift near each example, which the running mean may be far from.
        return Moments(x, mask)

    def pool(self, moments, training):
        pairs = moments.per_channel(), moments.over_groups(1), super().pool(moments, training)
        means, variances = zip(*pairs, strict=True)
        return _mix(self.mean_logits, means), _mix(self.variance_logits, variances)


def _mix(logits, statistics):
    weights = ops.softmax(ops.cast(logits, statistics[0].dtype))
    return sum(weights[i] * one for i, one in enumerate(statistics))
