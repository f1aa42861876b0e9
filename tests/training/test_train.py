"""Runs as a user starts them, from Python."""

import json
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import nrm_keras
from nrm_keras import layers
from nrm_keras.errors import UserError
from nrm_keras.models.recurrent import NormalizedGRUCell
from nrm_keras.recipe.loading import load
from nrm_keras.runs import directory
from nrm_keras.training import inference
from nrm_keras.training.assembly import evaluation_data, prepared, training_batches
from nrm_keras.training.initialize import freeze_normalizers

QUICK = {"train.epochs": 2, "model": {"type": "mlp", "units": [32]}, "data.limit": 400, "data.batch_size": 16}


def quiet(line):
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return nrm_keras.run("images/digits_adaptive", QUICK, out=tmp_path_factory.mktemp("runs"), say=quiet)


def test_a_run_leaves_what_the_design_lists(finished):
    files = {str(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.is_file()}
    assert {
        "recipe.yaml",
        "command.txt",
        "environment.json",
        "metrics.csv",
        "summary.json",
        "log.txt",
        "report.html",
        "checkpoints/model.keras",
        "checkpoints/best.weights.h5",
        "checkpoints/state.npz",
    } <= files
    assert list(finished.metrics["epoch"]) == [1, 2]
    environment = json.loads((finished.path / "environment.json").read_text())
    assert environment["run"] == {"recipe": "images/digits_adaptive", "smoke": False}
    assert environment["data"]["origin"] == "scikit-learn"


def test_the_test_split_is_scored_with_the_best_weights(finished):
    summary = finished.summary
    best = int(np.argmax(finished.metrics["val_accuracy"]))
    assert summary["best_epoch"] == best + 1
    assert summary["metrics"]["validation"]["accuracy"] == pytest.approx(finished.metrics["val_accuracy"][best])
    assert inference.evaluate(finished.path) == pytest.approx(summary["metrics"]["test"] | {"examples": 359})


def test_load_gives_the_model_that_was_measured(finished):
    model = nrm_keras.load(finished.path)
    assert isinstance(model, keras.Model)
    from sklearn.datasets import load_digits

    digits = load_digits()
    logits = model.predict(digits.images[..., None], verbose=0)
    assert (logits.argmax(1) == digits.target).mean() > 0.7


def test_evaluate_other_data_and_predict(finished, tmp_path):
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez(tmp_path / "all.npz", x=digits.images, y=digits.target)
    scores = inference.evaluate(finished.path, str(tmp_path / "all.npz"))
    np.save(tmp_path / "all.npy", digits.images)
    rows = inference.predict(finished.path, tmp_path / "all.npy")
    right = np.mean([row["class"] == str(label) for row, label in zip(rows, digits.target, strict=True)])
    assert scores["accuracy"] == pytest.approx(right)
    assert all(abs(sum(v for k, v in row.items() if k.startswith("p(")) - 1) < 1e-5 for row in rows)
    Image.fromarray(digits.images[7].astype("uint8")).save(tmp_path / "seven.png")
    (row,) = inference.predict(finished.path, tmp_path / "seven.png")
    assert row["probability"] == pytest.approx(rows[7]["probability"], rel=1e-4)
    np.savez(tmp_path / "other.npz", x=np.zeros((4, 3)), y=np.zeros(4, int))
    with pytest.raises(UserError, match=r"Received: \(3,\)"):
        inference.evaluate(finished.path, str(tmp_path / "other.npz"))
    with pytest.raises(UserError, match=r"Received: \(4, 3\)"):
        np.save(tmp_path / "other.npy", np.zeros((4, 3)))
        inference.predict(finished.path, tmp_path / "other.npy")


def test_the_same_recipe_gives_the_same_bits_and_another_seed_others(finished, tmp_path):
    again = nrm_keras.run("images/digits_adaptive", QUICK, out=tmp_path, say=quiet)
    other = nrm_keras.run("images/digits_adaptive", QUICK | {"train.seed": 1}, out=tmp_path, say=quiet)
    drop = lambda metrics: {k: v for k, v in metrics.items() if k != "seconds"}
    assert drop(again.metrics) == drop(finished.metrics) != drop(other.metrics)


def test_two_runs_never_share_a_directory(tmp_path):
    files = {directory.RECIPE: "a: 1\n"}
    paths = {directory.create(tmp_path, "images/x", files) for _ in range(3)}
    assert len(paths) == 3 and all((path / directory.RECIPE).is_file() for path in paths)
    assert not list(tmp_path.glob("images/x/.*"))


def test_a_finished_run_is_left_alone_and_changes_need_consent(tmp_path):
    run = nrm_keras.run("images/digits_adaptive", QUICK, out=tmp_path, say=quiet)
    said = []
    nrm_keras.resume(run.path, say=said.append)
    assert "nothing to resume" in said[0]
    with pytest.raises(UserError, match=r"train.epochs: 2 -> 3\n.*--accept-changes"):
        nrm_keras.resume(run.path, overrides={"train.epochs": 3}, say=quiet)
    longer = nrm_keras.resume(run.path, overrides={"train.epochs": 3}, accept_changes=True, say=quiet)
    assert list(longer.metrics["epoch"]) == [1, 2, 3] and longer.summary["epochs"] == 3


def resumed(run, changes):
    return nrm_keras.resume(run.path, overrides=changes, accept_changes=True, say=quiet)


def test_accepted_changes_take_effect(tmp_path):
    constant = QUICK | {"schedule": {"type": "constant"}}
    run = nrm_keras.run("images/digits_adaptive", constant, out=tmp_path, say=quiet)
    # another learning rate is really used, and a metric that was not watched has no best value yet
    changed = resumed(run, {"train.epochs": 3, "optimizer.learning_rate": 0.003, "train.monitor": "val_loss"})
    assert changed.metrics["learning_rate"] == pytest.approx([0.1, 0.1, 0.003])
    assert changed.summary["best_epoch"] == 3
    scores = changed.summary["metrics"]["validation"]
    assert scores["loss"] == pytest.approx(changed.metrics["val_loss"][2])
    last = resumed(run, {"train.epochs": 4, "train.keep": "last"})
    assert last.summary["metrics"]["validation"]["loss"] == pytest.approx(last.metrics["val_loss"][3])


def test_more_patience_trains_on(tmp_path):
    stop = {"type": "early_stopping", "patience": 0, "min_delta": 9.0}
    run = nrm_keras.run(
        "images/digits_adaptive", QUICK | {"train.epochs": 5, "callbacks": [stop]}, out=tmp_path, say=quiet
    )
    assert run.summary["status"] == "stopped early" and run.summary["epochs"] == 2
    patient = resumed(run, {"callbacks": [stop | {"patience": 50}]})
    assert patient.summary["status"] == "finished" and patient.summary["epochs"] == 5


def test_changes_that_cannot_be_gone_on_with_leave_the_run_as_it_was(finished):
    before = {file: (finished.path / file).read_text() for file in ("recipe.yaml", "summary.json")}
    with pytest.raises(UserError, match="another model"):
        resumed(finished, {"model": {"type": "mlp", "units": [8]}, "train.epochs": 3})
    assert before == {file: (finished.path / file).read_text() for file in before}


def test_an_extension_that_was_killed_is_unfinished(tmp_path, monkeypatch):
    run = nrm_keras.run("images/digits_adaptive", QUICK, out=tmp_path, say=quiet)
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        resumed(run, {"train.epochs": 3})
    monkeypatch.undo()
    assert run.summary is None
    assert nrm_keras.resume(run.path, say=quiet).summary["epochs"] == 3


def test_one_process_at_a_time_trains_in_a_directory(finished):
    with directory.lock(finished.path), pytest.raises(UserError, match="another one is"):
        resumed(finished, {"train.epochs": 3})


def test_a_divergence_is_named(tmp_path):
    said = []
    options = QUICK | {"optimizer.learning_rate": 1e30, "norm": {"type": "none"}}
    run = nrm_keras.run("images/digits_adaptive", options, out=tmp_path, say=said.append)
    assert run.summary["status"] == "diverged" and any("diverged" in line for line in said)
    assert "NaN" not in (run.path / "summary.json").read_text()


def test_a_reader_that_leaves_does_not_stop_the_training(tmp_path):
    def leave(line):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):  # the very first line comes before the training
        nrm_keras.run("images/digits_adaptive", QUICK, out=tmp_path, say=leave)
    (path,) = tmp_path.glob("images/digits_adaptive/*")
    assert nrm_keras.resume(path, say=quiet).summary["status"] == "finished"


