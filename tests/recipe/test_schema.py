"""What a recipe may say: plain words for every mistake of form, and every rule across sections."""

import re

import pytest
from pydantic import ValidationError

from nrm_keras import registry
from nrm_keras.recipe.loading import load
from nrm_keras.recipe.problems import RecipeError
from nrm_keras.recipe.schema import METRICS, SECTIONS, Recipe
from tests.recipe.conftest import COMPLETE


def problems_of(write, text):
    """The lines about a recipe made of COMPLETE with the sections in `text` in place of its own."""
    given = {line.partition(":")[0] for line in text.splitlines()}
    kept = "".join(f"{line}\n" for line in COMPLETE.splitlines() if line.partition(":")[0] not in given)
    try:
        load(write(text + "\n" + kept))
    except RecipeError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("norm: {type: batch, momentun: 0.5}", "norm.momentun: unknown key. Did you mean 'momentum'?"),
        ("norm: {type: group, momentum: 0.5}", "norm.momentum: unknown key. 'momentum' is a key of batch and switchable and adaptive and domain."),
        ("momentum: 0.5", "momentum: unknown key. 'momentum' is a key of norm (batch) and norm (switchable) and norm (adaptive) and norm (domain) and optimizer (sgd)."),
        ("trian: {}", "trian: unknown key. Did you mean 'train'?"),
        ("norm: {type: bacth}", "norm.type: unknown norm. Received: 'bacth'. Did you mean 'batch'?"),
        ("data: {source: digts}", "data.source: unknown source. Received: 'digts'. Did you mean 'digits'?"),
        ("schedule: {type: cosin}", "schedule.type: unknown type. Received: 'cosin'. Did you mean 'cosine'?"),
        ("norm: {momentum: 0.5}", "norm.type: missing. Choose one of: none, batch, layer,"),
        ("norm: {type: null}", "norm.type: unknown type. Received: null. Did you mean 'none'?"),
        ("norm: {type: 3}", "norm.type: unknown type. Received: 3. Known: none, batch,"),
        ("norm: batch", "norm: must be a mapping. Received: 'batch'. Write {type: batch}."),
        ("norm: [batch]", "norm: must be a mapping. Received: ['batch']. Write {type: ...}."),
        ("norm:", "norm: must be a mapping. Received: null."),
        ("data: {source: npz}", "data.path: missing. Add it: the .npz file"),
        ("data: {source: npz, path: ''}", "data.path: must be text that is not empty. Received: ''."),
        ("data: {source: digits, batch_size: 0}", "data.batch_size: must be greater than 0. Received: 0."),
        ("data: {source: digits, batch_size: true}", "data.batch_size: must be a whole number. Received: true."),
        ("data: {source: digits, batch_size: '8'}", "data.batch_size: must be a whole number. Received: '8'."),
        ("data: {source: digits, batch_size: 1e2}", "data.batch_size: must be a whole number. Received: 100.0. Write 100."),
        ("data: {source: digits, test: 1}", "data.test: must be less than 1. Received: 1."),
        ("data: {source: digits, test: .nan}", "data.test: must be less than 1. Received: nan."),
        ("data: {source: digits, augment: crop}", "data.augment: must be a list. Received: 'crop'. Write [crop]."),
        ("data: {source: digits, augment: [corp]}", "data.augment.0: must be one of crop, flip, drop_words. Received: 'corp'. Did you mean 'crop'?"),
        ("data: {source: folder, path: x, image_size: [3]}", "data.image_size: must be a longer list than 1. Received: [3]."),
        ("data: {source: folder, path: x, image_size: [3, 3, 3]}", "data.image_size: must be a list of at most 2."),
        ("optimizer: {type: sgd, learning_rate: .inf}", "optimizer.learning_rate: must be a finite number. Received: inf."),
        ("optimizer: {type: sgd, learning_rate: fast}", "optimizer.learning_rate: must be a number. Received: 'fast'."),
        ("optimizer: {type: sgd, nesterov: off}", "optimizer.nesterov: must be true or false. Received: 'off'. Did you mean false?"),
        ("optimizer: {type: sgd, nesterov: yes}", "optimizer.nesterov: must be true or false. Received: 'yes'. Did you mean true?"),
        ("train: {jit: off}", "train.jit: must be auto or true or false. Received: 'off'. Did you mean false?"),
        ("train: {seed: 3000000000}", "train.seed: must be less than 2147483648. Received: 3000000000."),
        ("train: {keep: bset}", "train.keep: must be one of best, last. Received: 'bset'. Did you mean 'best'?"),
        ("train: {class_weights: {cat: x}}", "train.class_weights.cat: must be a number. Received: 'x'."),
        ("train: {class_weights: 3}", "train.class_weights: must be balanced or a mapping. Received: 3."),
        ("train: [1]", "train: must be a mapping. Received: [1]."),
        ("train: {metrics: [accurracy]}", "train.metrics: unknown metric. Received: 'accurracy'. Did you mean 'accuracy'?"),
        ("title: 5", 'title: must be text. Received: 5. Write "5" in quotes.'),
        ("task: clustering", "task: must be one of classification, segmentation, regression. Received: 'clustering'."),
        ("model: {type: mlp, units: []}", "model.units: must be a list of at least 1. Received: []."),
        ("model: {type: mlp, activation: rleu}", "Received: 'rleu'. Did you mean 'relu'?"),
        ("callbacks: [{type: early_stopping, patience: no}]", "callbacks.0.patience: must be a whole number. Received: 'no'."),
        ("callbacks: [{type: erly_stopping}]", "callbacks.0.type: unknown callback. Received: 'erly_stopping'. Did you mean 'early_stopping'?"),
        ("callbacks: {type: early_stopping}", "callbacks: must be a list. Received: {type: 'early_stopping'}."),
        # rules across keys and sections
        ("model: {type: resnet, depth: 9}", "model.depth: the depth of a resnet is 6n + 2: 8, 14, 20, ... Received: 9. Use 8 or 14."),
        ("model: {type: resnet, depth: 2}", "Received: 2. Use 8."),
        ("model: {type: resnet, block: bottleneck, depth: 21}", "model.depth: the depth of a resnet of bottlenecks is 9n + 2: 11, 20, 29, ... Received: 21. Use 20 or 29."),
        ("model: {type: transformer, width: 60, heads: 8}", "model.heads: heads must divide the width of a transformer, 60. Received: 8. Use one of [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60]."),
        ("model: {type: unet, width: 12, depth: 2}\nnorm: {type: group, groups: 8}", "norm.groups: groups must divide the channels of every layer: [12, 24, 48]. Received: 8."),
        ("model: {type: resnet, depth: 11, block: bottleneck, width: 12}\nnorm: {type: group, groups: 8}", "[12, 24, 48, 96, 192]. Received: 8."),
        ("model: {type: gru, width: 12}\nnorm: {type: group, groups: 8}", "norm.groups: groups must divide the channels of every layer: [12, 24]. Received: 8."),
        ("model: {type: gru, width: 8}\nnorm: {type: group, groups: 8}", "norm.groups: a group inside of a recurrence needs two channels at least"),
        ("model: {type: residual_mlp, width: 8}\nnorm: {type: group, groups: 8}", "norm.groups: a group in a residual_mlp needs two channels at least"),
        ("model: {type: residual_mlp}\nnorm: {type: instance}", "norm.type: instance normalization needs positions, and a residual_mlp has none"),
        ("model: {type: transformer}\nnorm: {type: instance}", "norm.type: instance normalization makes the mean over a text's tokens the same for every text"),
        ("model: {type: unet, depth: 9}", "model.depth: "),
        ("model: {type: resnet, width: 12}\nnorm: {type: group, groups: 8}", "norm.groups: groups must divide the channels of every layer: [12, 24, 48]. Received: 8. Use one of [1, 2, 3, 4, 6, 12]."),
        ("model: {type: mlp, units: [64, 12]}\nnorm: {type: adaptive, alternative: group, groups: 8}", "norm.groups: groups must divide"),
        ("model: {type: mlp, units: [8]}\nnorm: {type: group, groups: 8}", "norm.groups: a group in an mlp needs two channels at least"),
        ("norm: {type: instance}", "norm.type: instance normalization needs positions, and an mlp has none"),
        ("norm: {type: adaptive, alternative: group}", "norm.groups: alternative: group needs groups. Received: none."),
        ("norm: {type: adaptive, groups: 4}", "norm.groups: groups goes with alternative: group only. Received: groups 4"),
        ("norm: {type: batch, virtual_batch_size: 4, synchronized: true}", "norm.virtual_batch_size: virtual batches make the batch smaller"),
        ("schedule: {type: cosine, warmup_epochs: 10}", "schedule.warmup_epochs: the warm-up must end before the training does: below train.epochs, 10. Received: 10."),
        ("schedule: {type: step, epochs: [5, 10]}", "schedule.epochs: steps must come before train.epochs, 10, or they never happen. Received: [5, 10]."),
        ("schedule: {type: step, epochs: [5, 5]}", "schedule.epochs: the steps must rise. Received: [5, 5]."),
        ("schedule: {type: step, epochs: [2], warmup_epochs: 2}", "schedule.epochs: the first step must come after the warm-up"),
        ("schedule: {type: cosine}\ncallbacks: [{type: reduce_lr_on_plateau}]", "callbacks.0: reduce_lr_on_plateau needs schedule: {type: constant} without warm-up"),
        ("schedule: {type: constant, warmup_epochs: 1}\ncallbacks: [{type: reduce_lr_on_plateau}]", "Received: schedule constant, warm-up 1."),
        ("train: {replicas: 2}", "train.replicas: replicas need strategy: mirrored. Received: replicas 2 with strategy: none."),
        ("train: {jit: true, strategy: mirrored}", "train.jit: TensorFlow has no XLA with strategy: mirrored. Received: jit: true."),
        ("train: {jit: true, deterministic: true}", "train.jit: TensorFlow has no XLA with deterministic: true. Received: jit: true."),
        ("data: {source: digits, batch_size: 4, evaluation_batch_size: 9}\ntrain: {replicas: 2, strategy: mirrored}", "data.evaluation_batch_size: evaluation_batch_size is over all replicas together"),
        ("train: {replicas: 3, strategy: mirrored}", "data.batch_size: batch_size is over all replicas together and must be a multiple of train.replicas, 3. Received: 32. Use 30."),
        ("train: {freeze_normalizers: true}", "train.freeze_normalizers: frozen normalizers keep what init_from brought."),
        ("data: {source: digits, validation: 0.5, test: 0.5}", "data.validation: validation and test are shares of all examples"),
        ("data: {source: digits, validation: 0}", "train.monitor: val_accuracy needs validation examples, and digits has no such split of its own."),
        ("data: {source: brain, validation: 0}", "val_accuracy needs validation examples, and brain has no such split of its own."),
        ("data: {source: spam, validation: 0.6, test: 0.5}", "data.validation: validation and test are shares of all examples"),
        ("data: {source: digits, validation: 0}\ntrain: {keep: last}\ncallbacks: [{type: early_stopping}]", "callbacks.0.monitor: val_loss needs validation examples"),
        ("train: {metrics: [accuracy, accuracy]}", "train.metrics: a metric is listed once."),
        ("train: {monitor: val_acuracy}", "train.monitor: not among what training reports. Received: 'val_acuracy'. Did you mean 'val_accuracy'?"),
    ],
)  # fmt: skip
def test_mistakes_in_plain_words(write, text, message):
    found = problems_of(write, text)
    assert any(message in problem for problem in found), found
    assert len(found) == 1
    assert re.match("x.yaml:[123]: ", found[0])


