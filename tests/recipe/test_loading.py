"""extends, variants, overrides, paths, origins and round trips."""

import os

import pytest

from nrm_keras.recipe import catalog
from nrm_keras.recipe.loading import import_modules, load, load_with_variants
from nrm_keras.recipe.problems import RecipeError
from nrm_keras.recipe.writing import ABSENT, difference, dump
from tests.recipe.conftest import COMPLETE

EVERY = [f"{name}{at}" for name in catalog.names() for at in ("", *(f"@{v}" for v in load(name).variants))]


def refusal(*arguments, **options):
    with pytest.raises(RecipeError) as caught:
        load(*arguments, **options)
    return str(caught.value)


# extends --------------------------------------------------------------------------------------------------------------


def test_mappings_merge_and_lists_replace(write):
    write("data: {source: digits, augment: [crop, flip], limit: 9}\n" + COMPLETE.split("\n", 1)[1], "base/parent.yaml")
    recipe = load(write("extends: base/parent.yaml\ndata: {augment: [crop]}\n")).recipe
    assert (recipe.data.augment, recipe.data.limit) == (("crop",), 9)


def test_another_type_replaces_the_section(write):
    write(COMPLETE.replace("{type: batch}", "{type: batch, momentum: 0.5, epsilon: 0.1}"), "parent.yaml")
    norm = load(write("extends: parent.yaml\nnorm: {type: group}\n")).recipe.norm
    assert (norm.type, norm.epsilon) == ("group", 1e-3)
    same = load(write("extends: parent.yaml\nnorm: {type: batch}\n")).recipe.norm
    assert (same.momentum, same.epsilon) == (0.5, 0.1)


def test_another_source_replaces_the_section(write):
    write(COMPLETE.replace("{source: digits}", "{source: npz, path: a.npz, limit: 3}"), "parent.yaml")
    data = load(write("extends: parent.yaml\ndata: {source: digits}\n")).recipe.data
    assert data.limit is None


def test_extends_a_shipped_recipe_by_name(write):
    recipe = load(write("extends: images/digits_adaptive\nnorm: {type: batch}\n")).recipe
    assert (recipe.model.depth, recipe.norm.type) == (8, "batch")


def test_parents_variants_are_inherited(write):
    write(COMPLETE + "variants: {layer: {norm: {type: layer}}}\n", "parent.yaml")
    write("extends: parent.yaml\n")
    assert load("x.yaml@layer").recipe.norm.type == "layer"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: none.yaml\n", "x.yaml:1: extends: no such file. Received: 'none.yaml'"),
        ("extends: images/digit_adaptive\n", "x.yaml:1: extends: no shipped recipe is called 'images/digit_adaptive'."),
        ("extends: images/digit_adaptive\n", "Did you mean 'images/digits_adaptive'?"),
        ("extends: base/image\n", "Did you mean 'base/images'?"),
        ("\nextends: [a, b]\n", "x.yaml:2: extends: must be one path or the name of a shipped recipe."),
        ("extends: 'a\\0b.yaml'\n", "x.yaml:1: extends: no such file."),
        ('extends: "a\\0b.yaml"\n', "x.yaml:1: extends: a path has no NUL character."),
        (
            "extends: x.yaml\n",
            "x.yaml:1: extends: recipes must not extend each other in a circle. Received: x.yaml -> x.yaml.",
        ),
        ("- a\n", "x.yaml:1: a recipe is a mapping of sections. Received: ['a']."),
        ("just text\n", "x.yaml:1: a recipe is a mapping of sections."),
    ],
)
def test_bad_extends_and_top_levels(write, text, message):
    assert message in refusal(write(text))


def test_cycle_over_several_files_names_them(write):
    write("extends: c.yaml\n", "b.yaml")
    write("# header\nextends: ./x.yaml\n", "c.yaml")
    assert "c.yaml:2: extends: " in refusal(write("extends: b.yaml\n"))
    assert "Received: x.yaml -> b.yaml -> c.yaml -> x.yaml." in refusal("x.yaml")


