"""Normalization for Keras: adaptive layers, diagnostics, recipes and exact training runs.

Names are imported at first use, so that `import nrm_keras` alone does not import TensorFlow. Once Keras is imported, before or
behind it, the layers are registered, and `keras.models.load_model` finds them.
"""

import importlib
from typing import TYPE_CHECKING

from nrm_keras import keras_import
from nrm_keras.version import __version__

if TYPE_CHECKING:
    from nrm_keras import callbacks, layers
    from nrm_keras.diagnostics.diagnosis import diagnose
    from nrm_keras.registry import register
    from nrm_keras.runs.run import Run
    from nrm_keras.serving.export import export
    from nrm_keras.surgery import recalibrate, swap_normalization
    from nrm_keras.training.launch import resume, run
    from nrm_keras.training.saved import load, load_model

__all__ = [
    "Run",
    "__version__",
    "callbacks",
    "diagnose",
    "export",
    "layers",
    "load",
    "load_model",
    "recalibrate",
    "register",
    "resume",
    "run",
    "swap_normalization",
]

_HOME = {
    "callbacks": "nrm_keras.callbacks",
    "diagnose": "nrm_keras.diagnostics.diagnosis",
    "export": "nrm_keras.serving.export",
    "layers": "nrm_keras.layers",
    "register": "nrm_keras.registry",
    "Run": "nrm_keras.runs.run",
    "resume": "nrm_keras.training.launch",
    "run": "nrm_keras.training.launch",
    "load": "nrm_keras.training.saved",
    "load_model": "nrm_keras.training.saved",
    "recalibrate": "nrm_keras.surgery",
    "swap_normalization": "nrm_keras.surgery",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'nrm_keras' has no attribute {name!r}")
    module = importlib.import_module(_HOME[name])
    return module if _HOME[name] == f"nrm_keras.{name}" else getattr(module, name)


def __dir__():
    return __all__


keras_import.watch()
