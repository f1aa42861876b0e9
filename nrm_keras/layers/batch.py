"""Batch normalization."""

import keras
from keras import ops

from nrm_keras.layers import closed_form
from nrm_keras.layers.running import RunningNormalizer


@keras.saving.register_keras_serializable(package="nrm_keras")
class BatchNormalization(RunningNormalizer):
    """Normalizes each channel over the batch and its positions; at inference, with running statistics.

    Equation: `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`, with mean and population variance of the
    batch's valid positions in training. At inference these are `moving_mean` and `moving_variance`, which each training
    batch moves: `moving = momentum_t * moving + (1 - momentum_t) * batch`.

    With `warmup=True`, `momentum_t = min(momentum, t / (t + 9))` after t updates: the first batch (t = 0) replaces the
    initial values, so that running statistics are usable from the first step on. `warmup=False` is the average of
    `keras.layers.BatchNormalization`, which keeps 0.99^n of the initial values after n steps.

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
        renorm, renorm_clipping, renorm_momentum: Keras' arguments of batch renormalization. Only `renorm=False`.
        synchronized: Whether to use the statistics of all replicas together, under tf.distribute.
        warmup: Whether the momentum starts at 0; it adds the variable `update_count`, which counts as converged where
            weights lack it, as those of Keras' layer do.
        virtual_batch_size: How many examples share their statistics in training, see `RunningNormalizer`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments: see `Normalizer`. With `trainable=False` the layer is in inference mode.

    Shapes and dtypes: the output has the shape of the inputs and the layer's compute dtype; weights of shape
    `(channels,)` and all mathematics are float32 at least.

    Raises:
        ValueError: if `renorm` is True; if `synchronized` is True on another backend than TensorFlow; in `build` and in
            the call as in `Normalizer`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.layers import BatchNormalization
    >>> layer = BatchNormalization(epsilon=0.0)
    >>> x = np.array([[1.0, 10.0], [3.0, 30.0]], "float32")
    >>> print(keras.ops.convert_to_numpy(layer(x, training=True)))
    [[-1. -1.]
     [ 1.  1.]]
    >>> print(keras.ops.convert_to_numpy(layer.moving_mean))
    [ 2. 20.]

    Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), algorithms 1 and 2.
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
        renorm=False,
        renorm_clipping=None,
        renorm_momentum=0.99,
        synchronized=False,
        *,
        warmup=True,
        virtual_batch_size=None,
        **kwargs,
    ):
        if renorm:
            raise ValueError(
                "Batch renormalization is not part of this layer. "
                f"Received: renorm={renorm}. Use keras.layers.BatchNormalization(renorm=True)."
            )
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
            synchronized=synchronized,
            warmup=warmup,
            virtual_batch_size=virtual_batch_size,
            **kwargs,
        )
        self.renorm = renorm
        self.renorm_clipping = renorm_clipping
        self.renorm_momentum = renorm_momentum

    def normalize(self, x, mask, training):
        if self.synchronized or self.overrides(BatchNormalization):
            return super().normalize(x, mask, training)
        gamma, beta = self.parameters(x.dtype)
        if training:
            y, statistics = closed_form.batch(x, mask, gamma, beta, self.epsilon, self.virtual_batch_size)
            self.update(statistics)
            return y
        if mask is None and closed_form.fits_fused_kernel(x, self.epsilon):
            known = ops.convert_to_tensor(self.moving_mean), ops.convert_to_tensor(self.moving_variance)
            return closed_form.batch_known(x, gamma, beta, *known, self.epsilon)
        return super().normalize(x, mask, training)

    def get_config(self):
        config = {
            "renorm": self.renorm,
            "renorm_clipping": self.renorm_clipping,
            "renorm_momentum": self.renorm_momentum,
        }
        return {**super().get_config(), **config}
