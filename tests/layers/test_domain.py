import keras
import numpy as np
import pytest
import tensorflow as tf

from nrm_keras.layers import BatchNormalization, DomainBatchNormalization
from tests import references
from tests.layers.cases import randomize, to_numpy, weights

DOMAINS = 3
# Domain 1 is missing; -2 and 7 are unknown. (-1 could pass as the last row of a table.)
DOMAIN = np.array([0, 2, 0, -2, 2, 2, 7])
SHAPES = {(2, -1): (7, 4), (3, -1): (7, 3, 4), (3, 1): (7, 4, 3), (4, -1): (7, 3, 2, 4), (4, 2): (7, 3, 4, 2)}

every_shape = pytest.mark.parametrize("rank, axis", SHAPES, ids=str)
masked_or_not = pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])


def inputs(shape, seed=1, dtype="float32"):
    """Domains far from each other: statistics of another one would be far off."""
    offset = 10.0 * DOMAIN[: shape[0]].reshape(-1, *[1] * (len(shape) - 1))
    return (np.random.default_rng(seed).normal(2.0, 3.0, shape) + offset).astype(dtype)


def random_mask(shape, axis):
    mask = np.random.default_rng(2).random(np.delete(shape, axis)) < 0.6
    mask[0] = mask[3] = True
    mask[1] = False
    return mask


def built(shape=(None, 4), seed=0, **kwargs):
    layer = randomize(DomainBatchNormalization(DOMAINS, **kwargs), shape, seed)
    layer.domain_updates.assign([3.0, 0.0, 5.0])
    return layer


def gradients(layer, x, domain, upstream, training=True, mask=None):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, domain, training=training, mask=mask)
        loss = tf.reduce_sum(tf.cast(y, x.dtype) * tf.cast(upstream, x.dtype))
    slopes = tape.gradient(loss, [x] + [variable.value for variable in layer.trainable_variables])
    return [to_numpy(tensor) for tensor in [y, *slopes]]


def test_hand_worked():
    """Domain 0 has mean 4 and variance 9, domain 1 mean 0 and variance 0; epsilon is 1."""
    x = np.array([[1.0], [7.0], [0.0]], "float32")
    layer = DomainBatchNormalization(2, epsilon=1.0)
    y = to_numpy(layer(x, np.array([0, 0, 1]), training=True))
    np.testing.assert_allclose(y.ravel(), [-3 / np.sqrt(10), 3 / np.sqrt(10), 0], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.domain_mean).ravel(), [4, 0], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.domain_variance).ravel(), [9, 0], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, [8 / 3], rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, [(1 + 49) / 3 - (8 / 3) ** 2], rtol=1e-6)
    np.testing.assert_array_equal(layer.domain_updates, [1, 1])
    # At inference 4 is the mean of domain 0, and domain 1 has the divisor 1.
    y = to_numpy(layer(np.array([[4.0], [5.0]], "float32"), np.array([0, 1])))
    np.testing.assert_allclose(y.ravel(), [0, 5], atol=1e-6)


@every_shape
@masked_or_not
def test_training_against_reference(rank, axis, masked):
    shape = SHAPES[rank, axis]
    mask = random_mask(shape, axis) if masked else None
    layer, x = built(shape, axis=axis), inputs(shape)
    before = weights(layer)
    y = to_numpy(layer(x, DOMAIN, training=True, mask=mask))
    pairs = references.domain_statistics(x, DOMAIN, DOMAINS, mask, axis)
    expected = references.domain_batch_normalization(x, before["gamma"], before["beta"], pairs, 1e-3, axis)
    valid = np.broadcast_to(True if mask is None else np.expand_dims(mask, axis), shape)
    np.testing.assert_allclose(y[valid], expected[valid], rtol=2e-5, atol=2e-5)
    assert np.all(np.isfinite(y))


