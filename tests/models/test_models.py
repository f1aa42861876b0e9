import keras
import numpy as np
import pytest

from nrm_keras import models
from nrm_keras.errors import UserError
from nrm_keras.recipe.schema import Recipe

NORMS = ["none", "batch", "layer", "sample", "group", "instance", "rms", "switchable", "adaptive"]


def recipe(model, norm="batch"):
    norm = {"type": norm} | ({"groups": 4} if norm == "group" else {})
    return Recipe.model_validate(
        {"data": {"source": "digits"}, "model": model, "norm": norm, "optimizer": {"type": "sgd"}}
    )


def build(model, norm="batch", shape=(16, 16, 3), classes=10, **options):
    return models.build(recipe(model, norm), shape, classes, **options)


def linear_layers(model):
    return [layer for layer in model.layers if isinstance(layer, (keras.layers.Dense, keras.layers.Conv2D))]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("placement", ["before_activation", "after_activation"])
@pytest.mark.parametrize("model", [{"type": "mlp", "units": (8, 16)}, {"type": "resnet", "depth": 8, "width": 8}])
def test_every_model_with_every_norm_and_placement(model, norm, placement):
    if norm == "instance" and model["type"] == "mlp":
        pytest.skip("one value has no statistics; recipes refuse it")
    built = build(model | {"placement": placement}, norm)
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    assert built(x, training=True).shape == (4, 10)
    biased = [layer.use_bias for layer in linear_layers(built)[:-1]]
    assert all(biased) if norm == "none" or placement == "after_activation" else not any(biased)
    assert len({layer.name for layer in built.layers}) == len(built.layers)


@pytest.mark.parametrize("depth", [8, 20, 32])
def test_resnet_has_depth_layers_with_weights_and_the_papers_channels(depth):
    built = build({"type": "resnet", "depth": depth, "width": 16}, shape=(32, 32, 3))
    main = [layer for layer in linear_layers(built) if "shortcut" not in layer.name]
    assert len(main) == depth
    assert [layer.filters for layer in main[:-1]] == [16] * (1 + (depth - 2) // 3) + [32] * ((depth - 2) // 3) + [
        64
    ] * ((depth - 2) // 3)
    assert built.get_layer("pool").input.shape[1:] == (8, 8, 64)


def test_resnet20_has_the_published_size():
    # He et al. 2015, table 6: 0.27 M parameters; their shortcuts have none, ours are 1x1 convolutions with a normalizer
    built = build({"type": "resnet", "depth": 20, "width": 16}, shape=(32, 32, 3))
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert sum(int(np.prod(w.shape)) for w in built.trainable_weights) - shortcuts == pytest.approx(0.27e6, rel=0.02)


@pytest.mark.parametrize("placement,order", [("before_activation", "norm relu"), ("after_activation", "relu norm")])
def test_placement_orders_normalizer_and_activation(placement, order):
    built = build({"type": "mlp", "units": (8,), "placement": placement}, shape=(5,))
    names = [layer.name for layer in built.layers]
    first, second = (names.index(f"dense1_{kind}") for kind in order.split())
    assert names.index("dense1") < first < second


def test_standardization_is_inside_the_model():
    x = np.random.default_rng(0).normal([3.0, -50.0], [10.0, 0.1], size=(500, 2)).astype("float32")
    built = build({"type": "mlp", "units": (4,)}, shape=(2,), standardization=(x.mean(0), x.var(0)))
    inner = keras.Model(built.input, built.get_layer("standardize").output)
    out = inner.predict(x, verbose=0)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(out.std(0), 1, atol=1e-4)


def test_resnet_needs_images():
    with pytest.raises(UserError, match="model.type mlp"):
        build({"type": "resnet", "depth": 8}, shape=(30,))


def test_several_replicas_synchronize_unless_told_otherwise():
    assert models.norm_factory(recipe({"type": "mlp"}).norm, replicas=2)("x").synchronized
    assert not models.norm_factory(recipe({"type": "mlp"}).norm, replicas=1)("x").synchronized
    alone = recipe({"type": "mlp"}).norm.model_copy(update={"synchronized": False})
    assert not models.norm_factory(alone, replicas=2)("x").synchronized
