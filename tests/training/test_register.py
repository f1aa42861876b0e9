"""What a user registers is used where a recipe names it."""

import subprocess
import sys

import pytest

import nrm_keras

MODULE = """
import keras, numpy as np
import nrm_keras
from nrm_keras.data.examples import Examples, Split


@nrm_keras.register("norm", "own_norm")
def norm(name, strength):
    assert strength == 1
    return keras.layers.UnitNormalization(name=name)


@nrm_keras.register("model", "own_model")
def model(x, norm, sizes):
    for i, size in enumerate(sizes):
        x = norm(f"n{i}")(keras.layers.Dense(size, activation="relu", name=f"d{i}")(x))
    return x


@nrm_keras.register("data", "own_data")
def data(section):
    x = np.random.default_rng(section.start).normal(size=(90, 3)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    parts = [Split(x[i : i + 30], y[i : i + 30]) for i in (0, 30, 60)]
    return Examples(("below", "above"), *parts, origin="own_module", shape=(3,))


@nrm_keras.register("optimizer", "own_optimizer")
def optimizer(learning_rate, weight_decay, global_clipnorm, rho):
    return keras.optimizers.RMSprop(learning_rate, rho=rho, weight_decay=weight_decay, global_clipnorm=global_clipnorm)


@nrm_keras.register("callback", "own_callback")
class Counter(keras.callbacks.Callback):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        with open(self.path, "a") as file:
            print(sorted(logs), file=file)


@nrm_keras.register("metric", "own_metric")
def metric():
    return keras.metrics.SparseTopKCategoricalAccuracy(1, name="own_metric")
"""
RECIPE = """\
imports: [own_module]
data: {source: own_data, start: 3, batch_size: 10}
model: {type: own_model, sizes: [8, 4]}
norm: {type: own_norm, strength: 1}
optimizer: {type: own_optimizer, learning_rate: 1e-2, rho: 0.8}
train: {epochs: 2, metrics: [accuracy, own_metric], monitor: val_own_metric}
callbacks:
  - {type: own_callback, path: PATH/seen.txt}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "own_module.py").write_text(MODULE)
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE.replace("PATH", str(tmp_path)))
    return path


def command(recipe, *words):
    # a process of its own: registering is for good
    code = f"import sys; sys.path.insert(0, {str(recipe.parent)!r}); from nrm_keras.cli import main; sys.exit(main())"
    line = [sys.executable, "-c", code, "run", str(recipe), "--out", str(recipe.parent / "runs"), *words]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_every_kind_is_built_from_its_own_module(recipe):
    result = command(recipe, "--allow-imports")
    assert result.returncode == 0, result.stderr
    (path,) = recipe.parent.glob("runs/own/*")
    run = nrm_keras.Run(path)
    assert run.summary["examples"] == {"train": 30, "validation": 30, "test": 30}
    assert run.summary["classes"] == ["below", "above"]
    assert run.metrics["val_own_metric"] == run.metrics["val_accuracy"]
    assert len((recipe.parent / "seen.txt").read_text().splitlines()) == 2


def test_a_run_with_imports_is_measured_with_permission_only(recipe):
    assert command(recipe, "--allow-imports").returncode == 0
    (path,) = recipe.parent.glob("runs/own/*")
    code = f"import sys; sys.path.insert(0, {str(recipe.parent)!r}); from nrm_keras.cli import main; sys.exit(main())"
    line = [sys.executable, "-c", code, "evaluate", str(path)]
    refused = subprocess.run(line, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "--allow-imports" in refused.stderr
    measured = subprocess.run([*line, "--allow-imports"], capture_output=True, text=True, check=False)
    assert measured.returncode == 0 and ["examples", "30"] in map(str.split, measured.stdout.splitlines())


def test_nothing_is_imported_without_permission(recipe):
    (recipe.parent / "own_module.py").write_text("open('imported', 'w').close()")
    result = command(recipe)
    assert result.returncode == 2 and "--allow-imports" in result.stderr
    assert not (recipe.parent / "runs").exists()


def test_a_module_that_does_not_register_the_name_is_an_error(recipe):
    (recipe.parent / "own_module.py").write_text(MODULE.replace('"own_norm"', '"own_nrm"'))
    result = command(recipe, "--allow-imports")
    assert result.returncode == 2 and "own_nrm" in result.stderr and "Traceback" not in result.stderr