def test_a_run_that_trained_nothing_leaves_nothing(tmp_path):
    np.savez(tmp_path / "flat.npz", x=np.zeros((40, 3)), y=np.arange(40) % 2)
    data = {"data": {"source": "npz", "path": str(tmp_path / "flat.npz")}}
    with pytest.raises(UserError, match="resnet needs images"):
        nrm_keras.run("images/digits_adaptive", data, out=tmp_path / "runs", say=quiet)
    assert not list((tmp_path / "runs").rglob("recipe.yaml"))
    with pytest.raises(UserError, match="train.init_from"):
        nrm_keras.run("images/digits_adaptive", {"train.init_from": "nowhere"}, out=tmp_path / "runs", say=quiet)


def test_a_run_killed_while_it_was_being_measured_ends_the_same(finished, tmp_path):
    run = nrm_keras.run("images/digits_adaptive", QUICK, out=tmp_path, say=quiet)
    expected = {k: v for k, v in run.summary.items() if k != "seconds"}
    for file in ("summary.json", "checkpoints/model.keras", "report.html"):
        (run.path / file).unlink()
    again = nrm_keras.resume(run.path, say=quiet)
    assert {k: v for k, v in again.summary.items() if k != "seconds"} == expected
    assert list(again.metrics["epoch"]) == [1, 2]


