"""The loss of a model without a trace in the model."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf


@contextlib.contextmanager
def single_replica() -> Iterator[None]:
    """Within it, a graph is traced as if there were no strategy: Keras would divide losses by its replicas."""
    graph = tf.compat.v1.get_default_graph()
    kept = graph._distribution_strategy_stack
    graph._distribution_strategy_stack = []
    try:
        yield
    finally:
        graph._distribution_strategy_stack = kept


class PureLoss:
    """The loss without a trace in the model, in the dtype it is to have."""

    def __init__(self, model, loss, dtype):
        self._model, self._dtype = model, dtype
        self._own = _in_dtype(loss, dtype) if isinstance(loss, keras.losses.Loss) else loss
        self._compiled = None if loss is not None else _private_copy(model, dtype)

    @property
    def compiled(self) -> bool:
        """Whether it is the model's own loss, with what the layers add."""
        return self._own is None

    def check(self, y):
        if self._own is not None:
            return
        if not self._model.compiled:
            raise ValueError(
                "There must be a loss. "
                f"Received: '{self._model.name}', which is not compiled. Compile it, or pass `loss=`."
            )
        if y is None and self._compiled is not None:
            raise ValueError("The model's loss needs labels. Received: y=None. Pass `y`, or another `loss=`.")

    def __call__(self, x, y, y_pred, sample_weight, training):
        if isinstance(self._own, keras.losses.Loss):
            return self._own(y, y_pred, sample_weight)
        if self._own is not None:
            values = self._own(y, keras.tree.map_structure(lambda tensor: tf.cast(tensor, self._dtype), y_pred))
            return tf.reduce_mean(values if sample_weight is None else values * tf.cast(sample_weight, values.dtype))
        with _attribute(self._model, "_compile_loss", self._compiled):
            return self._model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)


def _private_copy(model, dtype):
    """The compiled loss with metrics of its own; None if the model was compiled without."""
    compiled = getattr(model, "_compile_loss", None)
    if compiled is None:
        return None

    class PrivateLoss(type(compiled)):
        def build(self, y_true, y_pred):
            super().build(y_true, y_pred)
            self._flat_losses = [part._replace(loss=_in_dtype(part.loss, dtype)) for part in self._flat_losses]

    return _in_dtype(
        PrivateLoss(
            compiled._user_loss, compiled._user_loss_weights, compiled.reduction, output_names=compiled.output_names
        ),
        dtype,
    )


def _in_dtype(loss, dtype):
    """A copy that computes in float64, if that is the dtype. Keras' losses cast to float32, unless told otherwise."""
    # Keras' losses can't be copied by `copy`, which would serialize them.
    clone = object.__new__(type(loss))
    clone.__dict__.update(loss.__dict__)
    if dtype == "float64":
        clone._dtype = dtype
    return clone


@contextlib.contextmanager
def _attribute(model, name, value):
    # Keras' own __setattr__ would track what is only lent.
    kept = model.__dict__[name]
    model.__dict__[name] = value
    try:
        yield
    finally:
        model.__dict__[name] = kept
