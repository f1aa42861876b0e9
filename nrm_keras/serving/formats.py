"""Other runtimes' files: ONNX and LiteRT, of the model without resizing, strings and signatures."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from nrm_keras.errors import UserError

FILES = {"onnx": "model.onnx", "litert": "model.tflite"}
_NEEDS = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}


def require(format: str) -> None:
    """Checks that a format's converter and runtime are installed.

    Raises:
        UserError: they aren't.
    """
    missing = [name for name in _NEEDS[format] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format {format} needs {' and '.join(_NEEDS[format])}. Received: no {' and no '.join(missing)} here."
            f" pip install 'nrm_keras[{format}]' installs what is needed."
        )


def write(path: Path, model: keras.Model, format: str) -> None:
    """Writes the model as one file, with a dynamic batch.

    Args:
        model: from named inputs of fixed size to one named output, see `Interface.portable`.

    Raises:
        UserError: the format can't express the model.
    """
    _require_expressible(model, format)
    converter = {"onnx": _onnx, "litert": _litert}[format]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            converter(path, model)
    except Exception as error:  # whatever a converter meets that it doesn't know
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"--format {format} can't express this model. Received: {reason.strip()}. Export a SavedModel: leave --format out."
        ) from error


def _require_expressible(model: keras.Model, format: str) -> None:
    if any(x.dtype == "string" for x in model.inputs):
        raise UserError(
            f"--format {format} takes numbers. Received: a model of texts, whose words are looked up inside."
            " Export a SavedModel: leave --format out."
        )
    precisions = {layer.compute_dtype for layer in model._flatten_layers() if not isinstance(layer, keras.Model)}
    unknown = precisions & ({"bfloat16"} if format == "onnx" else {"bfloat16", "float16"})
    if unknown:
        raise UserError(
            f"--format {format} computes in float32{' or float16' if format == 'onnx' else ''} here."
            f" Received: a model that computes in {', '.join(sorted(unknown))}. Export a SavedModel, or train with"
            " train.precision=float32."
        )


def _onnx(path: Path, model: keras.Model) -> None:
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    model(model.input)  # or Keras takes it for a model that was never called
    model.export(path, format="onnx", verbose=False)


def _litert(path: Path, model: keras.Model) -> None:
    # not model.export, which takes operations that only TensorFlow itself runs ("Flex")
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        path.write_bytes(converter.convert())
