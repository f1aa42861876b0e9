"""A copy of a model, layer by layer, with some layers exchanged."""

import inspect
import tempfile

import keras

from nrm_keras.surgery.structure import is_graph, is_sequence, is_wrapper


class Copier:
    """Copies models layer by layer. What is one layer in the original, in however many places, is one in the copy.

    Args:
        exchanged: (layer, what stands in its place in the copy; None where its input goes on as it is).
    """

    def __init__(self, exchanged: list[tuple[keras.layers.Layer, keras.layers.Layer | None]]):
        self._copies = {id(layer): other for layer, other in exchanged}
        self._exchanged = exchanged
        self._around = []
        self._leaves = []
        self.notes = []

    def copy(self, model: keras.Model) -> keras.Model:
        """A new model with the old one's state, exchanged layers apart."""
        new = self._copy(model)
        inner = [pair for leaf in self._leaves for pair in _inner_pairs(*leaf)]
        self._copy_state(self._around + inner)
        # Models and wrappers first: setting theirs sets that of all layers below.
        for old, other in self._around[::-1] + inner + self._exchanged:
            if isinstance(old, keras.layers.Layer) and other is not None and other.trainable != old.trainable:
                other.trainable = old.trainable
        return new

    def _copy(self, layer):
        if id(layer) not in self._copies:
            self._copies[id(layer)] = self._make(layer)
        return self._copies[id(layer)]

    def _make(self, layer):
        for applies, make in ((is_graph, self._graph), (is_sequence, self._sequence), (is_wrapper, self._wrapper)):
            if applies(layer):
                new = make(layer)
                # Behind those inside it.
                self._around.append((layer, new))
                return new
        new = _rebuild(layer)
        self._leaves.append((layer, new))
        return new

    def _graph(self, model):
        # Keras would compile the clone of a compiled model, and fails where it cannot rebuild the loss.
        uncompiled = keras.Model(model.input, model.output, name=model.name)
        clone = keras.models.clone_model(
            uncompiled,
            input_tensors=keras.tree.map_structure(_new_input, model.input),
            clone_function=self._copy,
            call_function=self._call,
        )
        return self._of_class(type(model), type(uncompiled), clone.input, clone.output, name=model.name)

    def _sequence(self, model):
        layers = [_new_input(tensor) for tensor in model.inputs] + [self._copy(layer) for layer in model.layers]
        layers = [layer for layer in layers if layer is not None]
        return self._of_class(type(model), keras.Sequential, layers, name=model.name)

    def _of_class(self, cls, plain, *args, **kwargs):
        if cls.__init__ is plain.__init__:
            return cls(*args, **kwargs)
        self.notes.append(
            f"'{kwargs['name']}' is a plain model in the copy: the constructor of {cls.__name__} does not take a graph, "
            "so its own methods stay behind."
        )
        return plain(*args, **kwargs)

    def _wrapper(self, wrapper):
        inner = self._copy(wrapper.layer)
        config = wrapper.get_config() | {"layer": inner, "dtype": wrapper.dtype_policy}
        return _or_explain(wrapper, lambda: type(wrapper)(**config))

    def _call(self, layer, *args, **kwargs):
        exchanged = any(layer is other for _, other in self._exchanged)
        return call_in_place(layer, *args, **kwargs) if exchanged else layer(*args, **kwargs)

    def _copy_state(self, pairs):
        counterparts = {}
        for old, new in pairs:
            if isinstance(old, keras.layers.Layer):
                _or_explain(old, lambda old=old, new=new: _copy_own_state(old, new))
                for variable, other in zip(_own_variables(old), _own_variables(new), strict=True):
                    if counterparts.setdefault(id(variable), other) is not other:
                        raise ValueError(
                            "A layer that shares weights with another one must get them through the graph of the "
                            f"model. Received: '{old.name}', which shares '{variable.name}' by code of its own. "
                            "Build the model with the normalizer you want instead."
                        )


def call_in_place(layer: keras.layers.Layer | None, *args, **kwargs):
    """Calls what stands in another layer's place, with the arguments of that one."""
    if layer is None:
        return args[0]
    # `mask` and `training` are in the graph as the old layer took them.
    taken = inspect.signature(layer.call).parameters
    return layer(*args, **{name: value for name, value in kwargs.items() if name in taken})


def _own_variables(layer):
    """All but those of inner layers; state of random generators is among them."""
    inner = {id(v) for part in layer._flatten_layers(include_self=False) for v in part.variables}
    return [variable for variable in layer.variables if id(variable) not in inner]


def _copy_own_state(old, new):
    store = {}
    old.save_own_variables(store)
    # Some layers do more on loading than to assign: Normalization works out constants.
    new.load_own_variables(store)
    for variable, other in zip(_own_variables(old), _own_variables(new), strict=True):
        other.assign(variable)
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


def _inner_pairs(old, new):
    """A layer and the layers inside it, each with its counterpart."""
    if not isinstance(old, keras.layers.Layer):
        return []
    return _or_explain(old, lambda: list(zip(old._flatten_layers(), new._flatten_layers(), strict=True)))


def _new_input(tensor):
    layer = tensor._keras_history.operation
    return type(layer).from_config(layer.get_config()).output


def _rebuild(layer):
    if isinstance(layer, keras.layers.Lambda):
        # Keras would take its function for code from an untrusted file.
        config = {"function": layer.function, "output_shape": layer._output_shape, "mask": layer.mask}
        options = {"arguments": layer.arguments, "dtype": layer.dtype_policy, "name": layer.name}
        return type(layer)(**config, **options)
    return _or_explain(layer, lambda: type(layer).from_config(layer.get_config()))


def _or_explain(layer, make):
    try:
        return make()
    except Exception as error:
        raise ValueError(
            "A layer must be rebuilt by `from_config(get_config())`, with the same weights. "
            f"Received: '{layer.name}' of {type(layer).__name__}, which fails with {type(error).__name__}: {error} "
            "Complete its `get_config`, or name what it needs in `keras.saving.custom_object_scope`."
        ) from error