def test_mistakes_of_parent_and_child_come_together_each_with_its_file(write):
    write(COMPLETE + "train: {epochs: 0}\n", "parent.yaml")
    problems = refusal(write("extends: parent.yaml\nnorm: {momentun: 1}\n")).splitlines()
    assert "parent.yaml:5: train.epochs: must be greater than 0. Received: 0." in problems
    assert "x.yaml:2: norm.momentun: unknown key. Did you mean 'momentum'?" in problems
    assert len(problems) == 2


def test_what_is_missing_is_missing_in_the_file_that_was_named(write):
    write(COMPLETE.replace("norm: {type: batch}\n", ""), "parent.yaml")
    assert refusal(write("# child\nextends: parent.yaml\n")).startswith("x.yaml:2: norm: missing.")


def test_mistakes_are_in_the_order_of_the_file(write):
    text = COMPLETE.replace("{type: batch}", "{type: batch, x: 1}") + "train: {replicas: 2}\nvariants: 3\ntitle: 5\n"
    lines = refusal(write("momentum: 1\n" + text)).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["x.yaml:1", "x.yaml:4", "x.yaml:6", "x.yaml:7", "x.yaml:8"]


# Variants -------------------------------------------------------------------------------------------------------------

VARIANTS = (
    COMPLETE
    + "variants:\n  wide: {model: {units: [256]}}\n  long: {train: {epochs: 50}}\n  short: {train: {epochs: 2}}\n"
)


def test_variants_apply_in_order(write):
    write(VARIANTS)
    loaded = load("x.yaml@wide@long@short")
    assert (loaded.recipe.model.units, loaded.recipe.train.epochs) == ((256,), 2)
    assert loaded.name == "x@wide@long@short"
    assert load("x.yaml@short@long").recipe.train.epochs == 50
    assert loaded.variants == ("wide", "long", "short")


def test_unknown_variant_suggests_the_nearest(write):
    write(VARIANTS)
    assert refusal("x.yaml@shot") == "x.yaml:1: variants: no variant is called 'shot'. Did you mean 'short'?"
    write(COMPLETE, "y.yaml")
    assert "The recipe has no variants." in refusal("y.yaml@shot")


def test_validation_covers_the_variants_nobody_asked_for(write):
    write(VARIANTS + "  bad: {norm: {momentun: 1}}\n")
    load("x.yaml")
    with pytest.raises(RecipeError, match=r"^x.yaml:9: norm.momentun: unknown key. .*\(variant bad\)$"):
        load_with_variants("x.yaml")


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("3", "variants: must be a mapping from names to changes. Received: 3."),
        ("{a: 3}", "variants.a: must be a mapping of sections. Received: 3."),
        ("{'a b': {}}", "a name has letters, digits, _ . - only. Received: 'a b'."),
        ("{a: {extends: b}}", "variants.a.extends: stands at the top of a file only."),
    ],
)
def test_malformed_variants(write, variants, message):
    assert f"x.yaml:5: {message}" in refusal(write(COMPLETE + f"variants: {variants}\n")).replace(
        "variants: a name", "a name"
    )


# Overrides ------------------------------------------------------------------------------------------------------------


def test_overrides_follow_the_scalar_rules_of_files(write):
    write(COMPLETE)
    loaded = load(
        "x.yaml",
        [
            "optimizer.learning_rate=1e-2",
            "data.augment=[crop]",
            "norm={type: group}",
            "title=Mine: 50 # of it",
            "model.units=[16]",
        ],
    )
    recipe = loaded.recipe
    assert recipe.optimizer.learning_rate == 1e-2
    assert recipe.data.augment == ("crop",)
    assert recipe.norm.type == "group"
    assert recipe.title == "Mine: 50 # of it"
    assert loaded.origins["optimizer.learning_rate"] == "command line"


def test_overriding_the_type_drops_stale_keys_in_any_order(write):
    write(COMPLETE.replace("{type: sgd}", "{type: sgd, momentum: 0.5, learning_rate: 3.0}"))
    for overrides in (["optimizer.type=adam", "optimizer.beta_1=0.5"], ["optimizer.beta_1=0.5", "optimizer.type=adam"]):
        optimizer = load("x.yaml", overrides).recipe.optimizer
        assert (optimizer.type, optimizer.beta_1, optimizer.learning_rate) == ("adam", 0.5, 1e-3)


