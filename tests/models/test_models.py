import subprocess
import sys

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
@pytest.mark.parametrize(
    "model",
    [
        {"type": "mlp", "units": (8, 16)},
        {"type": "resnet", "depth": 8, "width": 8},
        {"type": "resnet", "depth": 11, "width": 8, "block": "bottleneck"},
    ],
)
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


def test_bottlenecks_are_those_of_the_published_resnet164():
    # He et al. 2016 (arXiv:1603.05027), table 3 and text: ResNet-164 with bottlenecks has 1.7 M parameters
    built = build({"type": "resnet", "depth": 164, "width": 16, "block": "bottleneck"}, shape=(32, 32, 3))
    main = [layer for layer in linear_layers(built) if "shortcut" not in layer.name]
    assert len(main) == 164
    assert built.get_layer("pool").input.shape[1:] == (8, 8, 256)
    assert built.count_params() == pytest.approx(1.7e6, rel=0.03)


@pytest.mark.parametrize("norm", [name for name in NORMS if name != "instance"])
def test_residual_mlp_with_every_norm(norm):
    built = build({"type": "residual_mlp", "width": 8, "depth": 2, "dropout": 0.1}, norm, shape=(7,))
    assert built(np.ones((4, 7), "float32"), training=True).shape == (4, 10)


def test_residual_mlp_is_its_stem_where_the_branches_are_zero():
    built = build({"type": "residual_mlp", "width": 8, "depth": 3}, "none", shape=(5,))
    x = np.random.default_rng(0).normal(size=(6, 5))
    for layer in linear_layers(built):
        if layer.name.endswith("dense2"):
            layer.kernel.assign(np.zeros(layer.kernel.shape))
    weights = {w.path: np.asarray(w, "float64") for w in built.weights}
    features = np.maximum(x @ weights["stem/kernel"] + weights["stem/bias"], 0)
    expected = features @ weights["logits/kernel"] + weights["logits/bias"]
    np.testing.assert_allclose(built(x.astype("float32")), expected, atol=1e-5)


@pytest.mark.parametrize("type", ["resnet", "unet", "residual_mlp", "transformer", "gru"])
def test_smallest_is_smaller_and_allowed(type):
    section = recipe({"type": type}).model
    smallest = models.smallest(section)
    assert smallest.depth <= section.depth
    recipe(smallest.model_dump())


def test_smallest_of_bottlenecks():
    assert models.smallest(recipe({"type": "resnet", "block": "bottleneck", "depth": 29}).model).depth == 11


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


NARROW = """
import keras, numpy as np
from nrm_keras import models
from nrm_keras.recipe.schema import Recipe

sections = {"data": {"source": "digits"}, "model": {"type": "resnet", "depth": 8, "width": 8}, "norm": {"type": "none"}}
model = models.build(Recipe.model_validate(sections | {"optimizer": {"type": "sgd"}}), (24, 24, 1), 2)
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x = np.random.default_rng(0).normal(size=(3, 24, 24, 1))
model.fit(x, np.array([0, 1, 0]), epochs=15, verbose=0)
"""


def test_a_narrow_network_trains_on_three_images():
    """Regression: the gradient of a 1x1 convolution with a stride wrote where it must not, and the process was aborted."""
    done = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_shortcut_takes_every_second_position():
    """As the 1x1 convolution of stride 2 that it stands for, also of odd sizes."""
    built = build({"type": "resnet", "depth": 8, "width": 8}, "none", shape=(9, 7, 3))
    every = built.get_layer("stage2_block1_every_2")
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 8)).astype("float32")
    np.testing.assert_array_equal(every(x), x[:, ::2, ::2])
