"""Dead and saturated units, from arrays of activations."""

import keras
import numpy as np

# What is 0 with gradient 0 on a half-line. LeakyReLU, ELU, GELU and the like keep a gradient.
CAN_DIE = frozenset({"relu", "relu6", "sparse_plus"})
# (lower bound, upper bound) of the bounded ones. Softmax is not here: an output that is sure of itself is not sick.
BOUNDS = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "sparse_sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "hard_tanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
}
MARGIN = 0.01
_CLASSES = {
    keras.layers.LeakyReLU: "leaky_relu",
    keras.layers.PReLU: "leaky_relu",
    keras.layers.ELU: "elu",
    keras.layers.Softmax: "softmax",
}
_AROUND = {keras.layers.Wrapper: "layer", keras.layers.Bidirectional: "forward_layer", keras.layers.RNN: "cell"}
_FUNCTIONS = frozenset(name for name in vars(keras.activations) if name[0] != "_") - {"get", "serialize", "deserialize"}


def activation_kind(layer: keras.layers.Layer) -> str | None:
    """The nonlinearity that makes a layer's outputs, by the name that Keras gives it, such as "relu" or "tanh".

    A ReLU with a negative slope is "leaky_relu". Wrappers have the kind of what they wrap, recurrent layers that of
    their outputs. None for a linear layer, one without activation, and a function that Keras does not know, a
    `functools.partial` included.

    >>> import keras
    >>> from nrm_keras.diagnostics.units import activation_kind
    >>> activation_kind(keras.layers.Conv2D(8, 3, activation="relu")), activation_kind(keras.layers.LSTM(8))
    ('relu', 'tanh')
    >>> activation_kind(keras.layers.Dense(8)) is None
    True
    """
    if isinstance(layer, keras.layers.ReLU):
        return "leaky_relu" if np.any(np.asarray(layer.negative_slope)) else "relu"
    for kind, name in _CLASSES.items():
        if isinstance(layer, kind):
            return name
    for kind, inner in _AROUND.items():
        if isinstance(layer, kind):
            return activation_kind(getattr(layer, inner))
    activation = getattr(layer, "activation", None)
    if isinstance(activation, keras.layers.Layer):
        return activation_kind(activation)
    name = getattr(activation, "__name__", None)
    return name if name in _FUNCTIONS and name != "linear" else None


def dead(level: np.ndarray, kind: str | None) -> np.ndarray:
    """Which channels are dead: an activation that can die, <= 0 for every example and position.

    From the first example on, more of them never make more channels dead. Nothing is said of a channel without
    examples (level -inf), or with NaN: both count as alive.

    Args:
        level: each channel's largest or mean activation over all examples and positions, (channels,). What can die is
            never negative, so that both are 0 for the same channels.
        kind: `activation_kind`.

    Returns:
        bool, (channels,).

    >>> import numpy as np
    >>> from nrm_keras.diagnostics.units import dead
    >>> dead(np.array([0.0, 2.0]), "relu").tolist(), dead(np.array([-1.0, 2.0]), "elu").tolist()
    ([True, False], [False, False])
    """
    level = np.asarray(level)
    return (level <= 0) & (level > -np.inf) & (kind in CAN_DIE)


def saturated(sample: np.ndarray, kind: str | None, axis: int = -1) -> np.ndarray:
    """Each channel's share of values within 0.01 of a bound of the activation: tanh |y| > 0.99, sigmoid < 0.01 or > 0.99.

    Args:
        sample: activations of any shape with channels on `axis`. Values that are not finite don't count.
        kind: `activation_kind`.
        axis: of the channels.

    Returns:
        Shares in [0, 1], (channels,); 0 for unbounded activations and where there is no value.

    >>> import numpy as np
    >>> from nrm_keras.diagnostics.units import saturated
    >>> saturated(np.array([[0.0, 0.999], [0.5, -0.2]]), "tanh").tolist()
    [0.0, 0.5]
    """
    rows = _rows(sample, axis)
    if kind not in BOUNDS:
        return np.zeros(rows.shape[1])
    low, high = BOUNDS[kind]
    finite = np.isfinite(rows)
    near = finite & ((rows < low + MARGIN) | (rows > high - MARGIN))
    return near.sum(axis=0) / np.maximum(finite.sum(axis=0), 1)


def percentiles(sample: np.ndarray) -> np.ndarray:
    """The 15th, 50th and 85th percentile of the finite values; NaN if there are none.

    >>> import numpy as np
    >>> from nrm_keras.diagnostics.units import percentiles
    >>> percentiles(np.append(np.arange(101.0), np.nan)).tolist()
    [15.0, 50.0, 85.0]

    Source: the percentiles are those of Ioffe & Szegedy 2015, figure 1.
    """
    values = np.asarray(sample, "float32")
    values = np.sort(values[np.isfinite(values)])  # in float32 far faster than np.percentile, and as precise
    if not values.size:
        return np.full(3, np.nan)
    return np.interp(np.array([0.15, 0.5, 0.85]) * (values.size - 1), np.arange(values.size), values)


def _rows(values, axis):
    """float64, (examples and positions, channels)."""
    values = np.moveaxis(np.asarray(values, "float64"), axis, -1)
    return values.reshape(-1, values.shape[-1]) if values.size else np.empty((0, values.shape[-1]))