def test_overrides_from_python(write):
    write(COMPLETE)
    recipe = load("x.yaml", {"train.epochs": 3, "model": {"units": [4, 4]}, "norm.type": "layer"}).recipe
    assert (recipe.train.epochs, recipe.model.units, recipe.norm.type) == (3, (4, 4), "layer")
    assert refusal("x.yaml", {"train.epoch": 3}).startswith(
        "overrides: train.epoch: unknown key. Did you mean 'epochs'?"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("norm.momentun=1", "command line: norm.momentun: unknown key. Did you mean 'momentum'?"),
        ("norm=batch", "command line: norm: must be a mapping. Received: 'batch'. Write norm.type=batch."),
        ("train.epochs=off", "command line: train.epochs: must be a whole number. Received: 'off'."),
        ("train.epochs", "command line: an override is section.key=value. Received: 'train.epochs'."),
        ("a..b=1", "command line: an override is section.key=value."),
        ("title=[a", "command line: title: this is not YAML"),
        ("title={a: !x 1}", "command line: title: tags are not allowed"),
        ("train.seed=" + "9" * 5000, "command line: train.seed: a number has at most 60 digits."),
        ("extends=a", "command line: extends: stands at the top of a file only."),
        ("callbacks.0.patience=1", "command line: callbacks: a list is replaced as a whole."),
        ("train=", "command line: train: must be a mapping. Received: null."),
    ],
)
def test_bad_overrides(write, override, message):
    write(COMPLETE + "callbacks: [{type: terminate_on_nan}]\n")
    assert message in refusal("x.yaml", [override])


def test_all_overrides_are_reported_at_once(write):
    write(COMPLETE)
    assert len(refusal("x.yaml", ["foo", "train.epochs=0", "norm.x=1", "title=[a"]).splitlines()) == 4


# Paths ----------------------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_file_they_stand_in(write, tmp_path, monkeypatch):
    write("data: {source: npz, path: data/a.npz}\n" + COMPLETE.split("\n", 1)[1], "lib/parent.yaml")
    write("extends: lib/parent.yaml\ntrain: {init_from: ../runs/r}\n", "x.yaml")
    recipe = load("x.yaml").recipe
    assert recipe.data.path == str(tmp_path / "lib/data/a.npz")
    assert recipe.train.init_from == str(tmp_path.parent / "runs/r")
    monkeypatch.chdir(tmp_path / "lib")
    assert load("../x.yaml").recipe == recipe
    assert load("../x.yaml", ["data.path=b.npz"]).recipe.data.path == str(tmp_path / "lib/b.npz")
    monkeypatch.setenv("HOME", "/home/me")
    assert load("../x.yaml", ["data.path=~/b.npz"]).recipe.data.path == "/home/me/b.npz"


# Results --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_every_shipped_recipe_and_variant_round_trips(write, name):
    loaded = load(name)
    for origin in (False, True):
        again = load(write(loaded.to_yaml(origin=origin)))
        assert again.recipe == loaded.recipe
        assert again.to_yaml() == loaded.to_yaml()
        assert "default" not in again.origins.values()


@pytest.mark.parametrize(
    "title",
    [
        "",
        "off",
        "1e-4",
        "null",
        "a: b # c",
        'it\'s "so"',
        "tab\tnew\nline",
        "ü 漢 🙂 \x85\u2028\0",
        "-x",
        " a ",
        "<<",
        "2024-01-01",
    ],
)
def test_awkward_text_round_trips(write, title):
    loaded = load(write(COMPLETE), {"title": title, "train.class_weights": {title or "x": 1.0, "a": 1e-20}})
    again = load(write(loaded.to_yaml(origin=True), "again.yaml"))
    assert again.recipe == loaded.recipe
    assert again.recipe.title == title


