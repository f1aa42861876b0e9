"""The end of a model: what its last layer takes, and whether it answers with probabilities."""

from __future__ import annotations

import keras


def features(model: keras.Model) -> keras.Model:
    """The model from the same inputs to what its last layer takes, in float32.

    The last layer is the last one with weights: activations behind it, and what brings predictions back into the units of
    their targets, don't count.
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
    return node.input_tensors[0] if _is_layer_with_weights(operation) else _taken(node.input_tensors[0])


def _is_layer_with_weights(operation) -> bool:
    return bool(getattr(operation, "weights", ())) and not isinstance(operation, keras.layers.Normalization)


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