@pytest.mark.parametrize(
    "text",
    [
        "model: {type: resnet, depth: 14, width: 12}\nnorm: {type: group, groups: 4}",
        "model: {type: resnet}\nnorm: {type: instance}",
        "model: {type: resnet, depth: 20, block: bottleneck}",
        "model: {type: transformer, placement: post_norm}",
        "model: {type: gru}\nnorm: {type: instance}",
        "model: {type: gru, bidirectional: true, pooling: last}",
        "model: {type: unet, down: stride, up: nearest}\nnorm: {type: group, groups: 16}",
        "model: {type: residual_mlp}\nnorm: {type: group, groups: 8}",
        "norm: {type: adaptive, alternative: group, groups: 8}",
        "norm: {type: none}",
        "norm: {type: switchable, momentum: 0.9}",
        "norm: {type: rms}",
        "schedule: {type: step, epochs: [3, 9], warmup_epochs: 2.5}",
        "callbacks: [{type: reduce_lr_on_plateau}, {type: terminate_on_nan}]",
        "train: {replicas: 4, strategy: mirrored}",
        "train: {freeze_normalizers: true, init_from: runs/x}",
        "train: {jit: true, class_weights: {a: 1, b: 0.5}, clip_norm: 1}",
        "train: {jit: auto, class_weights: balanced}",
        "data: {source: digits, validation: 0}\ntrain: {keep: last}",
        "data: {source: npz, path: a.npz, validation: 0}",
        "train: {metrics: [top_5_accuracy], monitor: val_top_5_accuracy}",
        "train: {metrics: []}",
        "data: {source: folder, path: a, image_size: [8, 8], channels: 1}",
    ],
)
def test_what_is_allowed(write, text):
    assert problems_of(write, text) == []


