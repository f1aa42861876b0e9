"""Which layers of a model are watched, and what they are called."""

import collections
import fnmatch
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import keras

from nrm_keras.surgery.structure import is_normalizer

ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
    keras.layers.Softmax,
)
# They call what is inside of them once for each time, in a graph of its own.
LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)


class Place(NamedTuple):
    """A layer that can be watched, under a name that no other one in the model has."""

    name: str
    layer: keras.layers.Layer

    @property
    def weights(self) -> list[keras.Variable]:
        """The layer's weights, without those of layers inside that are places of their own."""
        if isinstance(self.layer, LOOPS):
            return self.layer.weights
        return [*self.layer._trainable_variables, *self.layer._non_trainable_variables]

    @property
    def kernels(self) -> list[keras.Variable]:
        """The matrices among them; no gamma, beta or bias."""
        return [v for v in self.weights if self.has_kernel(v)]

    def has_kernel(self, variable) -> bool:
        return len(variable.shape) >= 2 and not is_normalizer(self.layer) and "bias" not in variable.name


def places_of(model: keras.Model) -> list[Place]:
    """Layers without layers inside, and layers with weights of their own, in the model's order.

    Inside a layer that is no model, such as MultiHeadAttention, the name is "outer/inner". Where the model has another
    one of that name it is the whole path, and if that is not enough a number stands behind a colon.
    """
    paths: dict = {}
    for name, path, layer in _candidates(model, "", ""):
        paths.setdefault(layer, (name, path))  # a layer may be there by several ways
    counts = collections.Counter(name for name, _ in paths.values())
    found, seen = [], collections.Counter()
    for layer, (name, path) in paths.items():
        own = name if counts[name] == 1 else path
        seen[own] += 1
        found.append(Place(own if seen[own] == 1 else f"{own}:{seen[own]}", layer))
    return found


class Places:
    """The layers of a model whose calls are watched.

    Args:
        model: a built `keras.Model`.
        layers: what to watch. None: layers with weights, normalizers, activations, and whatever feeds one of the latter
            two. Otherwise a list of names, patterns such as `"stage_1*"` (`fnmatch`), classes, or layers.

    Raises:
        ValueError: one of `layers` is in the model nowhere.
        TypeError: one of `layers` is something else.
    """

    def __init__(self, model: keras.Model, layers: Sequence | None = None):
        self._places = places_of(model)
        self.candidates = [place.layer for place in self._places]
        self._names = {id(place.layer): place.name for place in self._places}
        self._everything_that_matters = layers is None
        self._chosen = {id(layer) for layer in self.candidates if layers is None and _matters(layer)}
        for wish in [] if layers is None else [layers] if isinstance(layers, (str, type)) else layers:
            self._chosen |= {id(layer) for layer in self._matching(wish)}

    def name(self, layer: keras.layers.Layer) -> str:
        """The layer's name among the model's places."""
        return self._names.get(id(layer), layer.name)

    def choose(self, calls: Sequence) -> list:
        """Those of the calls of one step that are watched, in their order."""
        feeding = set()
        if self._everything_that_matters:
            feeding = {id(c.input) for c in calls if is_normalizer(c.layer) or is_activation(c.layer)}
        return [call for call in calls if id(call.layer) in self._chosen or id(call.output) in feeding]

    def _matching(self, wish):
        if isinstance(wish, str):
            found = [
                place.layer
                for place in self._places
                if any(
                    fnmatch.fnmatchcase(name, wish) for name in (place.name, place.layer.name, place.layer.path or "")
                )
            ]
        elif isinstance(wish, type):
            found = [layer for layer in self.candidates if isinstance(layer, wish)]
        elif isinstance(wish, keras.layers.Layer):
            found = [layer for layer in self.candidates if layer is wish]
        else:
            raise TypeError(
                "`layers` must list names, patterns, classes or layers. "
                f"Received: {wish!r} of type {type(wish).__name__}. Pass layers=None for all that matter."
            )
        if not found:
            known = ", ".join(place.name for place in self._places[:20])
            raise ValueError(
                f"Each of `layers` must be found in the model. Received: {wish!r}, which matches none. "
                f"The model has {known}{', ...' if len(self._places) > 20 else ''}."
            )
        return found


def is_activation(layer: keras.layers.Layer) -> bool:
    """Whether the layer is an activation and nothing else."""
    return isinstance(layer, ACTIVATIONS)


def _candidates(layer, prefix: str, path: str) -> Iterator[tuple[str, str, keras.layers.Layer]]:
    for part in layer._flatten_layers(include_self=False, recursive=False):
        inside = "" if isinstance(part, keras.Model) else f"{prefix}{part.name}/"
        inner = [] if isinstance(part, LOOPS) else list(_candidates(part, inside, f"{path}{part.name}/"))
        if not inner or part._trainable_variables or part._non_trainable_variables:
            yield prefix + part.name, path + part.name, part
        yield from inner


def _matters(layer):
    preprocessing = layer.__class__.__module__.startswith("keras.src.layers.preprocessing")
    return bool(layer.weights) and not preprocessing or is_normalizer(layer) or is_activation(layer)
