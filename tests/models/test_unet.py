import keras
import numpy as np
import pytest

from nrm_keras import models
from nrm_keras.errors import UserError
from nrm_keras.layers.named import NAMED
from tests.models.test_text import factory

NORMS = ["none", *NAMED]


def build(shape, norm="group", **options):
    inputs = keras.Input(shape)
    return keras.Model(inputs, models.unet(inputs, factory(norm), **{"width": 4, "depth": 2, **options}))


def image(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("placement", ["before_activation", "after_activation"])
def test_every_norm_and_placement(norm, placement):
    model = build((8, 8, 1), norm, placement=placement, dropout=0.1)
    assert model(image(2, 8, 8, 1), training=True).shape == (2, 8, 8, 4)
    biased = [layer.use_bias for layer in model.layers if "_conv" in layer.name and hasattr(layer, "use_bias")]
    assert all(biased) if norm == "none" or placement == "after_activation" else not any(biased)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("down,up", [("pool", "transpose"), ("stride", "nearest")])
@pytest.mark.parametrize("sizes", [(8, 8), (7, 13), (1, 3), (5, 6, 9), (4, 1, 2)])
def test_an_output_for_every_position_of_any_size(sizes, down, up, known):
    model = build((*sizes, 2) if known else (*[None] * len(sizes), 2), down=down, up=up)
    y = np.asarray(model(image(2, *sizes, 2)))
    assert y.shape == (2, *sizes, 4)
    assert np.isfinite(y).all()
    if known:
        assert model.output_shape == (None, *sizes, 4)


def test_the_finest_skip_keeps_positions_apart():
    """A changed pixel shows most where it is: the crop is at the right end and the skips are not moved."""
    keras.utils.set_random_seed(0)  # some initial weights, few in a hundred, show it most elsewhere
    model, x = build((13, 11, 1), "none", depth=3), image(1, 13, 11, 1)
    for row, column in ((0, 0), (6, 5), (12, 10)):
        changed = x.copy()
        changed[0, row, column] += 100.0
        difference = np.abs(np.asarray(model(changed) - model(x)))[0].sum(-1)
        top = np.unravel_index(difference.argmax(), difference.shape)
        assert max(abs(top[0] - row), abs(top[1] - column)) <= 4


def test_channels_double_and_the_image_halves():
    model = build((32, 32, 1), width=8, depth=3)
    assert model.get_layer("bottom_conv2").output.shape[1:] == (4, 4, 64)
    assert model.get_layer("up0_join").output.shape[1:] == (32, 32, 16)


@pytest.mark.parametrize(
    "rank,policy,jit",
    [
        (2, "mixed_float16", True),
        (3, "mixed_bfloat16", False),  # TensorFlow pools volumes of float16 on GPUs only
    ],
)
def test_half_precision_and_xla_train(rank, policy, jit):
    keras.config.set_dtype_policy(policy)
    try:
        model = build((*[6] * rank, 1))
        model = keras.Model(model.input, keras.layers.Dense(2, dtype="float32")(model.output))
    finally:
        keras.config.set_dtype_policy("float32")
    x = image(2, *[6] * rank, 1)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=jit)
    assert np.isfinite(model.fit(x, (x[..., 0] > 0).astype("int32"), verbose=0).history["loss"][0])


def test_a_saved_model_answers_the_same(tmp_path):
    model, x = build((None, None, 1), "adaptive"), image(2, 9, 14, 1)
    model.save(tmp_path / "m.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "m.keras")(x), model(x), atol=1e-6)


def test_only_images_and_volumes():
    with pytest.raises(UserError, match="needs images"):
        build((30, 4))