@pytest.mark.parametrize(
    ("text", "metrics", "monitor"),
    [
        ("", ("accuracy",), "val_accuracy"),
        ("train: {metrics: [auroc, accuracy]}", ("auroc", "accuracy"), "val_auroc"),
        ("train: {metrics: []}", (), "val_loss"),
        ("train: {metrics: null, monitor: val_loss}", ("accuracy",), "val_loss"),
        ("task: regression\ntrain: {epochs: 3}", ("rmse", "r2"), "val_rmse"),
    ],
)
def test_metrics_and_monitor_follow_the_task(write, text, metrics, monitor):
    loaded = load(write(COMPLETE + text))
    train = loaded.recipe.train
    assert (train.metrics, train.monitor) == (metrics, monitor)
    assert load(write(loaded.to_yaml())).recipe == loaded.recipe


def test_missing_sections_name_their_choices(write):
    problems = problems_of(
        write, "data: {source: digits}\nmodel: {type: mlp}\nnorm: {type: none}\noptimizer: {type: sgd}"
    )
    assert problems == []
    with pytest.raises(RecipeError) as caught:
        load(write("title: nothing else\n"))
    assert [problem.split(": ")[:3] for problem in caught.value.problems] == [
        ["x.yaml:1", name, "missing. Add " + name] for name in ("data", "model", "norm", "optimizer")
    ]


