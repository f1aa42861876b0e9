"""The end of a model: what its last layer takes, and whether it answers with probabilities."""

from __future__ import annotations

import keras
import numpy as np

from nrm_keras.serving.specialization.layers import Affine
from nrm_keras.surgery.structure import is_normalizer


def features(model: keras.Model) -> keras.Model:
    """The model from the same inputs to what its last layer takes, in float32.

    The last layer is the last one with weights: activations and normalizers behind it, which may be folded into it, and what
    brings predictions back into the units of their targets, don't count.
    """
    taken = keras.layers.Activation("linear", dtype="float32", name="features")(_taken(model.outputs[0]))
    return keras.Model(model.input, taken, name=f"{model.name}_features")


def _taken(tensor):
    """What the last layer in front of a symbolic tensor takes; inside of a model in the model, too."""
    operation, node_index, tensor_index = tensor._keras_history
    node = operation._inbound_nodes[node_index]
    if isinstance(operation, keras.Model):
        inside = keras.Model(operation.inputs, _taken(operation.outputs[tensor_index]), name=f"{operation.name}_inside")
        return inside(node.input_tensors)
    if len(node.input_tensors) != 1:
        return tensor
    return node.input_tensors[0] if _is_layer_with_kernel(operation) else _taken(node.input_tensors[0])


def _is_layer_with_kernel(operation) -> bool:
    without = is_normalizer(operation) or isinstance(operation, (keras.layers.Normalization, Affine))
    return bool(getattr(operation, "weights", ())) and not without


def gives_probabilities(model: keras.Model) -> bool:
    """Whether a softmax or sigmoid is the last thing that the model does."""
    operation, _, tensor_index = model.outputs[0]._keras_history
    if isinstance(operation, keras.Model):
        return gives_probabilities(keras.Model(operation.inputs, operation.outputs[tensor_index]))
    activation = getattr(operation, "activation", None)
    return type(operation).__name__ in ("Softmax", "Sigmoid") or activation in (
        keras.activations.softmax,
        keras.activations.sigmoid,
    )


def are_probabilities(outputs) -> bool:
    """Whether outputs of real examples are shares of 1: of a softmax that isn't the last thing that the model does."""
    outputs = np.asarray(outputs).astype("float64")
    return bool((outputs >= 0).all() and np.allclose(outputs.sum(-1), 1, atol=1e-2))
