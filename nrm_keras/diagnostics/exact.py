"""Second derivatives that are right: what TensorFlow and Keras get wrong is replaced while a graph is traced."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow.python.ops import nn_impl

_lock = threading.Lock()
_here = threading.local()
_users = 0
_original: Callable | None = None


@contextlib.contextmanager
def second_derivatives() -> Iterator[None]:
    """Within it, what this thread traces has right second derivatives through mean and variance.

    `tf.nn.moments` takes the mean inside the variance for a constant. The first derivative is right all the same, since
    `d/dmean sum((x - mean)^2)` is 0 at the mean. The second derivative lacks `-2/n^2 sum(dx_i) sum(dx_j)`. Keras' batch,
    group and layer normalization in training mode, and whatever else calls `tf.nn.moments`, inherit that. Here the
    variance is the plain formula.

    Other threads, and what was traced before, are not touched. May be nested.

    Example:

    >>> import tensorflow as tf
    >>> from nrm_keras.diagnostics.exact import second_derivatives
    >>> def hessian():
    ...     x = tf.constant([0.0, 2.0])
    ...     with tf.GradientTape() as outer:
    ...         outer.watch(x)
    ...         with tf.GradientTape() as inner:
    ...             inner.watch(x)
    ...             variance = tf.nn.moments(x, [0])[1]
    ...         gradient = inner.gradient(variance, x)
    ...     return outer.jacobian(gradient, x).numpy().tolist()
    >>> hessian()
    [[1.0, 0.0], [0.0, 1.0]]
    >>> with second_derivatives():
    ...     hessian()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    _install()
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        yield
    finally:
        _here.depth -= 1
        _uninstall()


def check(graph: tf.Graph) -> None:
    """Raises if the graph calls a `tf.function` that was traced before, with the moments of TensorFlow in it."""
    if not any(operation.type.endswith("PartitionedCall") for operation in graph.get_operations()):
        return
    for function in graph.as_graph_def().library.function:
        if any("moments/StopGradient" in node.name for node in function.node_def):
            raise ValueError(
                "Second derivatives of a normalizer in a tf.function are wrong once it has been traced. "
                f"Received: '{function.signature.name}'. Take @tf.function from the layer: Keras compiles it anyway."
            )


def _install():
    """Puts the switch in the place of the function that both `tf.nn.moments` and Keras end in."""
    global _users, _original
    with _lock:
        if _users == 0:
            _original = nn_impl.moments
            nn_impl.moments = _switch(_original)
        _users += 1


def _uninstall():
    global _users
    with _lock:
        _users -= 1
        if _users == 0:
            nn_impl.moments = _original


def _switch(original):
    @functools.wraps(original)
    def moments(x, axes, shift=None, name=None, keep_dims=None, keepdims=None):
        if not getattr(_here, "depth", 0):
            return original(x, axes, shift=shift, name=name, keep_dims=keep_dims, keepdims=keepdims)
        return _moments(tf.convert_to_tensor(x), axes, bool(keepdims or keep_dims))

    return moments


def _moments(x, axes, keepdims):
    # As in TensorFlow: float16 has too few digits for sums.
    y = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
    mean = tf.reduce_mean(y, axes, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(y, mean), axes, keepdims=True)
    if not keepdims:
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)
