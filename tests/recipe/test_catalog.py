"""Names, paths, suggestions and copies of shipped recipes."""

import os

import pytest

from nrm_keras.recipe import catalog
from nrm_keras.recipe.loading import load
from nrm_keras.recipe.problems import RecipeError


def refusal(function, *arguments):
    with pytest.raises(RecipeError) as caught:
        function(*arguments)
    return str(caught.value)


def test_parts_are_not_listed_but_can_be_extended():
    assert "images/digits_adaptive" in catalog.names()
    assert not any(name.startswith("base/") for name in catalog.names())
    assert catalog.shipped("base/images") is not None
    assert "a part that recipes extend, not a run" in refusal(catalog.find, "base/images")


def test_the_packaged_copy_comes_first(tmp_path, monkeypatch):
    module = tmp_path / "site/nrm_keras/recipe/catalog.py"
    monkeypatch.setattr(catalog, "__file__", str(module))
    assert "Install it again." in refusal(catalog.root)
    (tmp_path / "site/recipes/base").mkdir(parents=True)
    assert catalog.root() == (tmp_path / "site/recipes").resolve()
    (tmp_path / "site/nrm_keras/recipes/base").mkdir(parents=True)
    assert catalog.root() == (tmp_path / "site/nrm_keras/recipes").resolve()


@pytest.mark.parametrize(
    "wrong", ["images/digit_adaptive", "digits_adaptive", "images/Digits_Adaptive", "recipes/images/digits_adaptive"]
)
def test_unknown_names_suggest_the_nearest(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"no recipe is called '{wrong}'. Did you mean 'images/digits_adaptive'?" in refusal(catalog.find, wrong)


def test_names_variants_and_paths(write, tmp_path):
    found = catalog.find("images/digits_adaptive@batch@group")
    assert (found.name, found.variants, found.shipped) == ("images/digits_adaptive", ("batch", "group"), True)
    write("a: 1", "a@b/c.yaml")
    found = catalog.find("a@b/c.yaml@v")
    assert (found.name, found.variants, found.shipped) == ("c", ("v",), False)
    assert found.path == str(tmp_path / "a@b/c.yaml")
    write("a: 1", "odd@name")
    assert catalog.find("odd@name").variants == ()
    assert "a directory" in refusal(load, "a@b")
    assert "no such file" in refusal(load, "none.yaml")
    assert "NUL" in refusal(load, "a\0b.yaml")
    assert refusal(load, "") and refusal(load, "@batch") and refusal(load, "../base/images")


def test_a_path_into_the_shipped_folder_is_the_shipped_recipe():
    path = catalog.root() / "images/digits_adaptive.yaml"
    assert load(path).name == "images/digits_adaptive"
    assert load(path).shipped


@pytest.mark.parametrize("name", catalog.names())
def test_copies_work_anywhere_and_are_equal(write, name, tmp_path):
    write("", "deep/er/keep")
    target = catalog.copy(name, "deep/er")
    assert target.name == os.path.basename(name) + ".yaml"
    for at in ("", *(f"@{variant}" for variant in load(name).variants)):
        assert load(f"{target}{at}").recipe == load(f"{name}{at}").recipe
    assert not load(target).shipped


def test_copy_never_overwrites_and_says_what_is_wrong(write, tmp_path):
    write("precious", "x.yaml")
    assert "x.yaml: cp never overwrites." in refusal(catalog.copy, "images/digits_adaptive", "x.yaml")
    assert (tmp_path / "x.yaml").read_text() == "precious"
    os.symlink("nowhere", "link.yaml")
    assert "cp never overwrites" in refusal(catalog.copy, "images/digits_adaptive", "link.yaml")
    assert "No such file or directory" in refusal(catalog.copy, "images/digits_adaptive", "none/x.yaml")
    assert "No such file or directory" in refusal(catalog.copy, "images/digits_adaptive", "none/")
    assert "Copy 'images/digits_adaptive'" in refusal(catalog.copy, "images/digits_adaptive@batch", "y.yaml")
    assert "cp copies shipped recipes" in refusal(catalog.copy, "x.yaml", "y.yaml")
    assert str(catalog.copy("images/digits_adaptive", "y.yaml")) == "y.yaml"
