"""Running statistics, for the layers that normalize with those of the training batches at inference."""

from collections.abc import Iterator

import keras
from keras import initializers, ops

from nrm_keras.layers.moments import Moments, Pooled, Tensor, average_rows, per_channel
from nrm_keras.layers.normalizer import Normalizer

# As many updates behind it as make the warm-up's momentum 1 in float32, above any `momentum`.
CONVERGED = 1e9


@keras.saving.register_keras_serializable(package="nrm_keras")
class RunningNormalizer(Normalizer):
    """Base layer: batch statistics in training, their running average at inference.

    Equation: `moving = momentum_t * moving + (1 - momentum_t) * batch`, with `momentum_t = min(momentum, t / (t + 9))`
    after t updates (`warmup=True`), or `momentum_t = momentum`. So the first batch (t = 0) replaces the initial values
    altogether, and the average's memory grows with the number of updates up to that of `momentum`.

    A batch without a valid example, or with a statistic that is not finite, leaves the running statistics alone.
    Under tf.distribute the replicas' running statistics are averaged at each update.

    Args:
        momentum: Float in [0, 1], what an update keeps of the running statistics.
        moving_mean_initializer, moving_variance_initializer: Initializers, "zeros" and "ones" by default.
        synchronized: Whether batch statistics are those of all replicas together. TensorFlow only.
        warmup: Whether the momentum starts at 0. It costs one more variable, the number of updates; weights that lack
            it, such as those of Keras' layer, load as if converged.
        virtual_batch_size: How many examples, in their order, share their statistics in training; the last ones may be
            fewer. None means the whole batch. The running statistics then average those of the virtual batches
            ("ghost batch normalization", Hoffer et al. 2017, arXiv:1705.08741, section 4).
        **kwargs: Arguments of `Normalizer`.

    Source: running averages, Ioffe & Szegedy 2015 (arXiv:1502.03167), section 3.1.
    """

    def __init__(
        self,
        momentum=0.99,
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        synchronized=False,
        warmup=True,
        virtual_batch_size=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        _check_virtual_batch_size(virtual_batch_size, synchronized)
        if synchronized and keras.backend.backend() != "tensorflow":
            raise ValueError(
                "`synchronized=True` needs the TensorFlow backend. "
                f"Received: backend {keras.backend.backend()!r}. Leave `synchronized` at False."
            )
        self.momentum = float(momentum)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.synchronized = synchronized
        self.warmup = warmup
        self.virtual_batch_size = virtual_batch_size
        self.moving_mean = None
        self.moving_variance = None
        self.update_count = None

    def build(self, input_shape):
        super().build(input_shape)
        shape = (input_shape[self.axis],)
        self.moving_mean = self.add_running_statistic("moving_mean", shape, self.moving_mean_initializer)
        self.moving_variance = self.add_running_statistic("moving_variance", shape, self.moving_variance_initializer)
        if self.warmup:
            self.update_count = self.add_running_statistic("update_count", (), "zeros")

    def add_running_statistic(self, name, shape, initializer):
        """Adds a variable that is the same on all replicas. Keras' default lets each replica keep its own."""
        return self.add_precise_weight(
            name=name, shape=shape, initializer=initializer, trainable=False, aggregation="mean"
        )

    def measure(self, x, mask, training):
        # At inference no example moves the shift: answers don't depend on the request an example arrives in.
        shift = None if training else self.running(x.dtype).reference
        return Moments(x, mask, shift=shift)

    def pool(self, moments, training):
        pooled = self.statistics(moments, training)
        return moments.from_shift(pooled), pooled.variance

    def statistics(self, moments: Moments, training: bool) -> Pooled:
        """The batch's statistics, which move the running ones; at inference, the running ones in their place."""
        if not training:
            return self.running(moments.shift.dtype)
        pooled = moments.batch(self.synchronized, self.virtual_batch_size)
        self.update(pooled)
        return pooled

    def running(self, dtype: str) -> Pooled:
        """The running statistics in the batch's form."""
        mean, variance = per_channel(self.moving_mean, dtype), per_channel(self.moving_variance, dtype)
        return Pooled(weight=None, reference=mean, mean=ops.zeros_like(mean), variance=variance, examples=None)

    def batch_values(self, pooled: Pooled) -> Iterator[tuple[keras.Variable, Tensor]]:
        """(variable, its value in this batch) for each running statistic."""
        yield self.moving_mean, ops.reshape(pooled.reference + pooled.mean, (-1,))
        yield self.moving_variance, ops.reshape(pooled.variance, (-1,))

    def update(self, pooled: Pooled) -> None:
        """Moves the running statistics, unless the batch has none worth keeping."""
        if self.virtual_batch_size is not None:
            pooled = average_rows(pooled)
        # A mean that is not finite makes the variance about it so.
        usable = ops.all(ops.logical_and(pooled.weight > 0, ops.isfinite(pooled.variance)))
        momentum = ops.where(usable, self._momentum(self.update_count), 1.0)
        rate = 1.0 - momentum
        for variable, value in self.batch_values(pooled):
            # NaN times 0 is NaN: an unusable value must not be there at all.
            value = ops.where(usable, ops.cast(value, variable.dtype), 0.0)
            variable.assign(variable * momentum + value * rate)
        if self.warmup:
            self.update_count.assign(self.update_count + ops.cast(usable, self.update_count.dtype))

    def _momentum(self, updates):
        """The momentum after so many updates, which don't matter without warm-up."""
        if not self.warmup:
            # Not a plain number: operations on two of those are in floatx, whatever the layer's dtype.
            return ops.convert_to_tensor(self.momentum, self.moving_mean.dtype)
        updates = ops.convert_to_tensor(updates)
        return ops.minimum(self.momentum, updates / (updates + 9.0))

    def load_own_variables(self, store):
        counterless = [variable for variable in self.variables if variable is not self.update_count]
        if not self.warmup or not self.built or len(store.keys()) != len(counterless):
            return super().load_own_variables(store)
        for i, variable in enumerate(counterless):
            variable.assign(store[str(i)])
        self.update_count.assign(CONVERGED)

    def get_config(self):
        config = {
            "momentum": self.momentum,
            "moving_mean_initializer": initializers.serialize(self.moving_mean_initializer),
            "moving_variance_initializer": initializers.serialize(self.moving_variance_initializer),
            "synchronized": self.synchronized,
            "warmup": self.warmup,
            "virtual_batch_size": self.virtual_batch_size,
        }
        return {**super().get_config(), **config}


def _check_virtual_batch_size(size, synchronized):
    if size is None:
        return
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(
            "`virtual_batch_size` must be a positive integer, or None for the whole batch. "
            f"Received: virtual_batch_size={size!r}. Pass the number of examples that share their statistics."
        )
    if synchronized:
        raise ValueError(
            "`virtual_batch_size` makes batches smaller and `synchronized` makes them larger. "
            f"Received: virtual_batch_size={size} and synchronized=True. Leave one of them out."
        )
