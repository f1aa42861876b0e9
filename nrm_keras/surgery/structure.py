"""What a model is made of, as far as one can see into it without its code."""

from collections.abc import Iterator

import keras

from nrm_keras import layers

KNOWN = {
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
} | {cls for cls in vars(layers).values() if isinstance(cls, type) and issubclass(cls, keras.layers.Layer)}


def is_normalizer(layer: keras.layers.Layer) -> bool:
    """Whether the layer is one of Keras' or of this package's normalizers, or a subclass of one."""
    return isinstance(layer, tuple(KNOWN))


def is_graph(layer) -> bool:
    """Whether it is a functional model, not more: with a `call` of its own, the graph would not be what runs."""
    return isinstance(layer, keras.Function) and isinstance(layer, keras.Model) and not _overrides_call(layer)


def is_sequence(layer) -> bool:
    """Whether it is a sequential model, not more."""
    return isinstance(layer, keras.Sequential) and not _overrides_call(layer)


def is_wrapper(layer) -> bool:
    """Whether it is a layer around one other layer. `Bidirectional` makes copies of it, with code of its own."""
    return isinstance(layer, keras.layers.Wrapper) and not isinstance(layer, keras.layers.Bidirectional)


def _overrides_call(model):
    return not type(model).call.__module__.startswith("keras.")


def parts(layer) -> list[keras.layers.Layer]:
    """The layers that a model or a wrapper is made of; none for a layer with code of its own."""
    if is_graph(layer) or is_sequence(layer):
        return layer.layers
    return [layer.layer] if is_wrapper(layer) else []


def visible(model, path: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """(path, layer) of every layer one can exchange, however deep; a shared one as often as it occurs."""
    for part in parts(model):
        below = f"{path}/{part.name}" if path else part.name
        if parts(part):
            yield from visible(part, below)
        else:
            yield below, part


def hidden(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The normalizers inside a layer, however deep, also where its own code calls them."""
    return (inner for inner in layer._flatten_layers(include_self=False) if is_normalizer(inner))
