"""The public callbacks, in one place."""

from nrm_keras.diagnostics.callback import InternalStatistics
from nrm_keras.training.resume import ExactResume, skip_forward

__all__ = ["ExactResume", "InternalStatistics", "skip_forward"]
