"""A SavedModel as TensorFlow Serving takes it: `VERSION/` with its signatures and the requests that warm it up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.serving.exporting import heads
from nrm_keras.serving.exporting.interface import FEATURES, Interface

SERVING, MONITOR = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY, "monitor"
WARMUP = Path("assets.extra", "tf_serving_warmup_requests")
_WARM_BATCHES = (1, 64)
_WARM_BYTES = 2**23  # of a request that warms up


def functions(model: keras.Model, interface: Interface, monitor=None) -> dict[str, Callable]:
    """What each signature computes, of the inputs' tensors in the order of `interface.specs`."""
    to_features = heads.features(model)
    found = {
        SERVING: lambda *values: interface.answers(model(interface.prepare(*values), training=False)),
        FEATURES: lambda *values: {FEATURES: to_features(interface.prepare(*values), training=False)},
    }
    if monitor is not None:
        found[MONITOR] = lambda *values: monitor(interface.prepare(*values))
    return found


def write(folder: Path, model: keras.Model, interface: Interface, monitor=None) -> None:
    """Writes a SavedModel with the signatures `serving_default`, `features` and, with a monitor, `monitor`."""
    archive = keras.export.ExportArchive()
    archive.track(model)  # the monitor has nothing of its own but constants
    for name, function in functions(model, interface, monitor).items():
        archive.add_endpoint(name, tf.function(function, input_signature=interface.signature, autograph=False))
    archive.write_out(folder, verbose=False)


def write_warmup(folder: Path, name: str, requests: dict[str, np.ndarray], signatures) -> None:
    """Writes requests that TensorFlow Serving answers to itself as it loads the model, so that no client has to wait.

    One example for each signature, and a batch for `serving_default`.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    (folder / WARMUP).parent.mkdir(exist_ok=True)
    largest = max(1, _WARM_BYTES // max(1, sum(values[:1].nbytes for values in requests.values())))
    with tf.io.TFRecordWriter(str(folder / WARMUP)) as writer:
        for signature in signatures:
            for size in _WARM_BATCHES if signature == SERVING else _WARM_BATCHES[:1]:
                log = prediction_log_pb2.PredictionLog()
                request = log.predict_log.request
                request.model_spec.name = name
                request.model_spec.signature_name = signature
                for key, values in requests.items():
                    batch = np.resize(values, (min(size, largest), *values.shape[1:]))
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(batch))
                writer.write(log.SerializeToString())