@every_shape
def test_inference_against_reference(rank, axis):
    """Domain 1 was never seen: it is as good as unknown."""
    shape = SHAPES[rank, axis]
    layer, x, domain = built(shape, axis=axis), inputs(shape), np.array([0, 1, 2, -1, 3, -3, 100])
    w = weights(layer)
    together = w["moving_mean"], w["moving_variance"]
    pairs = [(w["domain_mean"][d], w["domain_variance"][d]) if d in (0, 2) else together for d in domain]
    expected = references.domain_batch_normalization(x, w["gamma"], w["beta"], pairs, 1e-3, axis)
    np.testing.assert_allclose(layer(x, domain), expected, rtol=2e-5, atol=2e-5)
    alone = np.concatenate([to_numpy(layer(x[n : n + 1], domain[n : n + 1])) for n in range(7)])
    np.testing.assert_allclose(alone, expected, rtol=2e-5, atol=2e-5)
    for name, value in weights(layer).items():
        np.testing.assert_array_equal(value, w[name])


@masked_or_not
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("shape", [(7, 4), (7, 2, 2, 4)], ids=str)
def test_gradients_against_finite_differences(training, masked, shape):
    # Larger values would drown the differences in rounding.
    x, upstream = inputs(shape, dtype="float64"), np.random.default_rng(3).normal(size=shape)
    mask = random_mask(shape, -1) if masked else None
    if masked:
        upstream = np.where(mask[..., None], upstream, 0)
    layer = built(shape, dtype="float64")
    w = weights(layer)
    _, *actual = gradients(layer, x, DOMAIN, upstream, training, mask)

    def loss(x, **changed):
        now = {**w, **changed}
        if training:
            pairs = references.domain_statistics(x, DOMAIN, DOMAINS, mask)
        else:
            together = now["moving_mean"], now["moving_variance"]
            pairs = [(now["domain_mean"][d], now["domain_variance"][d]) if d in (0, 2) else together for d in DOMAIN]
        y = references.domain_batch_normalization(x, now["gamma"], now["beta"], pairs, 1e-3)
        return np.sum(y * upstream)

    expected = [references.gradient(loss, x)]
    for name in ("gamma", "beta"):
        expected.append(references.gradient(lambda v, n=name: loss(x, **{n: v}), w[name]))
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


def test_second_derivatives_are_those_of_the_first():
    x, upstream, direction = (inputs((7, 2, 4), seed, "float64") for seed in (1, 3, 4))
    layer = built((7, 2, 4), dtype="float64")

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(layer(x, DOMAIN, training=True)) * upstream)
        return tape.gradient(loss, x)

    point = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(point)
        along = tf.reduce_sum(slope(point) * direction)
    expected = (slope(point + 1e-6 * direction) - slope(point - 1e-6 * direction)) / 2e-6
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(tape.gradient(along, point), expected, rtol=0, atol=1e-5 * scale)
    with tf.autodiff.ForwardAccumulator(point, tf.constant(direction)) as accumulator:
        forward = accumulator.jvp(slope(point))
    np.testing.assert_allclose(forward, expected, rtol=0, atol=1e-5 * scale)


def test_one_domain_is_batch_normalization():
    """Outputs, gradients and running statistics over three steps, with and without warm-up."""
    for warmup in (True, False):
        ours = DomainBatchNormalization(1, momentum=0.7, warmup=warmup)
        theirs = BatchNormalization(momentum=0.7, warmup=warmup)
        for seed in range(3):
            x, upstream = inputs((7, 3, 4), seed), inputs((7, 3, 4), seed + 9)
            ours(x, np.zeros(7, int)), theirs(x)
            results = gradients(ours, x, np.zeros(7, int), upstream)
            point = tf.constant(x)
            with tf.GradientTape() as tape:
                tape.watch(point)
                y = theirs(point, training=True)
                loss = tf.reduce_sum(y * upstream)
            expected = [y, *tape.gradient(loss, [point, theirs.gamma.value, theirs.beta.value])]
            for one, other in zip(results, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ours.domain_mean[0], theirs.moving_mean, rtol=1e-5)
        np.testing.assert_allclose(ours.domain_variance[0], theirs.moving_variance, rtol=1e-5)
        np.testing.assert_allclose(ours(x, np.zeros(7, int)), theirs(x), rtol=1e-4, atol=1e-4)


