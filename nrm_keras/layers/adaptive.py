"""The adaptive mixer of batch normalization and layer or group normalization."""

import math

import keras
from keras import initializers, ops

from nrm_keras.layers import closed_form, kernel
from nrm_keras.layers.group import POSITIONS, check_choice, check_groups, resolve_groups
from nrm_keras.layers.moments import (
    Moments,
    Tensor,
    over_batch,
    over_groups,
    over_virtual_batches,
    per_channel,
    valid_examples,
)
from nrm_keras.layers.running import RunningNormalizer


@keras.saving.register_keras_serializable(package="nrm_keras")
class AdaptiveNormalization(RunningNormalizer):
    """Mixes batch normalization with a normalization of each example, by how many examples the batch has.

    Equation: `y = gamma * (lam * x_batch + (1 - lam) * x_alt) + beta`, where `x_batch` and `x_alt` are x normalized with
    the statistics of the batch and of the alternative, and for a batch of m examples

        lam(m) = sigmoid(alpha * (log(m - 1) - theta)) where m > 1, else 0
        theta  = log(balance - 1) + gate_scale * gate_delta
        alpha  = softplus(gate_phi)

    So the layer is the alternative at m = 1, half and half at m = `balance` before training, nearer to batch
    normalization the larger the batch, and monotone in m whatever is learned. m counts the examples whose statistics
    were really pooled: those of all replicas if `synchronized`, and not those which are masked altogether.
    At inference the size of the request does not matter: running statistics stand in for the batch, and m is the
    exponential of the running mean of log m in training (`moving_log_count`), or `balance` before any training.
    A gate that only sees one batch size in training only learns lam at that size.

    Args:
        axis: Integer, the channel axis; not 0, the batch.
        momentum: Float, what an update keeps of the running statistics.
        epsilon: Float added to the variances.
        center: Whether to add `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer, gamma_initializer: Initializers of the trainable weights.
        moving_mean_initializer, moving_variance_initializer: Initializers of the running statistics.
        beta_regularizer, gamma_regularizer: Optional regularizers.
        beta_constraint, gamma_constraint: Optional constraints.
        alternative: "layer", over all channels, or "group", over groups of channels.
        groups: The number of groups of "group" (-1: one per channel); None means 32. None with "layer".
        balance: Number of examples above 1 at which lam starts as 1/2.
        gate: "layer", one gate for all channels, or "channel".
        gate_scale: Float above 0, how fast the gate learns.
        learn_slope: Whether alpha is trained. It starts as 1.
        positions: "pooled" or "separate", see `GroupNormalization`; None means separate at rank 3, otherwise pooled.
        warmup: Whether the momentum of the running statistics starts at 0, see `BatchNormalization`.
        virtual_batch_size: How many examples share their batch statistics in training, see `RunningNormalizer`; m is
            then their number. A last virtual batch of one example is the alternative alone, as every m = 1.
        synchronized: Whether to use the statistics of all replicas together, under tf.distribute.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments: see `Normalizer`. With `trainable=False` the layer is in inference mode.

    Shapes and dtypes: the output has the shape of the inputs and the layer's compute dtype; weights and all mathematics
    are float32 at least.

    Raises:
        ValueError: if an argument is none of the above; in `build`, if `groups` does not divide the number of channels;
            in `build` and in the call as in `Normalizer`.

    Example:

    >>> from nrm_keras.layers import AdaptiveNormalization
    >>> layer = AdaptiveNormalization(balance=8.0)
    >>> layer.build((None, 16))
    >>> [round(float(layer.batch_weight(m)), 3) for m in (1, 2, 8, 64)]
    [0.0, 0.125, 0.5, 0.9]

    Source: the gate is this package's own. With alpha = 1 it is the weight that minimizes the squared error of the
    estimated mean (shrinkage). Fixed and learned mixtures: Ziaee & Cano 2022, Luo et al. 2019 (arXiv:1806.10779).
    """

    def __init__(
        self,
        axis=-1,
        momentum=0.99,
        epsilon=1e-3,
        center=True,
        scale=True,
        beta_initializer="zeros",
        gamma_initializer="ones",
        moving_mean_initializer="zeros",
        moving_variance_initializer="ones",
        beta_regularizer=None,
        gamma_regularizer=None,
        beta_constraint=None,
        gamma_constraint=None,
        *,
        alternative="layer",
        groups=None,
        balance=8.0,
        gate="layer",
        gate_scale=10.0,
        learn_slope=False,
        positions=None,
        warmup=True,
        virtual_batch_size=None,
        synchronized=False,
        **kwargs,
    ):
        check_choice("alternative", alternative, ("layer", "group"))
        check_choice("gate", gate, ("layer", "channel"))
        check_choice("positions", positions, (None, *POSITIONS))
        _check_above("balance", balance, 1)
        _check_above("gate_scale", gate_scale, 0)
        _check_groups(groups, alternative)
        super().__init__(
            axis=axis,
            momentum=momentum,
            epsilon=epsilon,
            center=center,
            scale=scale,
            beta_initializer=beta_initializer,
            gamma_initializer=gamma_initializer,
            moving_mean_initializer=moving_mean_initializer,
            moving_variance_initializer=moving_variance_initializer,
            beta_regularizer=beta_regularizer,
            gamma_regularizer=gamma_regularizer,
            beta_constraint=beta_constraint,
            gamma_constraint=gamma_constraint,
            synchronized=synchronized,
            warmup=warmup,
            virtual_batch_size=virtual_batch_size,
            **kwargs,
        )
        self.alternative = alternative
        self.groups = groups
        self.balance = float(balance)
        self.gate = gate
        self.gate_scale = float(gate_scale)
        self.learn_slope = learn_slope
        self.positions = positions

    def build(self, input_shape):
        super().build(input_shape)
        channels = input_shape[self.axis]
        groups = self.groups or (1 if self.alternative == "layer" else 32)
        self._resolved_groups = resolve_groups(groups, channels)
        # At rank 2 an example has one position, and it's all the same.
        self._separate = self.positions == "separate" or len(input_shape) <= (3 if self.positions is None else 2)
        shape = (channels,) if self.gate == "channel" else ()
        self.gate_delta = self.add_precise_weight(name="gate_delta", shape=shape, initializer="zeros")
        self.gate_phi = self.add_precise_weight(
            name="gate_phi",
            shape=shape,
            initializer=initializers.Constant(math.log(math.e - 1)),
            trainable=self.learn_slope,
        )
        self.moving_log_count = self.add_running_statistic(
            "moving_log_count", (), initializers.Constant(math.log(self.balance))
        )

    def batch_weight(self, examples: float | Tensor | None = None) -> Tensor:
        """lam, the weight on batch statistics, for a batch of `examples` examples; None means as at inference.

        Its shape is that of `gate_delta`: scalar, or one value per channel with `gate="channel"`; where `examples` has the
        four axes of rows, so has the result.
        """
        if examples is None:
            examples = ops.exp(ops.convert_to_tensor(self.moving_log_count))
        examples = ops.convert_to_tensor(examples, None if ops.is_tensor(examples) else self._weight_dtype)
        delta, phi = (ops.cast(v, examples.dtype) for v in (self.gate_delta, self.gate_phi))
        if len(examples.shape) == 4:
            delta, phi = (per_channel(v, examples.dtype) for v in (delta, phi))
        theta = math.log(self.balance - 1) + self.gate_scale * delta
        plural = examples > 1
        # log(0) must not be there even where it is not chosen: its infinite slope would reach the gradient.
        logit = ops.softplus(phi) * (ops.log(ops.where(plural, examples - 1, 1)) - theta)
        return ops.where(plural, ops.sigmoid(logit), 0)

    def normalize(self, x, mask, training):
        if self._separate and not self.overrides(AdaptiveNormalization):
            return self._normalize_separately(x, mask, training)
        if not self._is_closed(training):
            return super().normalize(x, mask, training)
        sums, examples = self._pooling(x, mask)
        lam = self.batch_weight(examples)
        parts = sums, over_groups(self._resolved_groups)
        y, (batch, _) = closed_form.mixture(x, mask, parts, (lam, 1 - lam), *self.parameters(x.dtype), self.epsilon)
        self.update(batch._replace(examples=examples))
        return y

    def _normalize_separately(self, x, mask, training):
        gamma, beta = self.parameters(x.dtype)
        if self._is_closed(training):
            _, examples = self._pooling(x, mask)
            lam = self.batch_weight(examples)
            y, batch = closed_form.batch(x, mask, lam * gamma, beta, self.epsilon, self.virtual_batch_size)
            self.update(batch._replace(examples=examples))
        else:
            moments = self.measure(x, mask, training)
            batch = self.statistics(moments, training)
            lam = self.batch_weight(batch.examples)
            standard = self.standardize(moments.from_shift(batch), batch.variance)
            y = kernel.affine(moments.centered, *standard, lam * gamma, beta)
        if self.virtual_batch_size is None or not training:
            return y + closed_form.positions(x, (1 - lam) * gamma, None, self.epsilon, self._resolved_groups)
        # Each example has its own lam.
        return y + (1 - lam) * closed_form.positions(x, gamma, None, self.epsilon, self._resolved_groups)

    def coefficients(self, moments, training):
        batch = self.statistics(moments, training)
        lam = self.batch_weight(batch.examples)
        alternative = self.standardize(*moments.over_groups(self._resolved_groups))
        standard = self.standardize(moments.from_shift(batch), batch.variance)
        return tuple(lam * one + (1 - lam) * other for one, other in zip(standard, alternative, strict=True))

    def _is_closed(self, training):
        """Whether the gradients in closed form are those of the layer's call."""
        return training and not self.synchronized and not self.overrides(AdaptiveNormalization)

    def _pooling(self, x, mask):
        """How the batch's rows are summed, and the number of examples that each row then stands for."""
        sums = over_batch if self.virtual_batch_size is None else over_virtual_batches(self.virtual_batch_size)
        return sums, sums(valid_examples(x, mask))

    def measure(self, x, mask, training):
        # Pooled, the alternative needs a shift near each example, which the running mean may be far from.
        return super().measure(x, mask, training) if self._separate else Moments(x, mask)

    def running(self, dtype):
        return super().running(dtype)._replace(examples=ops.exp(per_channel(self.moving_log_count, dtype)))

    def batch_values(self, pooled):
        yield from super().batch_values(pooled)
        yield self.moving_log_count, ops.mean(ops.log(ops.maximum(pooled.examples, 1)))

    def get_config(self):
        config = {
            "alternative": self.alternative,
            "groups": self.groups,
            "balance": self.balance,
            "gate": self.gate,
            "gate_scale": self.gate_scale,
            "learn_slope": self.learn_slope,
            "positions": self.positions,
        }
        return {**super().get_config(), **config}


def _check_above(name, value, bound):
    if not bound < value < math.inf:
        raise ValueError(
            f"`{name}` must be a finite number above {bound}. Received: {name}={value!r}. Pass a larger one."
        )


def _check_groups(groups, alternative):
    if groups is None:
        return
    if alternative == "layer":
        raise ValueError(
            f"`groups` goes with alternative='group' only. Received: groups={groups!r} and alternative='layer'. "
            "Leave `groups` out, or pass alternative='group'."
        )
    check_groups(groups)
