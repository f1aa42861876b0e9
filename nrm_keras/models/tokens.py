"""What models of text share: embedded tokens, and padding that takes no part in anything."""

from __future__ import annotations

import keras
from keras import ops

from nrm_keras.errors import UserError
from nrm_keras.models.normalizers import NormFactory

PADDING = 0


@keras.saving.register_keras_serializable(package="nrm_keras")
class PaddingMask(keras.layers.Layer):
    """True where token ids `(batch, length)` are tokens, False at padding, which is 0."""

    def call(self, tokens):
        return ops.not_equal(tokens, PADDING)

    def compute_output_spec(self, tokens):
        return keras.KerasTensor(tokens.shape, "bool")


@keras.saving.register_keras_serializable(package="nrm_keras")
class AttachMask(keras.layers.Layer):
    """`[x, mask]` to x with that mask as its Keras mask, for whatever layer comes next."""

    def call(self, inputs):
        return inputs[0]

    def compute_mask(self, inputs, previous_mask=None):
        return inputs[1]

    def compute_output_shape(self, input_shape):
        return input_shape[0]


@keras.saving.register_keras_serializable(package="nrm_keras")
class AddPositions(keras.layers.Layer):
    """Adds a learned vector for each position to x `(batch, up to length, channels)` (Vaswani et al. 2017, section 3.5).

    Args:
        length: the number of positions there are vectors for.
        **kwargs: arguments of `keras.layers.Layer`.
    """

    def __init__(self, length, **kwargs):
        super().__init__(**kwargs)
        self.length = length

    def build(self, input_shape):
        self.positions = self.add_weight(
            name="positions",
            shape=(self.length, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )

    def call(self, x):
        return x + self.positions[: ops.shape(x)[1]]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "length": self.length}


@keras.saving.register_keras_serializable(package="nrm_keras")
class MaskedMean(keras.layers.Layer):
    """Mean of x `(batch, length, channels)` over the positions where the mask `(batch, length)` is True; 0 of none."""

    def call(self, x, mask):
        # float32: a sum of half-precision numbers over a long text would overflow or round
        x, weight = ops.cast(x, "float32"), ops.cast(mask, "float32")[..., None]
        mean = ops.sum(ops.where(weight > 0, x, 0), 1) / ops.maximum(ops.sum(weight, 1), 1)
        return ops.cast(mean, self.compute_dtype)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_shape(self, x_shape):
        return x_shape[0], x_shape[2]


def check_tokens(tokens, length: int, model: str) -> None:
    """Raises a `UserError` unless the symbolic tensor is one of token ids `(batch, up to length)`."""
    if len(tokens.shape) != 2 or "int" not in keras.backend.standardize_dtype(tokens.dtype):
        raise UserError(
            f"model.type {model} needs text: token ids of shape (length,). "
            f"Received: {tokens.dtype} examples of shape {tokens.shape[1:]}. Use model.type mlp or residual_mlp."
        )
    if tokens.shape[1] is not None and tokens.shape[1] > length:
        raise UserError(
            f"a text must have no more tokens than the {length} the model is made for. "
            f"Received: {tokens.shape[1]}. Cut the texts or raise the length."
        )


def normalize_tokens(x, mask, norm: NormFactory | None, name: str):
    """x `(batch, length, channels)` behind the normalizer of that name, whose statistics leave padding out."""
    if norm is None:
        return x
    normalizer = norm(name)
    # One that knows no masks, as of root mean squares, would warn of dropping it; nothing behind it relies on it.
    if getattr(normalizer, "supports_masking", True):
        x = AttachMask(name=f"{name}_mask")([x, mask])
    return normalizer(x)