def test_places_are_those_of_the_values(write):
    text = "norm:\n  type: batch\n  momentum:\n    2\ntrain:\n  epochs: 0\n  sed: 1\ncallbacks:\n  - type: early_stopping\n    patience: -1\n"
    assert [problem.split(": ")[:2] for problem in problems_of(write, text)] == [
        ["x.yaml:4", "norm.momentum"],
        ["x.yaml:6", "train.epochs"],
        ["x.yaml:7", "train.sed"],
        ["x.yaml:10", "callbacks.0.patience"],
    ]


def test_rules_run_beside_mistakes_in_other_sections(write):
    text = "data: {source: digts, batch_size: -1}\nmodel: {type: resnet, depth: 9}\nnorm: {type: bacth}\noptimizer: 3\ntrain: {replicas: 2}"
    paths = [problem.split(": ")[1] for problem in problems_of(write, text)]
    assert sorted(paths) == ["data.batch_size", "data.source", "model.depth", "norm.type", "optimizer"]


def test_a_key_named_like_a_type_does_not_confuse_paths(write):
    text = "norm: {type: batch, batch: {momentum: 3}, momentum: 3}"
    paths = [problem.split(": ")[1] for problem in problems_of(write, text)]
    assert sorted(paths) == ["norm.batch", "norm.momentum"]


