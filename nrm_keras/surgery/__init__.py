"""Changing the normalization of a model that is there already."""

from nrm_keras.surgery.recalibration import Recalibration as Recalibration
from nrm_keras.surgery.recalibration import recalibrate as recalibrate
from nrm_keras.surgery.swapping import SwapReport as SwapReport
from nrm_keras.surgery.swapping import swap_normalization as swap_normalization
