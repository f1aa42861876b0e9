"""Normalization layers for Keras 3."""

from nrm_keras.layers.adaptive import AdaptiveNormalization as AdaptiveNormalization
from nrm_keras.layers.batch import BatchNormalization as BatchNormalization
from nrm_keras.layers.domain import DomainBatchNormalization as DomainBatchNormalization
from nrm_keras.layers.group import GroupNormalization as GroupNormalization
from nrm_keras.layers.instance import InstanceNormalization as InstanceNormalization
from nrm_keras.layers.layer import LayerNormalization as LayerNormalization
from nrm_keras.layers.normalizer import Normalizer as Normalizer
from nrm_keras.layers.switchable import SwitchableNormalization as SwitchableNormalization
