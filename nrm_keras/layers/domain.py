"""Batch normalization with statistics of each domain."""

import functools
from typing import NamedTuple

import keras
from keras import ops

from nrm_keras.layers import backend
from nrm_keras.layers.moments import Moments, Pooled, Tensor, per_channel, reciprocal
from nrm_keras.layers.running import RunningNormalizer

Table = tuple[Tensor, Tensor, Tensor]


class Rows(NamedTuple):
    """Statistics with one row of shape (channels,) for each example or domain. `mean` is measured from `reference`."""

    weight: Tensor
    reference: Tensor
    mean: Tensor
    variance: Tensor


@keras.saving.register_keras_serializable(package="nrm_keras")
class DomainBatchNormalization(RunningNormalizer):
    """Batch normalization in which each example meets the statistics of its own domain: site, scanner, donor, batch.

    Equation: `y = gamma * (x - mean[d]) / sqrt(variance[d] + epsilon) + beta` for an example of domain d, with mean and
    population variance of each channel over the valid positions of the batch's examples of domain d in training, and
    their running average at inference, as in `BatchNormalization`. All domains share gamma and beta.

    Examples of an unknown domain, any number below 0 or from `domains` on, meet the statistics of all examples
    together: those of the whole batch in training, their running average at inference. At inference so do those of a
    domain that was never seen in training. In that average (`moving_mean`, `moving_variance`) the spread between
    batches counts as well, by the law of total variance, as batches may hold one domain each.

    A batch updates the running statistics of the domains that it has valid examples of. A value that is not finite
    keeps its domain and the whole batch out of the update, not the other domains.

    Args:
        domains: Integer, the number of domains; they are numbered from 0.
        axis: Integer, the channel axis; not 0, the batch.
        momentum: Float, what an update keeps of the running statistics.
        epsilon: Float added to the variance.
        center: Whether to add `beta`.
        scale: Whether to multiply by `gamma`.
        beta_initializer, gamma_initializer: Initializers of the trainable weights.
        moving_mean_initializer, moving_variance_initializer: Initializers of the running statistics.
        beta_regularizer, gamma_regularizer: Optional regularizers.
        beta_constraint, gamma_constraint: Optional constraints.
        warmup: Whether the momentum starts at 0, for each domain by its own number of updates.
        synchronized: Whether to use the statistics of all replicas together, under tf.distribute. Without it a replica
            that lacks a domain pulls the average of that domain's running statistics back.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs, training, mask: see `Normalizer`. With `trainable=False` the layer is in inference mode.
        domain: Integer tensor of shape `(batch,)` or `(batch, 1)`, the domain of each example.

    Shapes and dtypes: the output has the shape of the inputs and the layer's compute dtype; weights and all mathematics
    are float32 at least. `domain_mean` and `domain_variance` have shape `(domains, channels)`, `domain_updates`
    `(domains,)`.

    Raises:
        ValueError: if `domains` is not a positive integer; if `synchronized` is True on another backend than
            TensorFlow; in the call, if `domain` is missing or has another shape or dtype; in `build` and in the call as
            in `Normalizer`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from nrm_keras.layers import DomainBatchNormalization
    >>> layer = DomainBatchNormalization(domains=2, epsilon=0.0)
    >>> x = np.array([[1.0], [3.0], [100.0], [500.0]], "float32")
    >>> print(keras.ops.convert_to_numpy(layer(x, np.array([0, 0, 1, 1]), training=True)).ravel())
    [-1.  1. -1.  1.]
    >>> print(keras.ops.convert_to_numpy(layer.domain_mean).ravel(), keras.ops.convert_to_numpy(layer.moving_mean))
    [  2. 300.] [151.]

    Source: Chang et al. 2019 (arXiv:1906.03950), section 3.2; there gamma and beta are the domains' own.
    """

    def __init__(
        self,
        domains,
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
        warmup=True,
        synchronized=False,
        **kwargs,
    ):
        if not isinstance(domains, int) or isinstance(domains, bool) or domains < 1:
            raise ValueError(
                f"`domains` must be a positive integer, the number of domains. Received: domains={domains!r}. "
                "Pass one more than the largest number in `domain`."
            )
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
            warmup=warmup,
            synchronized=synchronized,
            **kwargs,
        )
        self.domains = domains

    def build(self, input_shape):
        super().build(input_shape)
        shape = (self.domains, input_shape[self.axis])
        self.domain_mean = self.add_running_statistic("domain_mean", shape, self.moving_mean_initializer)
        self.domain_variance = self.add_running_statistic("domain_variance", shape, self.moving_variance_initializer)
        self.domain_updates = self.add_running_statistic("domain_updates", (self.domains,), "zeros")

    def call(self, inputs, domain=None, training=None, mask=None):
        _check_domain(domain, inputs)
        domain = self._number(ops.convert_to_tensor(domain))
        # Keras fills in the mask only for a layer that takes one tensor.
        mask = getattr(inputs, "_keras_mask", None) if mask is None else mask
        return self.on_four_axes(functools.partial(self._normalize, domain), inputs, training, mask)

    def compute_output_spec(self, inputs, domain=None, **kwargs):
        _check_domain(domain, inputs)
        return super().compute_output_spec(inputs, domain, **kwargs)

    def _normalize(self, domain, x, mask, training):
        if training:
            moments = Moments(x, mask)
            own = _take(self._batch_table(moments, domain), domain)
        else:
            own = _take(self._running_table(x.dtype), self._seen(domain))
            moments = Moments(x, mask, shift=own.reference)
        return self.affine(moments.centered, *self.standardize(moments.from_shift(own), own.variance))

    def _number(self, domain):
        """The domains in shape (batch,), all unknown ones as `domains`."""
        wide = ops.cast(domain, keras.backend.result_type(domain.dtype, "int32"))
        known = ops.logical_and(wide >= 0, wide < self.domains)
        return ops.reshape(ops.cast(ops.where(known, wide, self.domains), "int32"), (-1,))

    def _seen(self, domain):
        """The domains, those without an update as `domains`."""
        updates = ops.pad(ops.convert_to_tensor(self.domain_updates), (0, 1))
        return ops.where(ops.take(updates, domain) > 0, domain, self.domains)

    def _batch_table(self, moments: Moments, domain: Tensor) -> Table:
        """The batch's statistics, which move the running ones."""
        rows = _rows(moments)
        if self.synchronized:
            rows, domain = _over_replicas(rows, domain)
        # The unknown domains have a row as well, which those of all together replace.
        of_domains = Rows(*(values[:-1] for values in pool_rows_by(domain, rows, self.domains + 1)))
        self._update_domains(of_domains)
        return _table(of_domains[1:], self.statistics(moments, training=True))

    def _running_table(self, dtype: str) -> Table:
        mean, variance = (ops.cast(variable, dtype) for variable in (self.domain_mean, self.domain_variance))
        return _table((mean, ops.zeros_like(mean), variance), self.running(dtype))

    def _update_domains(self, rows: Rows) -> None:
        usable = ops.all(ops.logical_and(rows.weight > 0, ops.isfinite(rows.variance)), axis=1)
        momentum = ops.where(usable, self._momentum(self.domain_updates), 1.0)[:, None]
        batch = (self.domain_mean, rows.reference + rows.mean), (self.domain_variance, rows.variance)
        for variable, values in batch:
            # NaN times 0 is NaN: an unusable value must not be there at all.
            values = ops.where(usable[:, None], ops.cast(values, variable.dtype), 0.0)
            variable.assign(variable * momentum + values * (1.0 - momentum))
        self.domain_updates.assign(self.domain_updates + ops.cast(usable, self.domain_updates.dtype))

    def update(self, pooled):
        # Law of total variance over the batches: those of one domain each say nothing about the spread of domains.
        change = pooled.reference + pooled.mean - per_channel(self.moving_mean, pooled.mean.dtype)
        between = ops.cast(self._momentum(self.update_count), change.dtype) * ops.square(change)
        super().update(pooled._replace(variance=pooled.variance + between))

    def compute_output_shape(self, inputs_shape, domain_shape=None):
        return super().compute_output_shape(inputs_shape)

    def get_config(self):
        return {**super().get_config(), "domains": self.domains}


