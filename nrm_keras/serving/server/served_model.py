"""A loaded SavedModel as the server sees it: signatures that map arrays to arrays."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nrm_keras.errors import UserError

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class TensorSpec:
    """What an input or output is: strings are of dtype object; a dimension that is free is None, as is a free rank."""

    dtype: np.dtype
    shape: tuple[int | None, ...] | None

    @property
    def by_row(self) -> bool:
        """Whether it has one row for each example of a request."""
        return bool(self.shape) and self.shape[0] is None

    def __str__(self):
        name = "string" if self.dtype == object else self.dtype.name
        if self.shape is None:
            return f"{name} of any shape"
        dimensions = ["any" if size is None else str(size) for size in self.shape]
        if self.by_row:
            dimensions[0] = "rows"
        return f"{name} of shape ({', '.join(dimensions)}{',' if len(dimensions) == 1 else ''})"


@dataclass(frozen=True)
class Signature:
    """One function of the model: a name for each input and output."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    run: Callable[[Arrays], dict[str, np.ndarray]] = field(repr=False)

    @property
    def by_row(self) -> bool:
        """Whether each row of the answer belongs to one row of the request, so that requests can be put together."""
        return all(spec.by_row for spec in (*self.inputs.values(), *self.outputs.values()))


@dataclass(frozen=True)
class ServedModel:
    """A model with its version and signatures; `metadata` is TensorFlow Serving's answer about them."""

    name: str
    version: int
    signatures: Mapping[str, Signature]
    metadata: Mapping
    loaded: object = field(repr=False)  # the functions live only as long as this does


def bytes_of(arrays: Arrays) -> int:
    """What arrays take, with their strings."""
    return sum(
        sum(map(sys.getsizeof, array.flat)) if array.dtype == object else array.nbytes for array in arrays.values()
    )


def newest_version(directory: Path) -> Path:
    """The version folder with the highest number, the one that TensorFlow Serving would serve."""
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"A model is served from the folder that `export` wrote. Received: {directory}, which is none.")
    versions = [path for path in directory.iterdir() if re.fullmatch("[0-9]+", path.name) and path.is_dir()]
    if not versions:
        hint = f" It is a version itself: give {directory.parent}." if (directory / "saved_model.pb").exists() else ""
        raise UserError(
            f"A served folder holds a folder for each version, named by its number. Received: {directory}, without one."
            + (hint or " Give the folder that `export` wrote.")
        )
    return max(versions, key=lambda path: int(path.name))


def load(version_dir: Path, name: str) -> ServedModel:
    """Loads a SavedModel. That can run code of it: `trust.check` comes first."""
    import tensorflow as tf
    from google.protobuf.json_format import MessageToDict

    from nrm_keras.serving.server.trust import read_graph

    try:
        loaded = tf.saved_model.load(str(version_dir))
    except Exception as error:  # whatever a damaged file makes of it
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UserError(
            f"A SavedModel that loads is served. Received: {version_dir}: {reason}. Export it again."
        ) from error
    signatures = {key: _signature(key, loaded.signatures[key]) for key in loaded.signatures}
    if not signatures:
        raise UserError(f"A served model has signatures. Received: {version_dir}, without one. Export it again.")
    definitions = {
        key: MessageToDict(definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        for key, definition in read_graph(version_dir).meta_graphs[0].signature_def.items()
        if key in signatures
    }
    version = version_dir.name
    metadata = {
        "model_spec": {"name": name, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }
    return ServedModel(name, int(version), signatures, metadata, loaded)


def _signature(name: str, function) -> Signature:
    import tensorflow as tf

    taken, given = function.structured_input_signature[1], function.structured_outputs
    _require_json(name, taken, given)
    inputs = {key: _spec(spec) for key, spec in taken.items()}
    outputs = {key: _spec(spec) for key, spec in given.items()}
    dtypes = {key: spec.dtype for key, spec in taken.items()}

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        tensors = {key: tf.constant(array, dtypes[key]) for key, array in arrays.items()}
        answers = function(**tensors)
        return {key: np.asarray(answers[key].numpy(), outputs[key].dtype) for key in outputs}

    return Signature(name, inputs, outputs, run)


def _require_json(signature: str, inputs: Mapping, outputs: Mapping) -> None:
    """Raises where JSON can't say what a signature takes and gives."""
    import tensorflow as tf

    dtypes = {name: spec.dtype for tensors in (inputs, outputs) for name, spec in tensors.items()}
    odd = [
        f"{name!r} of {dtype.name}"
        for name, dtype in dtypes.items()
        if not (dtype.is_floating or dtype.is_integer or dtype.is_bool or dtype == tf.string)
    ]
    if odd or not inputs or not outputs:
        received = ", ".join(odd) or f"no {'outputs' if inputs else 'inputs'}"
        raise UserError(
            "A served signature has inputs and outputs of real numbers, true or false, or strings. Received: signature"
            f" {signature!r} with {received}. Save the model without this signature."
        )


def _spec(spec) -> TensorSpec:
    shape = None if spec.shape.rank is None else tuple(spec.shape)
    return TensorSpec(np.dtype(spec.dtype.as_numpy_dtype), shape)
