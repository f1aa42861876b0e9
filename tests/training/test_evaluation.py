"""What a run leaves about each class, against the model that it saved."""

import io
import json

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix

import nrm_keras
from nrm_keras.data import sources
from nrm_keras.data.examples import Examples, Split
from nrm_keras.recipe import loading
from nrm_keras.training import evaluation, inference

QUICK = {"train.epochs": 1, "model": {"type": "mlp", "units": [32]}, "data.limit": 400, "data.batch_size": 16}


def quiet(line):
    pass


def content(run):
    return json.loads((run.path / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return nrm_keras.run("images/digits_adaptive", QUICK, out=tmp_path_factory.mktemp("runs"), say=quiet)


@pytest.fixture(scope="module")
def answers(finished):
    """(test split, its probabilities by the saved model and Keras' own predict)."""
    test = sources.load(loading.load(finished.path / "recipe.yaml").recipe.data).test
    logits = nrm_keras.load(finished.path).predict(test.inputs.astype("float32"), verbose=0)
    return test, keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def test_counts_are_those_of_the_saved_model(finished, answers):
    test, probabilities = answers
    found = content(finished)
    assert found["split"] == "test" and found["classes"] == list("0123456789") and found["unanswered"] == 0
    expected = confusion_matrix(test.labels, probabilities.argmax(1), labels=range(10))
    np.testing.assert_array_equal(found["confusion"], expected)
    assert not np.array_equal(expected, expected.T), "rows and columns could be exchanged unnoticed"
    scores = finished.summary["metrics"]["test"]
    assert np.trace(found["confusion"]) / len(test) == pytest.approx(scores["accuracy"])
    assert np.average(found["loss_per_class"], weights=expected.sum(1)) == pytest.approx(scores["loss"], rel=1e-5)


def test_pictures_are_the_surest_mistakes(finished, answers):
    test, probabilities = answers
    found = content(finished)["examples"]
    chosen = np.where(probabilities.argmax(1) == test.labels, 0, probabilities.max(1))
    assert [one["probability"] for one in found] == pytest.approx(np.sort(chosen)[::-1][:12], rel=1e-4)
    worst = chosen.argmax()
    assert (found[0]["true"], found[0]["predicted"]) == (str(test.labels[worst]), str(probabilities[worst].argmax()))
    pixels = np.asarray(Image.open(finished.path / found[0]["image"]))
    # values from 0 to 16 become grey from 0 to 255, in their own size
    assert pixels.shape == (8, 8) and pixels.max() == 255
    np.testing.assert_allclose(pixels / 255, test.inputs[worst, ..., 0] / 16, atol=0.5 / 255)


def test_predict_answers_a_colour_picture_as_the_run_recorded(tmp_path):
    """From a folder, whose files are decoded; a PNG of 24 x 20 pixels is itself an input of that model."""
    noise = np.random.default_rng(0)
    for name in ("cat", "dog"):  # which nobody can tell apart
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(30):
            pixels = noise.integers(0, 256, (24, 20, 3), "uint8")
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    changes = {
        "data": {"source": "folder", "path": str(tmp_path / "data"), "image_size": [24, 20], "test": 0.5},
        "train.epochs": 1,
    }
    run = nrm_keras.run("images/digits_adaptive@mlp", changes, out=tmp_path / "runs", say=quiet)
    found = content(run)
    assert found["classes"] == ["cat", "dog"] and sum(map(sum, found["confusion"])) == 30
    assert found["examples"]
    for one in found["examples"]:
        (row,) = inference.predict(run.path, run.path / one["image"])
        assert row["class"] == one["predicted"] != one["true"]
        assert row["probability"] == pytest.approx(one["probability"], rel=1e-3)


def test_without_a_test_split_validation_is_measured_and_smoke_runs_too(tmp_path):
    smoke = nrm_keras.run("images/digits_adaptive@mlp", out=tmp_path, smoke=True, say=quiet)
    assert sum(map(sum, content(smoke)["confusion"])) == smoke.summary["examples"]["test"] == 16
    run = nrm_keras.run("images/digits_adaptive", QUICK | {"data.test": 0.0}, out=tmp_path, say=quiet)
    assert content(run)["split"] == "validation"
    assert sum(map(sum, content(run)["confusion"])) == run.summary["examples"]["validation"]
    none = {"data.test": 0.0, "data.validation": 0.0, "train.keep": "last"}
    neither = nrm_keras.run("images/digits_adaptive", QUICK | none, out=tmp_path, say=quiet)
    assert not (neither.path / "evaluation.json").exists() and not (neither.path / "examples").exists()


def test_an_extended_run_has_no_old_evaluation(tmp_path, monkeypatch):
    run = nrm_keras.run("images/digits_adaptive", QUICK, out=tmp_path, say=quiet)
    before = content(run)
    changes = {"train.epochs": 3}
    with pytest.raises(nrm_keras.errors.UserError, match="another model"):
        nrm_keras.resume(
            run.path, overrides=changes | {"model": {"type": "mlp", "units": [8]}}, accept_changes=True, say=quiet
        )
    assert content(run) == before
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        nrm_keras.resume(run.path, overrides=changes, accept_changes=True, say=quiet)
    monkeypatch.undo()
    assert not (run.path / "evaluation.json").exists()
    nrm_keras.resume(run.path, say=quiet)
    assert content(run)["confusion"] != before["confusion"]
    pictures = {f"examples/{path.name}" for path in (run.path / "examples").iterdir()}
    assert pictures == {one["image"] for one in content(run)["examples"]}


def write(path, model, inputs, labels, classes):
    split = Split(inputs, labels)
    names = tuple(map(str, range(classes)))
    evaluation.write(path, model, Examples(names, split, split, split, "here", inputs.shape[1:]), batch_size=32)


def identity(shape, classes):
    """A model whose logits are the first values of its input."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Lambda(lambda x: x[:, :classes])(keras.layers.Flatten()(inputs)))


def test_answers_that_are_not_finite_are_counted_apart(tmp_path):
    logits = np.random.default_rng(0).normal(size=(100, 3)).astype("float32")
    labels = np.arange(100, dtype="int32") % 2
    broken = [3, 40, 99]
    logits[broken, [0, 1, 2]] = np.nan, np.inf, np.nan
    write(tmp_path, identity((3,), 3), logits, labels, 3)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    sound = np.delete(np.arange(100), broken)
    np.testing.assert_array_equal(
        found["confusion"], confusion_matrix(labels[sound], logits[sound].argmax(1), labels=range(3))
    )
    assert found["unanswered"] == 3 and found["examples"] == []
    assert found["loss_per_class"][2] is None and all(np.isfinite(found["loss_per_class"][:2]))


@pytest.mark.parametrize("shape", [(400, 300, 3), (8, 3000, 1), (1, 1, 3), (5, 5, 4), (5, 5), (7,)])
def test_pictures_fit_a_page_and_are_never_enlarged(tmp_path, shape):
    inputs = np.random.default_rng(0).uniform(-1, 1, (4, *shape)).astype("float32")
    labels = inputs.reshape(4, -1)[:, :2].argmin(1).astype("int32")  # the model is always wrong
    write(tmp_path, identity(shape, 2), inputs, labels, 2)
    found = json.loads((tmp_path / "evaluation.json").read_text())["examples"]
    assert len(found) == (4 if len(shape) == 3 and shape[-1] in (1, 3) else 0)
    for one in found:
        content = (tmp_path / one["image"]).read_bytes()
        width, height = Image.open(io.BytesIO(content)).size
        assert width <= min(256, shape[1]) and height <= min(256, shape[0]) and len(content) <= 100_000


def test_a_matrix_that_nobody_could_read_is_not_written(tmp_path):
    (tmp_path / "evaluation.json").write_text("of another time")
    write(tmp_path, identity((1200,), 1200), np.eye(5, 1200, dtype="float32"), np.arange(5, dtype="int32"), 1200)
    assert not (tmp_path / "evaluation.json").exists()


def test_the_digits_are_all_there(finished):
    """The oracle's split is the run's: as many examples of each class as stratification leaves of scikit-learn's."""
    shares = np.sum(content(finished)["confusion"], axis=1) / np.bincount(load_digits().target)
    assert np.allclose(shares, 0.2, atol=0.01)