def pool_rows_by(domain: Tensor, rows: Rows, domains: int) -> Rows:
    """Law of total variance over the rows of each domain. Where all weights are 0 the mean is 0 and the variance 1."""
    weight = ops.segment_sum(rows.weight, domain, domains)
    share = reciprocal(weight)

    def average(values):
        # A matrix product with the domains as columns of 0 and 1 would carry NaN from one domain to all.
        return share * ops.segment_sum(rows.weight * values, domain, domains)

    reference = average(rows.reference)
    moved = rows.mean + (rows.reference - ops.take(reference, domain, 0))
    mean = average(moved)
    variance = average(rows.variance + ops.square(moved - ops.take(mean, domain, 0)))
    return Rows(weight, reference, mean, ops.where(weight > 0, variance, 1))


def _rows(moments):
    weight = ops.ones_like(moments.mean) if moments.weight is None else moments.weight
    values = weight, moments.shift, moments.mean, moments.variance
    return Rows(*(ops.squeeze(ops.broadcast_to(one, ops.shape(moments.mean)), (1, 3)) for one in values))


def _over_replicas(rows, domain):
    """The rows of all replicas with their domains, which travel together: one collective."""
    channels = rows.mean.shape[1]
    domain = ops.broadcast_to(ops.cast(domain, rows.mean.dtype)[:, None], ops.shape(rows.mean))
    # Gathered, the sizes are no longer known.
    packed = ops.reshape(backend.gather(ops.stack([*rows, domain], 1)), (-1, len(rows) + 1, channels))
    *values, domain = (packed[:, i] for i in range(len(rows) + 1))
    return Rows(*values), ops.cast(domain[:, 0], "int32")


def _table(of_domains, together):
    """(reference, mean, variance): a row for each domain, and in the end one for all domains together."""
    last = (ops.reshape(values, (1, -1)) for values in (together.reference, together.mean, together.variance))
    return tuple(ops.concatenate(pair, 0) for pair in zip(of_domains, last, strict=True))


def _take(table, domain):
    """Each example's row of the table, on the four axes."""
    reference, mean, variance = (ops.take(values, domain, 0)[:, None, :, None] for values in table)
    return Pooled(None, reference, mean, variance, examples=None)


def _check_domain(domain, inputs):
    if domain is None:
        raise ValueError(
            "The layer needs the domain of each example. Received: domain=None. "
            "Call it as `layer(x, domain)`, with an integer tensor of shape (batch,)."
        )
    domain = domain if hasattr(domain, "shape") else ops.convert_to_tensor(domain)
    dtype, shape = keras.backend.standardize_dtype(domain.dtype), tuple(domain.shape)
    fits = shape[1:] in ((), (1,)) and len({*shape[:1], inputs.shape[0]} - {None}) <= 1
    if "int" not in dtype or not shape or not fits:
        raise ValueError(
            "`domain` must be an integer tensor of shape (batch,) or (batch, 1). Received: domain of dtype "
            f"{dtype} and shape {shape}, inputs of shape {tuple(inputs.shape)}. Pass one integer for each example."
        )
