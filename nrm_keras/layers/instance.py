"""Instance normalization."""

import keras

from nrm_keras.layers import closed_form
from nrm_keras.layers.moments import each_its_own
from nrm_keras.layers.normalizer import Normalizer


@keras.saving.register_keras_serializable(package="nrm_keras")
class InstanceNormalization(Normalizer):
    """Normalizes each channel of each example, alike in training and at inference.

    Equation: `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`, with mean and population variance of one
    channel over the valid positions of one example. So inputs without positions, of rank 2, give `beta`.

    Args:
        axis: Integer, the channel axis; not 0, the batch.
        epsilon: Float added to the variance.
        center: Whether to add `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer, gamma_initializer: Initializers of the weights.
        beta_regularizer, gamma_regularizer: Optional regularizers.
        beta_constraint, gamma_constraint: Optional constraints.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments: see `Normalizer`.

    Shapes and dtypes: the output has the shape of the inputs and the layer's compute dtype; weights of shape
    `(channels,)` and all mathematics are float32 at least.

    Raises:
        ValueError: in `build` and in the call as in `Normalizer`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.layers import InstanceNormalization
    >>> x = np.array([[[1.0, 10.0], [3.0, 50.0]]], "float32")
    >>> print(keras.ops.convert_to_numpy(InstanceNormalization(epsilon=0.0)(x)))
    [[[-1. -1.]
      [ 1.  1.]]]

    Source: Ulyanov et al. 2016 (arXiv:1607.08022), section 2.
    """

    def normalize(self, x, mask, training):
        if self.overrides(InstanceNormalization):
            return super().normalize(x, mask, training)
        return closed_form.mixture(x, mask, (each_its_own,), (), *self.parameters(x.dtype), self.epsilon)[0]

    def pool(self, moments, training):
        return moments.per_channel()