def test_hundreds_of_mistakes_are_cut(write):
    problems = problems_of(write, "".join(f"key_{n}: 1\n" for n in range(300)))
    assert len(problems) == 101
    assert any("and 200 more mistakes" in problem for problem in problems)


def test_control_characters_never_reach_the_terminal(write):
    (problem,) = problems_of(write, '"a\\e[31m\\nb": 1')
    assert problem.isprintable()


def test_recipes_built_in_python_obey_the_rules_and_stay_frozen():
    sections = {"data": {"source": "digits"}, "norm": {"type": "batch"}, "optimizer": {"type": "sgd"}}
    recipe = Recipe(model={"type": "resnet", "depth": 8}, **sections)
    with pytest.raises(ValidationError, match="6n"):
        Recipe(model={"type": "resnet", "depth": 9}, **sections)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.norm.momentum = 0.5


# Names of one's own ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("norm", "norm: {type: own, strength: 2}"),
        ("model", "model: {type: own, layers: [1, 2]}"),
        ("data", "data: {source: own, batch_size: 4, anything: x}"),
        ("optimizer", "optimizer: {type: own, learning_rate: 1, rho: 2}"),
        ("callback", "callbacks: [{type: own, every: 2}]"),
        ("metric", "train: {metrics: [own], monitor: val_own}"),
    ],
)
def test_registered_names_are_accepted(write, clean_registry, kind, text):
    (problem,) = problems_of(write, text)
    assert "unknown" in problem
    assert problems_of(write, "imports: [some_module]\n" + text) == []
    registry.register(kind, "own")(lambda **options: None)
    assert problems_of(write, text) == []
    (problem,) = problems_of(write, text.replace("own", "owm"))
    assert "Did you mean 'own'?" in problem


def test_sections_of_ones_own_keep_typed_keys_and_give_the_others(write, clean_registry):
    registry.register("data", "own")(lambda data: None)
    text = COMPLETE.replace("{source: digits}", "{source: own, batch_size: 4, options_of_mine: [1, 2]}")
    data = load(write(text)).recipe.data
    assert data.batch_size == 4
    assert data.options == {"options_of_mine": (1, 2)}
    (problem,) = problems_of(write, "data: {source: own, batch_size: four}")
    assert "data.batch_size: must be a whole number" in problem


def test_activations_are_names_that_keras_knows():
    """Asked of Keras' source, not of Keras: importing it takes seconds."""
    import importlib.util
    import pathlib
    import typing

    from nrm_keras.recipe.sections.models import Activation

    folder = pathlib.Path(importlib.util.find_spec("keras").origin).parent
    source = (folder / "src/activations/__init__.py").read_text()
    names = source[source.index("ALL_OBJECTS = {") : source.index("ALL_OBJECTS_DICT")]
    for name in typing.get_args(Activation):
        assert f"    {name}," in names or f'ALL_OBJECTS_DICT["{name}"]' in source, name


def test_the_registry_reserves_the_names_of_the_schema():
    assert registry.names("norm")[: len(SECTIONS["norm"])] == tuple(SECTIONS["norm"])
    assert registry.names("metric")[: len(METRICS)] == METRICS