def test_a_missing_file_is_noticed_before_anything_is_made(tmp_path):
    data = {"data": {"source": "npz", "path": str(tmp_path / "none.npz")}}
    with pytest.raises(UserError, match="none.npz, which is none"):
        nrm_keras.run("images/digits_adaptive", data, out=tmp_path / "runs", say=quiet)
    assert not (tmp_path / "runs").exists()


def test_resuming_with_other_data_is_refused(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(100, 4)), np.arange(100) % 2
    np.savez(tmp_path / "data.npz", x=x, y=y)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "data: {source: npz, path: data.npz}\nmodel: {type: mlp, units: [4]}\nnorm: {type: batch}\n"
        "optimizer: {type: adam}\ntrain: {epochs: 1}\n"
    )
    run = nrm_keras.run(recipe, out=tmp_path, say=quiet)
    (run.path / "summary.json").unlink()
    np.savez(tmp_path / "data.npz", x=x + 1, y=y)
    with pytest.raises(UserError, match="goes on with the data it began with"):
        nrm_keras.resume(run.path, say=quiet)


def test_init_from_copies_what_fits_and_freezes_normalizers(finished, tmp_path):
    said = []
    options = QUICK | {"train.init_from": str(finished.path), "train.freeze_normalizers": True, "train.epochs": 1}
    tuned = nrm_keras.run("images/digits_adaptive", options, out=tmp_path, say=said.append)
    assert any(line.startswith("Initialized") and "Left" not in line for line in said)
    before, after = nrm_keras.load(finished.path), nrm_keras.load(tuned.path)
    for a, b in zip(before.weights, after.weights, strict=True):
        changed = not np.array_equal(a.numpy(), b.numpy())
        assert changed == (not ("norm" in a.path or "standardize" in a.path)), a.path


