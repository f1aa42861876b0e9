"""The loss of a model on one batch as a pure function of its trainable variables, with exact second derivatives."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.diagnostics import exact
from nrm_keras.diagnostics.pure_loss import PureLoss, single_replica

Values = Sequence[Any]
# Of a model with float16 in it the loss is multiplied by this while it is differentiated, or small gradients would be 0.
FLOAT16_SCALE = 2.0**12


class Objective:
    """The loss of a Keras model on one fixed batch as a function of its trainable variables.

    Equation: `L(theta) = loss(y, model(x; theta)) + losses the layers add + regularization`, gradient `dL/dtheta`, and
    products of the Hessian with a vector, `d/de gradient(theta + e v)` at e = 0.

    Nothing of the model changes, whatever is called: variables, running statistics, seeds, metrics, optimizer. With
    `training=True`, the mode that is trained, normalizers use the batch's statistics, and dropout masks are those that
    the seeds gave when the objective was made. With `training=False` all is as at inference. Second derivatives are
    right in both modes, which in training mode TensorFlow's are not, see `exact`. What a layer itself takes for a constant
    stays one: batch renormalization's corrections, the vectors of spectral normalization.

    All in `values` and `vectors` is either a list like `variables` or one flat tensor, the variables one after the
    other; a gradient or product comes back in the same form, flat by default. `values=None` are the model's present
    values. Whatever else the model has, such as running statistics, is as it is at the time of the call.

    Args:
        model: a built `keras.Model` of any kind.
        x: inputs as for `model.fit`: an array, or a list or dict of arrays.
        y: labels, in the same forms; None where the loss needs none.
        sample_weight: as for `model.fit`.
        training: whether in training mode.
        loss: None for what the model was compiled with, `model.compute_loss`. A `keras.losses.Loss`, or a callable
            `loss(y, y_pred)` whose mean is taken, is instead all of the objective: nothing is added to it.
        variables: trainable `keras.Variable`s of the model; all by default.

    On a GPU, Keras' LSTM and GRU have second derivatives with `use_cudnn=False` only.

    Dtypes: flat vectors and results are float64 if a variable is, and then so is the loss, whatever dtype the model's
    Keras losses have. Otherwise they are float32, which with layers that compute in float16 or bfloat16 says nothing of
    the precision: `compute_dtypes` tells. Gradients are never scaled.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: the model is not built, has no trainable variable or no loss; for second derivatives, it has a
            normalizer in a `tf.function` of its own that was traced before.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.diagnostics.objective import Objective
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    >>> model.compile(loss="mse")
    >>> objective = Objective(model, np.eye(2), np.array([[1.0], [2.0]]))
    >>> float(objective.loss())
    2.5
    >>> objective.gradient().numpy().tolist()
    [-1.0, -2.0]
    >>> objective.hessian_vector_product(np.array([1.0, 3.0])).numpy().tolist()
    [1.0, 3.0]

    Source: double backward, Pearlmutter 1994, "Fast exact multiplication by the Hessian".
    """

    def __init__(
        self,
        model: keras.Model,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        training: bool = True,
        loss: Callable | None = None,
        variables: Sequence[keras.Variable] | None = None,
    ):
        _check_model(model)
        self.model = model
        self.training = bool(training)
        self.variables = list(model.trainable_variables if variables is None else variables)
        _check_variables(model, self.variables)
        self.shapes = [tuple(variable.shape) for variable in self.variables]
        self.sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.size = sum(self.sizes)
        self.dtype = "float64" if any(v.dtype == "float64" for v in self.variables) else "float32"
        self.compute_dtypes = _compute_dtypes(model)
        self._scale = FLOAT16_SCALE if "float16" in self.compute_dtypes else 1.0
        self._loss = PureLoss(model, loss, self.dtype)
        self._seeds = [(seed.state, tf.identity(seed.state.value)) for seed in _seed_generators(model)]
        self.set_batch(x, y, sample_weight)
        self._functions = {
            name: tf.function(function, autograph=False, reduce_retracing=True)
            for name, function in {
                "loss": self._loss_graph,
                "gradient": self._gradient_graph,
                "product": self._product_graph,
            }.items()
        }

    @property
    def mode(self) -> str:
        """ "training" or "inference"."""
        return "training" if self.training else "inference"

    @property
    def regularized(self) -> bool:
        """Whether weight regularizers are part of the loss."""
        return self._loss.compiled

    def set_batch(self, x: Any, y: Any = None, sample_weight: Any = None) -> None:
        """Takes another batch. One of the same shapes and dtypes costs no new trace."""
        self._loss.check(y)
        self._batch = tuple(
            keras.tree.map_structure(lambda a: None if a is None else tf.convert_to_tensor(a), part)
            for part in (x, y, sample_weight)
        )

    def loss(self, values: Values | None = None) -> tf.Tensor:
        """L, a scalar."""
        return self._functions["loss"](self._values(values), self._batch)

    def gradient(self, values: Values | None = None) -> Any:
        """dL/dtheta."""
        return self.loss_and_gradient(values)[1]

    def loss_and_gradient(self, values: Values | None = None) -> tuple[tf.Tensor, Any]:
        """L and dL/dtheta in one pass."""
        loss, gradient = self._functions["gradient"](self._values(values), self._batch)
        return loss, self.unflatten(gradient) if _is_list(values) else gradient

    def hessian_vector_product(self, vectors: Values, values: Values | None = None) -> Any:
        """H v, H the Hessian of L."""
        product = self.second_order(vectors, values)[2]
        return self.unflatten(product) if _is_list(vectors) else product

    def second_order(self, vectors: Values, values: Values | None = None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """L, dL/dtheta and H v in one pass, gradient and product flat. They cost no more than the product alone."""
        return self._functions["product"](self._values(values), self.flat(vectors), self._batch)

    def flatten(self, tensors: Values) -> tf.Tensor:
        """One vector from a list of tensors like the variables."""
        return tf.concat([tf.reshape(tf.cast(tensor, self.dtype), (-1,)) for tensor in tensors], 0)

    def unflatten(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """A list of tensors like the variables from one vector."""
        parts = tf.split(tf.cast(vector, self.dtype), self.sizes)
        return [
            tf.cast(tf.reshape(part, shape), variable.dtype)
            for part, shape, variable in zip(parts, self.shapes, self.variables, strict=True)
        ]

    def values(self) -> tf.Tensor:
        """The variables' present values, flat."""
        return self.flatten([variable.value for variable in self.variables])

    def flat(self, tensors: Values) -> tf.Tensor:
        """`values` or `vectors` in either form as one vector, checked."""
        flat = self.flatten(tensors) if _is_list(tensors) else tf.cast(tf.convert_to_tensor(tensors), self.dtype)
        if flat.shape != (self.size,):
            raise ValueError(
                "A vector must have as many numbers as the variables together. "
                f"Received: shape {tuple(flat.shape)} for {self.size} numbers. "
                "Pass a list of tensors like `variables`, or what `flatten` makes of it."
            )
        return flat

    def _values(self, values):
        return self.values() if values is None else self.flat(values)

    def _loss_graph(self, values, batch):
        return self._forward(self.unflatten(values), batch)

    def _gradient_graph(self, values, batch):
        loss, scaled = self._scaled_gradient(values, batch)
        return loss, scaled / self._scale

    def _product_graph(self, values, vector, batch):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            loss, scaled = self._scaled_gradient(values, batch)
        product = tape.gradient(scaled, values, output_gradients=vector, unconnected_gradients="zero")
        exact.check(tf.compat.v1.get_default_graph())
        return loss, scaled / self._scale, product / self._scale

    def _scaled_gradient(self, values, batch):
        parts = self.unflatten(values)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(parts)
            loss = self._forward(parts, batch)
            scaled = loss * self._scale
        return loss, self.flatten(tape.gradient(scaled, parts, unconnected_gradients="zero"))

    def _forward(self, parts, batch):
        x, y, sample_weight = batch
        state = [*zip(self.variables, parts, strict=True), *self._seeds]
        with single_replica(), exact.second_derivatives(), keras.StatelessScope(state, collect_losses=True):
            y_pred = self.model(x, training=self.training) if _takes_training(self.model) else self.model(x)
            return tf.cast(self._loss(x, y, y_pred, sample_weight, self.training), self.dtype)


def _takes_training(model):
    return model._call_has_training_arg


def _is_list(values):
    return isinstance(values, (list, tuple))


def _seed_generators(model):
    return [seed for layer in model._flatten_layers() for seed in getattr(layer, "_seed_generators", ())]


def _compute_dtypes(model):
    return tuple(sorted({layer.compute_dtype for layer in model._flatten_layers() if layer.variables}))


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: {type(model).__name__}. Wrap layers in a model.")
    if not model.built:
        raise ValueError(
            "The model must be built, its variables have no shape yet. "
            f"Received: '{model.name}'. Call it on a batch first."
        )


def _check_variables(model, variables):
    if not variables:
        raise ValueError(
            "There must be a trainable variable. "
            f"Received: '{model.name}', which has none. Set `trainable` on a layer, or pass `variables`."
        )
    known = {id(variable) for variable in model.trainable_variables}
    foreign = [getattr(variable, "path", variable) for variable in variables if id(variable) not in known]
    if foreign:
        raise ValueError(
            "`variables` must be among model.trainable_variables. "
            f"Received: {foreign[0]!r}, which is not. Pass Keras variables of this model."
        )
