"""The normalizers by name: what `norm: {type: ...}` in a recipe and `swap_normalization(model, to)` build."""

import functools

import keras

from nrm_keras.layers.adaptive import AdaptiveNormalization
from nrm_keras.layers.batch import BatchNormalization
from nrm_keras.layers.group import GroupNormalization
from nrm_keras.layers.instance import InstanceNormalization
from nrm_keras.layers.layer import LayerNormalization
from nrm_keras.layers.switchable import SwitchableNormalization

NAMED = {
    "batch": BatchNormalization,
    "layer": LayerNormalization,
    "sample": functools.partial(GroupNormalization, groups=1),
    "group": GroupNormalization,
    "instance": InstanceNormalization,
    "rms": keras.layers.RMSNormalization,
    "switchable": SwitchableNormalization,
    "adaptive": AdaptiveNormalization,
}