def test_normalizers_inside_a_recurrent_cell_are_frozen_too():
    cell = NormalizedGRUCell(4, layers.LayerNormalization(), layers.LayerNormalization())
    model = keras.Sequential([keras.Input((7, 12)), keras.layers.RNN(cell), layers.BatchNormalization()])
    freeze_normalizers(model)
    assert sorted(v.path.split("/")[-2] for v in model.trainable_weights) == ["candidate", "gates"]


def test_class_weights_change_what_is_learned(tmp_path):
    options = QUICK | {"train.class_weights": {"3": 30.0}, "train.epochs": 4}
    run = nrm_keras.run("images/digits_adaptive", options, out=tmp_path, say=quiet)
    from sklearn.datasets import load_digits

    digits = load_digits()
    answers = nrm_keras.load(run.path).predict(digits.images[..., None], verbose=0).argmax(1)
    plain = nrm_keras.run("images/digits_adaptive", QUICK | {"train.epochs": 4}, out=tmp_path, say=quiet)
    without = nrm_keras.load(plain.path).predict(digits.images[..., None], verbose=0).argmax(1)
    assert (answers == 3).sum() > 1.1 * (without == 3).sum()
    with pytest.raises(UserError, match="Received: three"):
        nrm_keras.run(
            "images/digits_adaptive", QUICK | {"train.class_weights": {"three": 3.0}}, out=tmp_path, say=quiet
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_end_of_the_step_and_says_how_to_go_on(tmp_path, number):
    command = [
        sys.executable,
        "-m",
        "nrm_keras",
        "run",
        "images/digits_adaptive",
        "train.epochs=500",
        "model={type: mlp}",
    ]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not any((run / "metrics.csv").exists() for run in directory.find_all(tmp_path)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    (run,) = directory.find_all(tmp_path)
    assert f"run --resume {run}" in output
    assert "Traceback" not in errors
    assert (run / "checkpoints" / "state.npz").exists() and (run / "report.html").exists()


WATCHED = {"train.epochs": 3, "data.limit": 400, "data.batch_size": 16, "diagnostics": {"every": 10}}


def test_a_watched_run_writes_records_and_resumes_bit_for_bit(tmp_path):
    """Regression: a probed step adds up in another order, and a resumed run probed other steps."""
    whole = nrm_keras.run("images/digits_adaptive", WATCHED, out=tmp_path / "whole", say=quiet)
    command = [sys.executable, "-m", "nrm_keras", "run", "images/digits_adaptive", "--out", str(tmp_path / "killed")]
    command += [f"{key}={json.dumps(value)}" for key, value in WATCHED.items()]
    process = subprocess.Popen([*command, "train.checkpoint_every=7"], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 2/3"):
            process.kill()
            break
    process.wait()
    (path,) = (tmp_path / "killed" / "images" / "digits_adaptive").iterdir()
    resumed = nrm_keras.resume(path, say=quiet)
    for one, other in zip(
        nrm_keras.load(whole.path).get_weights(), nrm_keras.load(resumed.path).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)

    def steps(run):
        records = map(json.loads, (run.path / directory.STATISTICS).read_text().splitlines())
        return [record["step"] for record in records if record["kind"] == "step"]

    # besides those that a leap of the loss makes it look at
    assert set(range(1, 75, 10)) <= set(steps(resumed)) and set(range(1, 75, 10)) <= set(steps(whole))
    assert steps(resumed) == sorted(set(steps(resumed)))


@pytest.mark.parametrize(("size", "expected"), [(None, 4), (100, 100)])
def test_held_out_data_may_come_in_batches_of_its_own_size(size, expected):
    recipe = load("images/digits_adaptive", {"data.batch_size": 4, "data.evaluation_batch_size": size}).recipe
    examples = prepared(recipe)
    assert len(next(iter(training_batches(recipe, examples)(0)))[0]) == 4
    for split in ("validation", "test"):
        assert len(next(iter(evaluation_data(recipe, examples, split)))[0]) == expected
