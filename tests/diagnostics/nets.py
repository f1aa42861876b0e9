"""Small nets in float64 with a normalizer of choice."""

import keras
import numpy as np
from keras import layers

from nrm_keras import layers as ours

KERAS = {
    "keras_batch": layers.BatchNormalization,
    "keras_group": lambda: layers.GroupNormalization(groups=1),
    "keras_layer": layers.LayerNormalization,
}
OURS = {
    "batch": ours.BatchNormalization,
    "adaptive": ours.AdaptiveNormalization,
    "group": lambda: ours.GroupNormalization(groups=1),
    "layer": ours.LayerNormalization,
}
NORMALIZERS = KERAS | OURS


def dense_net(normalizer):
    """Model, inputs, targets; 57 weights or so."""
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, "tanh"), normalizer(), layers.Dense(3, "softplus"), layers.Dense(2)]
    )
    return _moved(model), *_data((6, 3))


def conv_net(normalizer):
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(4, 3, padding="same"),
            normalizer(),
            layers.Activation("gelu"),
            layers.Conv2D(3, 3, strides=2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    return _moved(model), *_data((5, 4, 4, 2))


def recurrent_net():
    model = keras.Sequential(
        [keras.Input((3, 2)), layers.LSTM(3, return_sequences=True), layers.GRU(2), layers.Dense(2)]
    )
    return _moved(model), *_data((4, 3, 2))


def attention_net():
    x = keras.Input((4, 3))
    y = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 3)(x, x))
    model = keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(y)))
    return _moved(model), *_data((4, 4, 3))


def masked_net():
    x = keras.Input((4,), dtype="int32")
    y = layers.BatchNormalization()(layers.Embedding(6, 3, mask_zero=True)(x))
    model = keras.Model(x, layers.Dense(2)(layers.GlobalAveragePooling1D()(y)))
    return _moved(model), np.array([[1, 2, 0, 0], [3, 4, 5, 0], [5, 1, 2, 3]], "int32"), _data((3, 1))[1]


def _data(shape):
    random = np.random.default_rng(0)
    return random.normal(size=shape), random.normal(size=(shape[0], 2))


def _moved(model):
    # No gamma at 1 and no beta at 0: terms that vanish there must not.
    random = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1 * random.normal(size=variable.shape))
    return model