def test_callbacks_and_nested_custom_keys_round_trip(write, clean_registry):
    text = "imports: [mine]\nnorm: {type: mine, a: {b: [1, [2], {c: .inf}], d: {}}, e: []}\n"
    text += "callbacks: [{type: early_stopping, patience: 3}, {type: terminate_on_nan}, {type: own, deep: [{x: 1}]}]\n"
    loaded = load(write(COMPLETE.replace("norm: {type: batch}\n", "") + text))
    assert loaded.recipe.norm.options == {"a": {"b": (1, (2,), {"c": float("inf")}), "d": {}}, "e": ()}
    assert load(write(loaded.to_yaml(origin=True), "again.yaml")).recipe == loaded.recipe


def test_origins_name_file_line_and_default(write):
    write(COMPLETE, "parent.yaml")
    loaded = load(write("extends: parent.yaml\n\ntrain: {epochs: 3}\n"), ["data.limit=5"])
    assert loaded.origins["train.epochs"] == "x.yaml:3"
    assert loaded.origins["norm.type"] == "parent.yaml:3"
    assert loaded.origins["data.limit"] == "command line"
    assert loaded.origins["train.seed"] == "default"
    lines = [line for line in loaded.to_yaml(origin=True).splitlines() if "#" in line]
    assert len(lines) == len(loaded.origins)
    assert len({line.index("#") for line in lines}) == 1
    assert any(line.split() == ["epochs:", "3", "#", "x.yaml:3"] for line in lines)


def test_difference_lists_what_changed(write):
    a = load(write(COMPLETE)).recipe
    b = load("x.yaml", ["norm.type=layer", "train.epochs=3", "callbacks=[{type: terminate_on_nan}]"]).recipe
    found = difference(a, b)
    assert ("norm.type", "batch", "layer") in found
    assert ("train.epochs", 10, 3) in found
    assert ("norm.momentum", 0.99, ABSENT) in found
    assert ("callbacks.0.type", ABSENT, "terminate_on_nan") in found
    assert difference(a, a) == []


def test_words_other_yaml_readers_take_for_booleans_are_quoted(write):
    assert 'title: "off"' in load(write(COMPLETE), {"title": "off"}).to_yaml()


def test_dump_of_a_bare_recipe_loads(write):
    recipe = load(write(COMPLETE)).recipe
    assert load(write(dump(recipe), "again.yaml")).recipe == recipe


# Imports --------------------------------------------------------------------------------------------------------------

MODULE = "from nrm_keras import registry\nopen('imported', 'w').close()\n@registry.register('norm', 'own_norm')\ndef build(**k): pass\n"


@pytest.fixture
def importable(write, tmp_path, monkeypatch, clean_registry):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.modules", dict(__import__("sys").modules))
    write(MODULE, "own_module.py")
    return COMPLETE.replace("{type: batch}", "{type: own_norm, strength: 2}") + "imports: [own_module]\n"


def test_loading_imports_nothing(write, importable):
    load(write(importable))
    assert not os.path.exists("imported")


def test_imports_of_a_recipe_from_elsewhere_need_permission(write, importable):
    with pytest.raises(
        RecipeError, match=r"^x.yaml:5: imports: imports run code.*Received: own_module.*--allow-imports"
    ):
        import_modules(load(write(importable)))
    assert not os.path.exists("imported")


def test_allowed_imports_register_and_are_checked(write, importable):
    import_modules(load(write(importable), allow_imports=True))
    assert os.path.exists("imported")
    with pytest.raises(
        RecipeError, match=r"x.yaml:3: norm.type: unknown norm. Received: 'own_nrm'. Did you mean 'own_norm'"
    ):
        import_modules(load(write(importable.replace("own_norm", "own_nrm")), allow_imports=True))


def test_modules_that_fail_are_reported(write, importable):
    for text, message in (
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("import none_such", "No module named 'none_such'"),
    ):
        name = f"broken_{len(text)}"
        write(text, f"{name}.py")
        with pytest.raises(RecipeError, match=f"x.yaml:5: imports: '{name}' cannot be imported: .*{message}"):
            import_modules(load(write(importable.replace("own_module", name)), allow_imports=True))
