"""What a finished run can be asked."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import nrm_keras
from nrm_keras.errors import UserError
from nrm_keras.training import inference

QUICK = {"train.epochs": 1, "model": {"type": "mlp", "units": [8]}, "data.batch_size": 64}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return nrm_keras.run("images/digits_adaptive", QUICK | {"data.limit": 200}, out=out, say=lambda _: None).path


def test_evaluate_says_how_many_examples_it_measured(finished, tmp_path):
    digits = load_digits()
    assert inference.evaluate(finished)["examples"] == 359
    assert inference.evaluate(finished, split="train")["examples"] == 200
    np.savez(tmp_path / "all.npz", x=digits.images, y=digits.target)
    scores = inference.evaluate(finished, str(tmp_path / "all.npz"))
    assert next(iter(scores)) == "examples" and scores["examples"] == 1797


def test_evaluate_measures_all_of_other_data_whatever_the_limit_of_the_run(tmp_path):
    digits = load_digits()
    np.savez(tmp_path / "all.npz", x=digits.images, y=digits.target)
    data = {"data": {"source": "npz", "path": str(tmp_path / "all.npz"), "limit": 100, "batch_size": 64}}
    recipe = {key: value for key, value in QUICK.items() if key != "data.batch_size"} | data
    run = nrm_keras.run("images/digits_adaptive", recipe, out=tmp_path, say=lambda _: None)
    assert inference.evaluate(run.path, str(tmp_path / "all.npz"))["examples"] == 1797


@pytest.mark.parametrize("name", ["x.png", "x.npy", "missing.npz"])
def test_evaluate_names_what_data_may_be(finished, tmp_path, name):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8)))
    with pytest.raises(UserError, match=rf"{name}: .*an .npz file .*or a folder of images"):
        inference.evaluate(finished, str(tmp_path / name))


def test_evaluate_imports_what_the_recipe_lists_if_it_may(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished, tmp_path / "run")
    recipe = run / "recipe.yaml"
    text = recipe.read_text()
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("imports:"))
    recipe.write_text("imports: [module_of_the_test]\n" + text)
    (tmp_path / "module_of_the_test.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="imports run code"):
        inference.evaluate(run)
    assert "module_of_the_test" not in sys.modules
    assert inference.evaluate(run, allow_imports=True)["examples"] == 359
    assert sys.modules.pop("module_of_the_test")


def test_a_run_without_its_summary_is_named(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match="summary.json"):
        inference.evaluate(run)


@pytest.mark.parametrize(
    "array,message",
    [
        (np.full((2, 8, 8), "a"), "number array.*<U1"),
        (np.zeros((2, 8, 8), "longdouble"), "64 bits.*float128"),
        (np.zeros((2, 8, 8), complex), "complex128"),
        (np.full((2, 8, 8), np.nan), "128 NaN"),
        (np.full((2, 8, 8), 1e39), "larger"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".NPZ"])
def test_predict_refuses_what_is_no_input(finished, tmp_path, array, message, suffix):
    path = tmp_path / f"x{suffix}"
    with open(path, "wb") as file:
        np.save(file, array) if suffix == ".npy" else np.savez(file, x=array)
    with pytest.raises(UserError, match=message):
        inference.predict(finished, path)


@pytest.mark.parametrize(
    "torn", [lambda b: b"", lambda b: b[:-60], lambda b: b[:200] + b"????" + b[204:], lambda b: b"PK"]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_predict_refuses_broken_archives(finished, tmp_path, torn, save):
    path = tmp_path / "x.npz"
    save(path, x=np.random.default_rng(0).normal(size=(2, 8, 8)))
    path.write_bytes(torn(path.read_bytes()))
    with pytest.raises(UserError, match="x.npz: an archive of plain arrays is needed"):
        inference.predict(finished, path)
    np.savez(path, z=np.zeros(3))
    with pytest.raises(UserError, match="the array x"):
        inference.predict(finished, path)


def test_predict_refuses_other_images(finished, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.bmp")
    for source in (tmp_path / "x.bmp", tmp_path):
        with pytest.raises(UserError, match="convert it to PNG"):
            inference.predict(finished, source)
