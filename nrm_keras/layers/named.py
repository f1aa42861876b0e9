"""The normalizers by name: what `norm: {type: ...}` in a recipe and `swap_normalization(model, to)` build."""

import functools

import keras

from nrm_keras.layers.adaptive import AdaptiveNormalization
from nrm_keras.layers.batch import BatchNormalization
from nrm_keras.layers.group import GroupNormalization

NAMED = {
    "batch": BatchNormalization,
    "layer": keras.layers.LayerNormalization,
    "sample": functools.partial(GroupNormalization, groups=1),
    "group": GroupNormalization,
    "instance": functools.partial(GroupNormalization, groups=-1),
    "rms": keras.layers.RMSNormalization,
    "adaptive": AdaptiveNormalization,
}