def test_each_domain_warms_up_by_itself():
    """Momentum 0, then 1/10, whenever the domain turns up."""
    layer = DomainBatchNormalization(2)
    for domain, mean in ((0, 2.0), (0, 12.0), (1, 50.0), (0, 22.0), (1, 60.0)):
        layer(np.array([[mean - 3], [mean + 3]], "float32"), np.full(2, domain), training=True)
    first = 0.1 * 2 + 0.9 * 12
    expected = [2 / 11 * first + 9 / 11 * 22, 0.1 * 50 + 0.9 * 60]
    np.testing.assert_allclose(to_numpy(layer.domain_mean).ravel(), expected, rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer.domain_variance).ravel(), [9, 9], rtol=1e-6)
    np.testing.assert_array_equal(layer.domain_updates, [3, 2])


def test_missing_domain_keeps_its_running_statistics():
    layer = built()
    before = weights(layer)
    layer(inputs((7, 4)), DOMAIN, training=True)
    after = weights(layer)
    for name in ("domain_mean", "domain_variance", "domain_updates"):
        np.testing.assert_array_equal(after[name][1], before[name][1])
        assert np.all(after[name][[0, 2]] != before[name][[0, 2]])
    np.testing.assert_array_equal(after["domain_updates"], [4, 0, 6])


def test_spread_between_batches_counts_together():
    """Batches of one domain each: the variance within them says nothing about the domains' distance."""
    rng = np.random.default_rng(0)
    layer = DomainBatchNormalization(2, momentum=0.99)
    for step in range(400):
        x = rng.normal(10.0 * (step % 2), 1.0, (64, 1)).astype("float32")
        layer(x, np.full(64, step % 2), training=True)
    np.testing.assert_allclose(layer.moving_mean, [5.0], atol=0.3)
    np.testing.assert_allclose(layer.moving_variance, [26.0], rtol=0.05)
    np.testing.assert_allclose(to_numpy(layer.domain_variance).ravel(), [1, 1], rtol=0.1)


