"""What layers represent: effective rank, saturation, and similarity by CKA."""

import contextlib
import dataclasses
import fnmatch
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from nrm_keras.surgery.meter import calling

# Spread below this share of the size is rounding of a constant.
_CONSTANT = 1e-12


def effective_rank(matrix: np.ndarray) -> float:
    """Equation: `exp(-sum p log p)`, `p = sigma / sum sigma` over the singular values; 0 for zeros, NaN if a value is.

    Args:
        matrix: singular values (k,), a matrix, or a kernel, taken as (..., outputs).

    >>> import numpy as np
    >>> from nrm_keras.diagnostics.representations import effective_rank
    >>> round(effective_rank(np.eye(3)), 6), round(effective_rank(np.ones((3, 3))), 6)
    (3.0, 1.0)

    Source: Roy & Vetterli 2007, "The effective rank".
    """
    values = np.asarray(matrix, "float64")
    if not np.all(np.isfinite(values)):
        return float("nan")
    if values.ndim > 1:
        values = np.linalg.svd(values.reshape(-1, values.shape[-1]), compute_uv=False)
    p = values[values > 0] / (np.sum(values) or 1.0)
    return float(np.exp(-np.sum(p * np.log(p)))) if p.size else 0.0


def saturation(values: np.ndarray, share: float = 0.99) -> float:
    """The smallest k whose k largest eigenvalues of the covariance have this share of their sum, over the dimension.

    Args:
        values: eigenvalues (d,), or activations (..., d): all but the last axis are observations.
        share: of the variance, delve's delta.

    Returns:
        In (0, 1]; 0 for constant activations, NaN if a value is.

    >>> import numpy as np
    >>> from nrm_keras.diagnostics.representations import saturation
    >>> saturation(np.array([98.0, 1.5, 0.4, 0.1]))
    0.5

    Source: Richter et al. 2020 (arXiv:2006.08679); delve.
    """
    values = np.asarray(values, "float64")
    if not np.all(np.isfinite(values)):
        return float("nan")
    if values.ndim > 1:
        rows = _centred(values.reshape(-1, values.shape[-1]))
        values = np.linalg.eigvalsh(rows.T @ rows)
    shares = np.cumsum(np.sort(np.maximum(values, 0.0))[::-1])
    if not shares.size or shares[-1] == 0:
        return 0.0
    # Rounding of the sum must not ask for a direction without variance.
    needed = np.searchsorted(shares, share * shares[-1] * (1 - 1e-12)) + 1
    return float(needed / len(values))


@dataclasses.dataclass(frozen=True)
class Representation:
    """A layer's outputs for n examples, as far as CKA needs them: centred (n, p) if p <= n, else their Gram matrix (n, n).

    Both are float64. Keep it to compare with a later step.
    """

    features: np.ndarray | None
    gram: np.ndarray | None

    @classmethod
    def of(cls, outputs: np.ndarray) -> "Representation":
        """That of outputs (n, ...); all but the first axis are features."""
        outputs = np.asarray(outputs, "float64")
        rows = outputs.reshape(len(outputs), -1)
        rows = _centred(rows) if np.all(np.isfinite(rows)) else np.full_like(rows, np.nan)
        if rows.shape[1] <= len(rows):
            return cls(rows, None)
        # On busy cores NumPy's product of so wide a matrix took 20 times as long.
        return cls(None, tf.matmul(rows, rows, transpose_b=True).numpy())

    @property
    def examples(self) -> int:
        return len(self.gram if self.features is None else self.features)

    def product(self, other: "Representation") -> float:
        """`||Y'X||_F^2`, which is the sum of the products of the Gram matrices' entries."""
        if self.features is not None and other.features is not None:
            return float(np.sum(np.square(other.features.T @ self.features)))
        return float(np.sum(self._gram() * other._gram()))

    def _gram(self):
        return self.features @ self.features.T if self.gram is None else self.gram


def linear_cka(x: np.ndarray | Representation, y: np.ndarray | Representation) -> float:
    """Linear centred kernel alignment of two representations of the same n examples.

    Equation: `||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F)` of centred columns. In [0, 1]; 1 for a rotation, a common factor
    and a shift. 0 if one is constant, NaN if a value is. For few examples of many features it is high by chance.

    Args:
        x, y: (n, ...), all but the first axis are features, whose number may differ; or a `Representation`.

    Raises:
        ValueError: not as many examples in both.

    >>> import numpy as np
    >>> from nrm_keras.diagnostics.representations import linear_cka
    >>> x = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
    >>> round(linear_cka(x, 3 * x[:, ::-1] + 1), 12), linear_cka(x, np.ones((3, 4)))
    (1.0, 0.0)

    Source: Kornblith et al. 2019 (arXiv:1905.00414), section 3.
    """
    x, y = (part if isinstance(part, Representation) else Representation.of(part) for part in (x, y))
    if x.examples != y.examples:
        raise ValueError(
            "CKA compares representations of the same examples. "
            f"Received: {x.examples} and {y.examples} of them. Pass outputs for the same inputs in the same order."
        )
    size = np.sqrt(x.product(x)) * np.sqrt(y.product(y))
    return float(x.product(y) / size) if size != 0 else 0.0


