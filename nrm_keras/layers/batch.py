"""Batch normalization."""

import keras
from keras import ops

from nrm_keras.layers import backend, kernel
from nrm_keras.layers.moments import Pooled, position_share, reshape
from nrm_keras.layers.running import RunningNormalizer

# Below, cuDNN takes another one.
SMALLEST_EPSILON = 1.001e-5


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
            **kwargs,
        )
        self.renorm = renorm
        self.renorm_clipping = renorm_clipping
        self.renorm_momentum = renorm_momentum

    def normalize(self, x, mask, training):
        if mask is not None or not self._fits_fused_kernel(x):
            return super().normalize(x, mask, training)
        channels = x.shape[2]
        # Positions stay an axis of their own: kernels of GPUs bound the first one.
        rows = ops.reshape(x, (-1, x.shape[1] or 1, 1, channels))
        gamma = ops.ones((channels,)) if self.gamma is None else ops.convert_to_tensor(self.gamma)
        beta = ops.zeros((channels,)) if self.beta is None else ops.convert_to_tensor(self.beta)
        if training:
            # The kernel loses digits to a large mean. The first example's is near enough; zeros, where there is none.
            shift = ops.stop_gradient(ops.sum(x[:1], axis=(0, 1, 3)) * position_share(x))
            known = ops.zeros((0,)), ops.zeros((0,))
            y, mean, variance = backend.fused_batch_norm(
                kernel.center(rows, shift), gamma, beta, *known, self.epsilon, training
            )
            statistics = (ops.reshape(ops.stop_gradient(v), (1, 1, -1, 1)) for v in (shift, mean, variance))
            self.update(Pooled(ops.ones(()), *statistics, examples=None))
        else:
            known = ops.convert_to_tensor(self.moving_mean), ops.convert_to_tensor(self.moving_variance)
            y, *_ = backend.fused_batch_norm(rows, gamma, beta, *known, self.epsilon, training)
        return reshape(y, tuple(x.shape), lambda: ops.shape(x))

    def _fits_fused_kernel(self, x):
        """Within the limits of TensorFlow's kernel, and where nothing that a subclass may override has a say."""
        return (
            keras.backend.backend() == "tensorflow"
            and type(self) is BatchNormalization
            and not self.synchronized
            and keras.backend.standardize_dtype(x.dtype) == "float32"
            and self.epsilon > SMALLEST_EPSILON
            and x.shape[3] == 1
            and not backend.compiled_by_xla()
        )

    def get_config(self):
        config = {
            "renorm": self.renorm,
            "renorm_clipping": self.renorm_clipping,
            "renorm_momentum": self.renorm_momentum,
        }
        return {**super().get_config(), **config}
