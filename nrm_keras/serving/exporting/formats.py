"""Other runtimes' files: ONNX and LiteRT, of the model without resizing, strings and signatures."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from nrm_keras.errors import UserError

FILES = {"onnx": "model.onnx", "litert": "model.tflite"}
_NEEDS = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


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
    said = io.StringIO()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            # not Keras' own export to these formats: it makes constants that layers hold inputs of the ONNX model, and
            # takes operations into the LiteRT model that only TensorFlow itself runs ("Flex")
            model.export(folder, verbose=False)
            {"onnx": _onnx, "litert": _litert}[format](Path(folder), path)
    except OSError:
        raise
    except Exception as error:  # whatever a converter meets that it doesn't know
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"--format {format} can't express this model. Received: {lines[-1] if lines else type(error).__name__}."
            " Export a SavedModel: leave --format out."
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


def _onnx(folder: Path, path: Path) -> None:
    command = [sys.executable, "-P", "-m", "tf2onnx.convert", "--saved-model", str(folder), "--output", str(path)]
    done = subprocess.run([*command, "--signature_def", _SIGNATURE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)


def _litert(folder: Path, path: Path) -> None:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[_SIGNATURE])
    path.write_bytes(converter.convert())
