"""Listens to layers and optimizers while a step is traced or runs eagerly."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from nrm_keras.surgery.meter import calling, replaced

_thread = threading.local()


class Call:
    """One call of a layer: its first input, its first output, and the loss's gradient with respect to that output."""

    def __init__(self, layer: keras.layers.Layer, first_input, output):
        self.layer, self.input, self.output = layer, first_input, output
        self.gradient: tf.Tensor | None = None

    @property
    def mask(self) -> tf.Tensor | None:
        """Keras' mask of the output, once the call is over."""
        return getattr(self.output, "_keras_mask", None)


class Update:
    """One call of an optimizer's `apply`: gradients as they came, and the variables' values before and after."""

    def __init__(self, optimizer, gradients, variables):
        self.optimizer, self.gradients, self.variables = optimizer, list(gradients), list(variables)
        self.before = [tf.identity(v) for v in self.variables]
        self.after: list[tf.Tensor] = []


class Recorder:
    """What happened in one step, on one replica."""

    def __init__(self):
        self.calls: list[Call] = []
        self.updates: list[Update] = []
        self.outputs: set[int] = set()
        self.loss = None
        self._graph = _graph()

    def tap(self, layer, inputs, outputs):
        """The outputs, of which the first is listened to where it is an activation of the step itself."""
        flat = keras.tree.flatten(outputs)
        first = flat[0] if flat else None
        # Tensors of a loop or a nested function are not there at the end of the step.
        if not _is_activation_tensor(first) or _graph() is not self._graph:
            return outputs
        call = Call(layer, next(iter(keras.tree.flatten(inputs)), None), first)
        self.calls.append(call)
        if _is_raw_probability(first):
            return outputs

        @tf.custom_gradient
        def listen(values):
            def gradient(slope):
                # A second tape asks again; the last to ask has the whole gradient.
                call.gradient = slope if _graph() is self._graph else None
                return slope

            return tf.identity(values), gradient

        call.output = _with_attributes(listen(first), first)
        return keras.tree.pack_sequence_as(outputs, [call.output, *flat[1:]])


def is_recording() -> bool:
    return getattr(_thread, "recorder", None) is not None


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """Records what this thread does within."""
    before = getattr(_thread, "recorder", None)
    _thread.recorder = Recorder()
    try:
        yield _thread.recorder
    finally:
        _thread.recorder = before


@contextlib.contextmanager
def hooks(
    layers: Sequence[keras.layers.Layer] = (), optimizers: Sequence = (), silent: Sequence = (), models: Sequence = ()
):
    """Within it, calls of the layers and of the optimizers' `apply` reach the recorder of the thread that makes them.

    The hooks are in the objects' own dictionaries, so neither their classes nor what Keras tracks of them change, and
    the objects are as before at the end, whatever happens.

    Args:
        layers: layers to listen to.
        optimizers: optimizers to listen to.
        silent: layers that are called with `training=False`.
        models: models whose outputs are to be known as such.
    """
    with contextlib.ExitStack() as undo:
        for layer in silent:
            undo.enter_context(calling(layer, _silenced(layer.call)))
        for layer in layers:
            undo.enter_context(calling(layer, _tapped(layer, layer.call)))
        for model in models:
            undo.enter_context(calling(model, _noted(model.call)))
        for optimizer in optimizers:
            undo.enter_context(replaced(optimizer, "apply", _observed(optimizer, optimizer.apply)))
            undo.enter_context(replaced(optimizer, "scale_loss", _overheard(optimizer.scale_loss)))
        yield


def optimizers_of(model: keras.Model) -> list:
    """The model's optimizers: the one it is compiled with, and others that a train_step of its own may use."""
    found = [model.optimizer, *vars(model).values()]
    return list({id(o): o for o in found if isinstance(o, keras.optimizers.Optimizer)}.values())


def inner_optimizer(optimizer):
    """The one that has the settings, inside the one that scales the loss in mixed precision."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _tapped(layer, original):
    def call(*args, **kwargs):
        outputs = original(*args, **kwargs)
        if not is_recording():
            return outputs
        return _thread.recorder.tap(layer, args or kwargs, outputs)

    return call


def _noted(original):
    def call(*args, **kwargs):
        outputs = original(*args, **kwargs)
        if is_recording():
            _thread.recorder.outputs |= {id(tensor) for tensor in keras.tree.flatten(outputs)}
        return outputs

    return call


def _silenced(original):
    return lambda *args, **kwargs: original(*args, **kwargs | ({"training": False} if "training" in kwargs else {}))


def _observed(optimizer, original):
    def apply(gradients, trainable_variables=None):
        if not is_recording():
            return original(gradients, trainable_variables)
        gradients = list(gradients)
        variables = optimizer._trainable_variables if trainable_variables is None else list(trainable_variables)
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        update = Update(optimizer, *zip(*pairs, strict=True)) if pairs else None
        result = original(gradients, variables)
        if update and _graph() is _thread.recorder._graph:
            update.after = [tf.identity(v) for v in update.variables]
            _thread.recorder.updates.append(update)
        return result

    return apply


def _overheard(original):
    def scale_loss(loss):
        if is_recording() and _graph() is _thread.recorder._graph:
            _thread.recorder.loss = loss
        return original(loss)

    return scale_loss


def _with_attributes(values, original):
    """The values with what Keras hangs on a tensor: its mask, and the logits that the loss reads in its place."""
    for name in ("_keras_mask", "_keras_logits"):
        attribute = getattr(original, name, None)
        if attribute is not None:
            setattr(values, name, attribute)
    return values


def _is_raw_probability(values) -> bool:
    """Whether Keras' losses would look at what made the values, and find the logits there: it must stay where it is."""
    if _graph() is None or hasattr(values, "_keras_logits"):
        return False
    return values.op.type in ("Softmax", "Sigmoid")


def _graph():
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _is_activation_tensor(value) -> bool:
    return isinstance(value, tf.Tensor) and value.dtype.is_floating and bool(value.shape.rank) and value.shape.rank > 1
