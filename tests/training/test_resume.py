"""ExactResume in a `fit` of the user's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from nrm_keras.callbacks import ExactResume, skip_forward
from nrm_keras.errors import UserError

X = np.random.default_rng(0).normal(size=(70, 6)).astype("float32")
Y = (X.sum(1) > 0).astype("int32")


def batches(epoch, step):
    order = np.random.default_rng(epoch).permutation(70)  # plain Python: called anew at each epoch
    return tf.data.Dataset.from_tensor_slices((X[order], Y[order])).batch(16).skip(step)


def make_model(policy="float32", steps_per_execution=1):
    keras.utils.set_random_seed(1)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2, dtype="float32"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )
    keras.config.set_dtype_policy(before)
    return model


class StopAt(keras.callbacks.Callback):
    """Dies like a crash: nothing of the process but the file survives."""

    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("crash")


def fit(directory, crash_after=None, epochs=6, every=2, policy="float32", patience=2, steps_per_execution=1):
    model = make_model(policy, steps_per_execution)
    others = [
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=0, min_delta=0.3),
        keras.callbacks.EarlyStopping("val_loss", patience=patience, min_delta=0.02, restore_best_weights=True),
    ]
    resume = ExactResume(directory, every, dataset_at=batches, callbacks=others)
    extra = [StopAt(crash_after)] if crash_after else []
    history = model.fit(
        resume.dataset,
        validation_data=(X[:20], Y[:20]),
        epochs=epochs,
        initial_epoch=resume.initial_epoch,
        callbacks=[*resume.callbacks, *extra],
        shuffle=False,
        verbose=0,
    )
    return model, history, others


def state(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(v).tobytes() for v in variables]


@pytest.mark.parametrize(
    "policy,patience,every,steps_per_execution",
    [
        ("float32", 1, 2, 1),
        ("float32", 99, None, 1),
        ("float32", 99, 2, 2),
        ("mixed_float16", 99, 1, 1),
        ("mixed_bfloat16", 99, 2, 1),
    ],
)
def test_resumes_bit_for_bit_after_every_crash(tmp_path, policy, patience, every, steps_per_execution):
    options = {"policy": policy, "patience": patience, "every": every, "steps_per_execution": steps_per_execution}
    expected, history, callbacks = fit(tmp_path / "whole", **options)
    assert len(set(history.history["learning_rate"])) > 1  # ReduceLROnPlateau did something
    assert (callbacks[1].stopped_epoch > 0) == (patience == 1)
    for crash_after in (6, 4, 3, 2):  # again and again, in the middle and at the ends of epochs
        with pytest.raises(RuntimeError, match="crash"):
            fit(tmp_path / "crashed", crash_after=crash_after, **options)
    got, resumed_history, _ = fit(tmp_path / "crashed", **options)
    assert state(got) == state(expected)
    assert resumed_history.history == history.history
    assert resumed_history.epoch == history.epoch


def test_an_ended_training_stays_ended(tmp_path):
    expected, history, _ = fit(tmp_path, patience=1)
    again, same, _ = fit(tmp_path, patience=1)
    assert same.history == history.history and same.epoch == history.epoch
    assert state(again)[: len(again.variables)] == state(expected)[: len(expected.variables)]


class Subclassed(keras.Model):
    """Has no variables before it is called."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu")
        self.noise = keras.layers.GaussianNoise(0.1)
        self.out = keras.layers.Dense(2)

    def call(self, x, training=False):
        return self.out(self.noise(self.hidden(x), training=training))


def test_a_subclassed_model_resumes_bit_for_bit(tmp_path):
    def run(directory, epochs):
        keras.utils.set_random_seed(0)
        model = Subclassed()
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        resume = ExactResume(directory, dataset_at=batches)
        start = resume.initial_epoch
        model.fit(
            resume.dataset, epochs=epochs, initial_epoch=start, callbacks=resume.callbacks, shuffle=False, verbose=0
        )
        return state(model)

    run(tmp_path / "parts", 2)
    assert run(tmp_path / "parts", 4) == run(tmp_path / "whole", 4)


def test_stop_request_saves_and_stops_at_the_end_of_the_step(tmp_path):
    model = make_model()
    resume = ExactResume(tmp_path, dataset_at=batches)
    request = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: batch == 2 and resume.request_stop()
    )
    with pytest.raises(KeyboardInterrupt):
        model.fit(resume.dataset, epochs=3, callbacks=[request, *resume.callbacks], shuffle=False, verbose=0)
    later = ExactResume(tmp_path, dataset_at=batches)
    assert (later.epoch, later.step, later.resuming) == (0, 3, True)


def test_a_plain_dataset_is_refused_at_once(tmp_path):
    with pytest.raises(TypeError, match="can't be rewound.*skip_forward"):
        ExactResume(tmp_path, dataset_at=batches(0, 0))
    with pytest.raises(ValueError, match="known number of batches"):
        ExactResume(tmp_path, dataset_at=lambda epoch, step: batches(0, 0).repeat())
    with pytest.raises(ValueError, match="every=0"):
        ExactResume(tmp_path, 0, dataset_at=batches)


def test_skip_forward_gives_the_rest_and_says_what_it_costs():
    dataset_at = skip_forward(tf.data.Dataset.range(10))
    with pytest.warns(UserWarning, match="reads and drops 7 batches, about 0"):
        rest = dataset_at(0, 7)
    assert [int(n) for n in rest] == [7, 8, 9]


def test_another_model_is_refused(tmp_path):
    fit(tmp_path, epochs=1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    resume = ExactResume(tmp_path, dataset_at=batches)
    with pytest.raises(UserError, match="another model"):
        model.fit(
            resume.dataset,
            epochs=2,
            initial_epoch=resume.initial_epoch,
            callbacks=resume.callbacks,
            shuffle=False,
            verbose=0,
        )


def test_a_callback_without_a_saved_state_starts_afresh_and_says_so(tmp_path):
    fit(tmp_path, epochs=2)
    said = []
    kept = keras.callbacks.ReduceLROnPlateau("val_loss", patience=99)
    other = keras.callbacks.EarlyStopping("val_accuracy", patience=99)  # the saved best is a loss
    model = make_model()
    resume = ExactResume(tmp_path, dataset_at=batches, callbacks=[other, kept], say=said.append)
    resume.set_model(model)
    for callback in (other, kept):
        callback.on_train_begin()
    resume.on_train_begin()
    assert said == ["EarlyStopping(val_accuracy) starts afresh: the saved state has none."]
    assert other.best is None and 0 < kept.best < 10


def test_forgetting_initial_epoch_is_an_error(tmp_path):
    fit(tmp_path, epochs=2)
    model = make_model()
    others = [keras.callbacks.ReduceLROnPlateau(), keras.callbacks.EarlyStopping()]
    resume = ExactResume(tmp_path, dataset_at=batches, callbacks=others)
    with pytest.raises(ValueError, match="initial_epoch=resume.initial_epoch"):
        model.fit(resume.dataset, epochs=4, callbacks=resume.callbacks, shuffle=False, verbose=0)