Representations = dict[str, Representation]


def representations(model: keras.Model, x: Any, layers: Sequence[str] | None = None) -> Representations:
    """The layers' representations of some inputs, in inference mode, to compare now or at a later step.

    All examples go through the model at once, and one layer's outputs are kept at a time: 100 to 1,000 examples are
    enough. The model is not changed.

    Args:
        model: any Keras model that can be called eagerly, subclassed ones included.
        x: inputs, an array or a structure of arrays with the examples on axis 0.
        layers: names, paths, or patterns such as "block*/conv?"; None for all layers without layers inside, wrappers
            and recurrent layers as one. Left out are outputs that are not floats or lack the examples' axis.

    Returns:
        {layer's path, or name where it has none: `Representation`} in the order of the calls; the second call of the same
        path is "path#2".

    Raises:
        ValueError: no layer has such a name.

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.diagnostics.representations import representations
    >>> layers = [keras.Input((3,)), keras.layers.Dense(2, name="first"), keras.layers.ReLU(name="second")]
    >>> model = keras.Sequential(layers, name="net")
    >>> list(representations(model, np.zeros((4, 3), "float32")))
    ['net/first', 'second']
    """
    chosen = list(_choose(model, layers))
    if not chosen:
        raise ValueError(
            "There must be a layer of such a name. "
            f"Received: layers={layers!r} for '{model.name}', which has {[_path(layer) for layer in _leaves(model)]}."
        )
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    examples, found, calls = len(keras.tree.flatten(x)[0]), {}, {}

    def take(layer, outputs):
        path = _path(layer)
        calls[path] = calls.get(path, 0) + 1
        values = _values(outputs, examples)
        if values is not None:
            found[path if calls[path] == 1 else f"{path}#{calls[path]}"] = Representation.of(values)

    with contextlib.ExitStack() as watched:
        for layer in chosen:
            watched.enter_context(_watching(layer, take))
        _infer(model, x)
    return found


def cka(
    a: keras.Model | Representations,
    b: keras.Model | Representations,
    x: Any = None,
    layers: Sequence[str] | None = None,
) -> tuple[np.ndarray, list[str], list[str]]:
    """Linear CKA between all layers of one model and all of another, or of the same model at another step.

    For two steps of one model keep `representations(model, x)` of the first and pass it as `a`.

    Args:
        a, b: each a model, or what `representations` gave for the same inputs.
        x, layers: see `representations`; for models only.

    Returns:
        The matrix (layers of a, layers of b) of `linear_cka`, and the layers' paths of its rows and columns.

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.diagnostics.representations import cka, representations
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="first")], name="net")
    >>> x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    >>> before = representations(model, x)
    >>> model.set_weights([-2 * value for value in model.get_weights()])
    >>> matrix, rows, columns = cka(before, model, x)
    >>> rows, columns, matrix.round(6).tolist()
    (['net/first'], ['net/first'], [[1.0]])
    """
    a, b = (part if isinstance(part, dict) else representations(part, x, layers) for part in (a, b))
    matrix = np.array([[linear_cka(one, other) for other in b.values()] for one in a.values()])
    return matrix.reshape(len(a), len(b)), list(a), list(b)


def _centred(rows):
    """Columns without their means, exactly 0 where constant."""
    centred = rows - np.mean(rows, axis=0) if len(rows) else rows
    constant = np.linalg.norm(centred, axis=0) <= _CONSTANT * np.linalg.norm(rows, axis=0)
    return np.where(constant, 0.0, centred)


def _path(layer):
    # Layers that have nothing to build have no path.
    return layer.path or layer.name


def _leaves(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    inner = list(layer._flatten_layers(include_self=False, recursive=False))
    whole = isinstance(layer, (keras.layers.Wrapper, keras.layers.Bidirectional, keras.layers.RNN))
    if whole or not inner:
        yield layer
        return
    for part in inner:
        yield from _leaves(part)


def _choose(model, patterns):
    layers = _leaves(model) if patterns is None else model._flatten_layers(include_self=False)
    for layer in {id(layer): layer for layer in layers}.values():
        named = patterns is None or any(
            fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in (layer.name, _path(layer))
        )
        if named and not isinstance(layer, keras.layers.InputLayer):
            yield layer


def _watching(layer, take):
    """A context in which a layer's outputs are handed over."""
    original = layer.call

    def call(*args, **kwargs):
        outputs = original(*args, **kwargs)
        take(layer, outputs)
        return outputs

    return calling(layer, call)


def _infer(model, x):
    if model._call_has_training_arg:
        model(x, training=False)
    else:
        model(x)


def _values(outputs, examples):
    """The first tensor as NumPy, if it is what CKA can use."""
    tensors = keras.tree.flatten(outputs)
    tensor = tensors[0] if tensors else None
    usable = hasattr(tensor, "numpy") and keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype))
    return tensor.numpy() if usable and len(tensor.shape) > 1 and tensor.shape[0] == examples else None
