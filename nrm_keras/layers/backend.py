"""What the layers know of TensorFlow: on other backends there is one replica, and gradients are the backend's own."""

import keras


def gather(rows):
    """Rows of all replicas under each other along axis 0, differentiable; `rows` itself where there is one replica."""
    if keras.backend.backend() != "tensorflow":
        return rows
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return rows
    return context.all_gather(rows, axis=0)


def gradients_recorded() -> bool:
    """Whether a tape of TensorFlow may be listening. Where none is, TensorFlow can still differentiate plain operations."""
    if keras.backend.backend() != "tensorflow":
        return False
    from tensorflow.python.eager import record

    return record.could_possibly_record()


def compiled_by_xla() -> bool:
    """Whether TensorFlow is tracing what XLA will compile."""
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def has_fused_batch_norm() -> bool:
    """Whether `fused_batch_norm` is there, and the fastest."""
    return keras.backend.backend() == "tensorflow" and not compiled_by_xla()


def fused_batch_norm(x, gamma, beta, epsilon: float, known=None):
    """TensorFlow's kernel on x of shape (n, height, width, channels): y, and mean and population variance of the batch.

    With `known` statistics (mean, variance) it normalizes with these.
    """
    import tensorflow as tf

    training = known is None
    mean, variance = (tf.zeros((0,)),) * 2 if training else known
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=training
    )
    if training:
        # The kernel divides by one less than the number of values, as is right for an estimate.
        values = tf.cast(tf.size(x) // x.shape[-1], x.dtype)
        variance *= tf.maximum(values - 1, 1) / tf.maximum(values, 1)
    return y, mean, variance


def on_cpu() -> bool:
    """Whether TensorFlow has nothing but CPUs. There products with ones are the fastest sums; GPUs may round in them."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.get_visible_devices("GPU")