def test_a_batch_too_far_away_for_its_square_is_left_out():
    layer = DomainBatchNormalization(1)
    for x in (np.array([[1.0], [3.0]], "float32"), np.full((2, 1), 1e25, "float32")):
        layer(x, np.array([-1, -1]), training=True)
    assert (float(layer.moving_mean[0]), float(layer.moving_variance[0])) == (2.0, 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_broken_domain_does_not_break_the_others(value):
    x = inputs((7, 2, 4))
    whole, broken = DomainBatchNormalization(DOMAINS), DomainBatchNormalization(DOMAINS)
    good = to_numpy(whole(x, DOMAIN, training=True))
    x[1, 0, 2] = value
    y = to_numpy(broken(x, DOMAIN, training=True))
    np.testing.assert_array_equal(y[[0, 2]], good[[0, 2]])
    np.testing.assert_array_equal(broken.domain_updates, [1, 0, 0])
    np.testing.assert_array_equal(broken.domain_mean[0], whole.domain_mean[0])
    np.testing.assert_array_equal(broken.domain_variance[0], whole.domain_variance[0])
    np.testing.assert_array_equal(broken.domain_mean[2], np.zeros(4))
    np.testing.assert_array_equal(broken.domain_variance[2], np.ones(4))
    np.testing.assert_array_equal(broken.moving_mean, np.zeros(4))
    assert float(broken.update_count) == 0


def test_padding_changes_nothing():
    shape = (7, 3, 4)
    mask, x = random_mask(shape, -1), inputs(shape)
    upstream = np.where(mask[..., None], inputs(shape, 3), 0)
    results = []
    for filled in (x, np.where(mask[..., None], x, np.float32(np.nan))):
        layer = built(shape)
        y, dx, *rest = gradients(layer, filled, DOMAIN, upstream, mask=mask)
        results.append([y[mask], dx[mask], *rest, *weights(layer).values()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_mask_of_the_inputs_is_found_and_passed_on():
    """Keras itself fills in no `mask` where a layer takes two tensors."""
    x = np.array([[[1.0], [3.0], [0.0]], [[8.0], [0.0], [0.0]]], "float32")
    outputs = DomainBatchNormalization(2)
    values, domain = keras.Input((3, 1)), keras.Input((), dtype="int32")
    model = keras.Model([values, domain], outputs(keras.layers.Masking()(values), domain))
    y = model([x, np.array([0, 1])], training=True)
    np.testing.assert_allclose(to_numpy(outputs.domain_mean).ravel(), [2, 8], rtol=1e-6)
    np.testing.assert_array_equal(keras.src.backend.get_keras_mask(y), [[1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(training):
    layer = built((None, 2, 4))
    before = weights(layer)
    results = gradients(layer, np.zeros((0, 2, 4), "float32"), np.zeros(0, "int32"), np.zeros((0, 2, 4)), training)
    assert results[0].shape == (0, 2, 4)
    assert all(np.all(np.isfinite(result)) for result in results)
    for name, value in weights(layer).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("dtype, bits", [("float16", 10), ("bfloat16", 7)])
def test_half_precision_up_to_60000(dtype, bits):
    rounded = tf.cast(np.random.default_rng(1).uniform(-6e4, 6e4, (7, 5, 4)), dtype)
    x, layer = to_numpy(rounded).astype("float64"), built((7, 5, 4), dtype=f"mixed_{dtype}")
    pairs = references.domain_statistics(x, DOMAIN, DOMAINS)
    w = weights(layer)
    expected = references.domain_batch_normalization(x, w["gamma"], w["beta"], pairs, 1e-3)
    y = layer(rounded, DOMAIN, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    ulp = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(expected), 2.0**-14))) - bits)
    assert np.all(np.abs(to_numpy(y) - expected) <= 2 * ulp + 1e-3)
    assert {v.dtype for v in layer.variables} == {"float32"}


def test_large_offsets_between_domains_cost_no_digits():
    """Unit spread, domains 1e4 apart: as exact as the batch normalization of each domain alone."""
    domain = np.arange(32) % DOMAINS
    x = np.random.default_rng(1).normal(1e4 * domain[:, None, None], 1.0, (32, 8, 4)).astype("float32")
    y = to_numpy(DomainBatchNormalization(DOMAINS)(x, domain, training=True))
    for d in range(DOMAINS):
        exact = references.batch_normalization(x[domain == d], np.ones(4), np.zeros(4), 1e-3)
        centered = x[domain == d] - x[domain == d].mean((0, 1), dtype="float64").astype("float32")
        plain = centered / np.sqrt(np.mean(centered * centered, (0, 1)) + np.float32(1e-3))
        assert np.max(np.abs(y[domain == d] - exact)) <= max(2 * np.max(np.abs(plain - exact)), 2e-6)


@pytest.mark.parametrize("training", [True, False])
def test_dynamic_shapes_and_xla_give_the_same(training):
    layer = built((None, None, 4))
    before = weights(layer)
    signature = [tf.TensorSpec((None, None, 4)), tf.TensorSpec((None,), "int64"), tf.TensorSpec((None, None), "bool")]
    dynamic = tf.function(
        lambda x, domain, mask: layer(x, domain, training=training, mask=mask), input_signature=signature
    )
    compiled = tf.function(lambda x, domain: layer(x, domain, training=training), jit_compile=True)
    for size in (7, 2):
        x = inputs((size, 3, 4))
        results, states = [], []
        for run in (
            lambda x=x: layer(x, DOMAIN[: len(x)], training=training),
            lambda x=x: dynamic(x, DOMAIN[: len(x)], np.ones(x.shape[:2], bool)),
            lambda x=x: compiled(x, DOMAIN[: len(x)]),
        ):
            for variable in layer.variables:
                variable.assign(before[variable.name])
            results.append(to_numpy(run()))
            states.append(weights(layer))
        for result, state in zip(results[1:], states[1:], strict=True):
            np.testing.assert_allclose(result, results[0], rtol=2e-5, atol=2e-5)
            for name, value in state.items():
                np.testing.assert_allclose(value, states[0][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64"])
def test_domains_of_every_integer_type_and_as_a_column(dtype):
    """More domains than an int8 holds; -1 as an unsigned number is unknown as well."""
    x, domain = inputs((7, 4)), np.array([0, 2, 0, -1, 2, 2, 0]).astype(dtype)
    layer, other = DomainBatchNormalization(200), DomainBatchNormalization(200)
    y, column = layer(x, domain, training=True), other(x, domain[:, None], training=True)
    np.testing.assert_array_equal(y, column)
    pairs = references.domain_statistics(x, [0, 2, 0, -1, 2, 2, 0], 200)
    expected = references.domain_batch_normalization(x, np.ones(4), np.zeros(4), pairs, 1e-3)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_fit_save_and_load_with_two_inputs(policy, tmp_path):
    x, domain = keras.Input((6, 4), name="x"), keras.Input((), dtype="int32", name="site")
    h = DomainBatchNormalization(DOMAINS, name="norm", dtype=policy)(keras.layers.Masking()(x), domain)
    model = keras.Model([x, domain], keras.layers.Dense(2, dtype=policy)(h))
    model.compile("sgd", "mse")
    values, target = inputs((7, 6, 4)), np.zeros((7, 6, 2), "float32")
    values[:, 4:] = 0
    history = model.fit([values, DOMAIN], target, batch_size=4, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"][-1])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict([values, DOMAIN], verbose=0), loaded.predict([values, DOMAIN], verbose=0)
    )
    assert loaded.get_layer("norm").get_config() == model.get_layer("norm").get_config()
    assert model.get_layer("norm").output.shape == (None, 6, 4)


def test_output_shape_with_and_without_the_domain():
    layer = DomainBatchNormalization(2)
    assert layer.compute_output_shape((None, 5, 3), (None,)) == (None, 5, 3)
    assert layer.compute_output_shape((None, 5, 3)) == (None, 5, 3)


def test_not_trainable_is_inference():
    layer, x = built((7, 4)), inputs((7, 4))
    expected, before = to_numpy(layer(x, DOMAIN)), weights(layer)
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, DOMAIN, training=True), expected)
    for name, value in weights(layer).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("domains", [0, -1, 2.0, "3", None, True])
def test_domains_that_are_no_number_of_domains(domains):
    with pytest.raises(ValueError, match="`domains` must be a positive integer.*Received: domains="):
        DomainBatchNormalization(domains)


@pytest.mark.parametrize(
    "domain",
    [np.zeros(7), np.zeros(7, bool), np.zeros(6, int), np.zeros((7, 2), int), np.zeros((7, 1, 1), int), np.int32(1)],
    ids=["float", "bool", "size", "columns", "rank", "scalar"],
)
def test_domain_of_another_kind(domain):
    with pytest.raises(
        ValueError, match=r"`domain` must be an integer tensor of shape \(batch,\).*Received: domain of"
    ):
        DomainBatchNormalization(2)(np.ones((7, 3), "float32"), domain)


def test_missing_domain_shows_the_call():
    with pytest.raises(ValueError, match=r"Call it as `layer\(x, domain\)`"):
        DomainBatchNormalization(2)(np.ones((7, 3), "float32"))
    with pytest.raises(ValueError, match=r"Call it as `layer\(x, domain\)`"):
        DomainBatchNormalization(2)(keras.Input((3,)))
    with pytest.raises(ValueError, match=r"`domain` must be an integer tensor"):
        DomainBatchNormalization(2)(keras.Input((3,)), keras.Input((), dtype="float32"))
