"""`diagnose`: what it finds, and that the model is left as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

import nrm_keras


def digits(count=640):
    x, y = load_digits(return_X_y=True)
    return (x / 16).reshape(-1, 8, 8, 1).astype("float32")[:count], y[:count]


class Subclassed(keras.Model):
    """With a random layer, running statistics, and a train_step of its own."""

    def __init__(self):
        super().__init__()
        self.convolution = layers.Conv2D(8, 3, name="convolution")
        self.norm = layers.BatchNormalization(name="norm")
        self.dropout = layers.Dropout(0.3)
        self.out = layers.Dense(10, name="out")

    def call(self, inputs, training=None):
        x = keras.ops.relu(self.norm(self.convolution(inputs), training=training))
        return self.out(keras.ops.mean(self.dropout(x, training=training), (1, 2)))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return self.compute_metrics(x, y, y_pred)


def functional():
    inputs = keras.Input((8, 8, 1))
    x = layers.Dropout(0.2)(layers.ReLU()(layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3)(inputs))))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def compiled(build, optimizer="adam"):
    keras.utils.set_random_seed(0)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


@pytest.mark.parametrize("build", [functional, Subclassed])
def test_the_model_is_left_as_it_was(build):
    model = compiled(build)
    x, y = digits()
    model.fit(x, y, epochs=1, verbose=0)
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [keras.ops.convert_to_numpy(v).copy() for v in variables]
    function, history, seen = model.train_function, model.history, dict(vars(model))
    nrm_keras.diagnose(model, (x, y), steps=6)
    after = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    assert [id(v) for v in after] == [id(v) for v in variables]
    for variable, value in zip(after, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value, err_msg=variable.path)
    assert model.train_function is function and model.history is history
    assert set(vars(model)) == set(seen)
    assert all("call" not in vars(layer) for layer in model._flatten_layers())
    # and it trains on exactly as if nothing had been
    other = compiled(build)
    other.fit(x, y, epochs=1, verbose=0)
    for m in (model, other):
        keras.utils.set_random_seed(1)
        m.fit(x, y, epochs=1, verbose=0)
    for one, another in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, another)


def test_it_finds_running_statistics_that_lag_behind():
    model = compiled(functional)
    x, y = digits()
    model.fit(x, y, epochs=1, verbose=0)
    diagnosis = nrm_keras.diagnose(model, (x, y), deep=False)
    found = next(finding for finding in diagnosis.findings if finding.rule == "train_inference_gap")
    assert found.layer == "norm" and found.evidence.startswith("Too few updates")
    assert "recalibrate" in found.advice
    assert diagnosis.gap.verdict == "too few updates"


def test_the_gravest_finding_comes_first():
    keras.utils.set_random_seed(0)
    sick = layers.Dense(32, "relu", bias_initializer=keras.initializers.Constant(-30.0), name="sick")
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), sick, layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    diagnosis = nrm_keras.diagnose(model, digits())
    assert (diagnosis.findings[0].rule, diagnosis.findings[0].layer) == ("dead_units", "sick")
    text = str(diagnosis)
    assert text.startswith(f"{len(diagnosis.findings)} findings in 20 steps.\n1. dead_units sick: 32 of 32")
    assert "Largest eigenvalue of the Hessian (training mode)" in text


def test_a_healthy_model_has_no_findings():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(32, "relu"), layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    diagnosis = nrm_keras.diagnose(model, digits(), deep=False)
    assert diagnosis.findings == ()
    assert str(diagnosis) == "No findings in 20 steps."


def test_data_sets_of_batches():
    model = compiled(functional)
    data = tf.data.Dataset.from_tensor_slices(digits(200)).batch(64)  # fewer batches than steps, the last one smaller
    assert nrm_keras.diagnose(model, data, steps=5, deep=False).steps == 5


def test_a_model_that_is_not_ready():
    with pytest.raises(ValueError, match="compiled=False, built=True. Call model.compile"):
        nrm_keras.diagnose(functional(), digits())
    model = compiled(functional)
    with pytest.raises(ValueError, match="must have a batch"):
        nrm_keras.diagnose(model, iter([]))
