"""Group normalization."""

import keras

from nrm_keras.layers import closed_form
from nrm_keras.layers.moments import over_groups
from nrm_keras.layers.normalizer import Normalizer

POSITIONS = ("pooled", "separate")


@keras.saving.register_keras_serializable(package="nrm_keras")
class GroupNormalization(Normalizer):
    """Normalizes groups of neighbouring channels of each example, alike in training and at inference.

    Equation: `y = gamma * (x - mean) / sqrt(variance + epsilon) + beta`, with mean and population variance over the
    channels of a group and the valid positions of the example, or of one position with `positions="separate"`.

    `groups=1` is the "layer norm" of convolutional papers, `groups=-1` is instance normalization, and `groups=1` with
    `positions="separate"` is the layer norm of Transformers.

    Args:
        groups: Integer that divides the number of channels, or -1 for one group per channel.
        axis: Integer, the channel axis; not 0, the batch.
        epsilon: Float added to the variance.
        center: Whether to add `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer, gamma_initializer: Initializers of the weights.
        beta_regularizer, gamma_regularizer: Optional regularizers.
        beta_constraint, gamma_constraint: Optional constraints.
        positions: "pooled", if the positions of an example share their statistics, or "separate".
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments: see `Normalizer`.

    Shapes and dtypes: the output has the shape of the inputs and the layer's compute dtype; weights of shape
    `(channels,)` and all mathematics are float32 at least.

    Raises:
        ValueError: if `groups` or `positions` is none of the above; in `build`, if `groups` does not divide the number
            of channels; in `build` and in the call as in `Normalizer`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.layers import GroupNormalization
    >>> x = np.array([[1.0, 3.0, 10.0, 30.0]], "float32")
    >>> print(keras.ops.convert_to_numpy(GroupNormalization(groups=2, epsilon=0.0)(x)))
    [[-1.  1. -1.  1.]]

    Source: Wu & He 2018 (arXiv:1803.08494), section 3.1; `groups=-1`, Ulyanov et al. 2016 (arXiv:1607.08022).
    """

    def __init__(
        self,
        groups=32,
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
        *,
        positions="pooled",
        **kwargs,
    ):
        check_groups(groups)
        check_choice("positions", positions, POSITIONS)
        super().__init__(
            axis=axis,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            **kwargs,
        )
        self.groups = groups
        self.positions = positions

    def build(self, input_shape):
        super().build(input_shape)
        self._resolved_groups = resolve_groups(self.groups, input_shape[self.axis])

    def normalize(self, x, mask, training):
        if self.overrides(GroupNormalization):
            return super().normalize(x, mask, training)
        gamma, beta = self.parameters(x.dtype)
        if self.positions == "separate" or x.shape[1] == x.shape[3] == 1:
            return closed_form.positions(x, gamma, beta, self.epsilon, self._resolved_groups)
        y, _ = closed_form.mixture(x, mask, (over_groups(self._resolved_groups),), (), gamma, beta, self.epsilon)
        return y

    def pool(self, moments, training):
        return moments.over_groups(self._resolved_groups)

    def get_config(self):
        return {**super().get_config(), "groups": self.groups, "positions": self.positions}


def check_choice(name: str, value: object, choices: tuple) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value!r}. Pass one of them.")


def check_groups(groups: int) -> None:
    """Raises unless `groups` is an integer that can be a number of groups, or -1."""
    if not isinstance(groups, int) or (groups <= 0 and groups != -1):
        raise ValueError(
            "Invalid value for argument `groups`: it must be a positive integer, or -1 for one group per channel. "
            f"Received: groups={groups!r}. Pass a divisor of the number of channels."
        )


def resolve_groups(groups: int, channels: int) -> int:
    """The number of groups among `channels` channels that `groups` stands for; raises if it cannot be."""
    resolved = channels if groups == -1 else groups
    if resolved > channels:
        raise ValueError(
            f"The number of groups ({groups}) cannot be more than the number of channels ({channels}). "
            f"Received: groups={groups}. Pass a divisor of {channels}."
        )
    if channels % resolved != 0:
        raise ValueError(
            f"The number of channels ({channels}) must be a multiple of the number of groups ({groups}). "
            f"Received: groups={groups}. Pass a divisor of {channels}."
        )
    return resolved
