"""Rules on trainings that are sick in a known way, and on one that is not."""

import json
import random

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits

from nrm_keras.callbacks import InternalStatistics
from nrm_keras.diagnostics.alerts import Alerts
from nrm_keras.diagnostics.rule_names import RULE_NAMES
from nrm_keras.diagnostics.rules import RULES


def digits():
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype("float32")[:640], y[:640]


def train(hidden, epochs=3, action="log", path=None, every=2, optimizer="adam", **settings):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, name="logits")])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    watch = InternalStatistics(every=every, path=path, action=action, say=lambda line: None, **settings)
    model.fit(*digits(), epochs=epochs, verbose=0, callbacks=[watch])
    return model, watch


def dead_layer():
    return layers.Dense(32, "relu", bias_initializer=keras.initializers.Constant(-30.0), name="sick")


def test_a_recipe_knows_the_rules_in_their_order():
    assert [rule.name for rule in RULES] == list(RULE_NAMES)


@pytest.mark.parametrize("rule", RULES, ids=RULE_NAMES)
def test_a_rule_says_why_and_what_to_try(rule):
    assert rule.reason.endswith(".") and rule.advice
    assert rule.patience >= 1


def test_a_healthy_training_raises_no_alert():
    _, watch = train([layers.Dense(32, "relu", name="hidden")])
    assert watch.alerts == []


def test_an_alert_names_rule_layer_step_value_and_threshold(tmp_path):
    _, watch = train([layers.Dense(32, "relu", name="well"), dead_layer()], path=tmp_path / "statistics.jsonl")
    alert = next(alert for alert in watch.alerts if alert.rule == "dead_units")
    assert (alert.layer, alert.value, alert.threshold) == ("sick", 1.0, 0.5)
    assert alert.step == 5  # patience 3: steps 1, 3 and 5
    assert "32 of 32 channels" in str(alert)
    written = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert [record["rule"] for record in written] == [alert.rule for alert in watch.alerts]


def test_once_for_each_layer():
    _, watch = train([dead_layer()], epochs=4)
    assert sum(alert.rule == "dead_units" for alert in watch.alerts) == 1


def test_settings_change_a_rule():
    sick = [dead_layer()]
    _, watch = train(sick, alerts={"dead_units": {"patience": 6}})
    assert next(alert.step for alert in watch.alerts if alert.rule == "dead_units") == 11
    _, watch = train([dead_layer()], alerts={"dead_units": False})
    assert "dead_units" not in {alert.rule for alert in watch.alerts}
    _, watch = train([dead_layer()], alerts=False)
    assert watch.alerts == []


def test_stop_ends_the_training_with_evidence(tmp_path):
    model, _ = train(
        [dead_layer()], path=tmp_path / "statistics.jsonl", alerts={"dead_units": {"action": "stop"}}, epochs=9
    )
    assert int(model.optimizer.iterations) == 5
    folder = tmp_path / "evidence" / "dead_units-5"
    assert json.loads((folder / "alert.json").read_text())["layer"] == "sick"
    assert (folder / "statistics.jsonl").read_text().count('"kind": "step"') == 3
    before = model.get_weights()
    model.load_weights(folder / "stopped.weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_an_action_of_ones_own():
    seen = []
    _, watch = train([dead_layer()], action=seen.append)
    assert seen == watch.alerts != []


@pytest.mark.parametrize(
    ("rule", "hidden", "optimizer"),
    [
        ("initialization", lambda: [layers.Dense(32, "relu", kernel_initializer="ones", name="sick")], "adam"),
        ("extreme_setting", lambda: [layers.Dense(32), layers.BatchNormalization(momentum=1.0, name="sick")], "adam"),
        ("frozen_at_random", lambda: [layers.Dense(32, "relu", trainable=False, name="sick")], "adam"),
        ("normalizer_scale", lambda: [layers.Dense(32), layers.BatchNormalization(epsilon=1e3, name="sick")], "adam"),
        ("saturated_units", lambda: [layers.Rescaling(300.0), layers.Dense(32, "tanh", name="sick")], "adam"),
    ],
)
def test_the_layer_at_fault_is_named(rule, hidden, optimizer):
    _, watch = train(hidden(), optimizer=optimizer)
    assert ("sick", rule) in {(alert.layer, alert.rule) for alert in watch.alerts}


@pytest.mark.parametrize(
    ("rule", "optimizer"),
    [
        ("loss_not_decreasing", keras.optimizers.Adam(3.0)),
        ("updates_too_small", keras.optimizers.SGD(1e-7)),
        ("extreme_setting", keras.optimizers.SGD(0.1, clipnorm=1e-7)),
        ("regularization", keras.optimizers.AdamW(1e-2, weight_decay=20.0)),
    ],
)
def test_an_optimizer_at_fault(rule, optimizer):
    _, watch = train([layers.Dense(32, "relu", name="hidden")], optimizer=optimizer)
    assert rule in {alert.rule for alert in watch.alerts}


def test_probabilities_into_a_loss_that_wants_logits():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(10, "softmax", name="last")])
    model.compile("adam", keras.losses.MeanSquaredError())
    watch = InternalStatistics(every=1, say=lambda line: None)
    x, y = digits()
    model.fit(x, 10.0 * np.eye(10)[y], epochs=1, verbose=0, callbacks=[watch])
    assert ("loss_mismatch", "last") in {(alert.rule, alert.layer) for alert in watch.alerts}


def test_names_of_rules_and_settings_are_checked():
    with pytest.raises(ValueError, match="Received: 'dead_unit'. Did you mean 'dead_units'"):
        Alerts({"dead_unit": False})
    with pytest.raises(ValueError, match="Received: 'limit' for 'dead_units'"):
        Alerts({"dead_units": {"limit": 3}})


def test_one_alert_for_what_is_not_finite():
    keras.utils.set_random_seed(0)
    x, y = digits()
    x = x.copy()
    x[100, 0] = np.nan
    model = keras.Sequential([keras.Input((64,)), layers.Dense(32, "relu"), layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    watch = InternalStatistics(every=1, say=lambda line: None)
    model.fit(x, y, epochs=1, shuffle=False, verbose=0, callbacks=[watch])
    assert [(alert.rule, alert.layer, alert.step) for alert in watch.alerts] == [("non_finite", None, 4)]
    assert "batch itself" in watch.alerts[0].evidence


def test_a_rule_that_fails_is_left_out(monkeypatch):
    monkeypatch.setattr(RULES[8], "observe", lambda self, observation: 1 / 0)
    with pytest.warns(UserWarning, match="The rule dead_units failed and is left out: ZeroDivisionError"):
        _, watch = train([dead_layer()])
    assert watch.alerts and "dead_units" not in {alert.rule for alert in watch.alerts}


def test_a_training_that_goes_on_is_not_asked_how_it_began():
    model, watch = train([layers.Dense(32, "relu", name="hidden")])
    x, y = digits()
    model.get_layer("hidden").kernel.assign(10 * model.get_layer("hidden").kernel)
    model.fit(x, y, epochs=8, verbose=0, callbacks=[watch])
    assert not {"initialization", "loss_not_decreasing"} & {alert.rule for alert in watch.alerts}


def test_watching_draws_no_random_number():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(4, trainable=False), layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    expected = random.getstate()
    watch = InternalStatistics(every=1, say=lambda line: None)
    model.fit(*digits(), epochs=1, shuffle=False, verbose=0, callbacks=[watch])
    assert watch.alerts[0].rule == "frozen_at_random"
    assert random.getstate() == expected


def test_weights_that_were_given_are_not_random():
    matrix = np.random.default_rng(0).normal(size=(64, 16))
    given = layers.Dense(16, kernel_initializer=keras.initializers.Constant(matrix), trainable=False, name="given")
    _, watch = train([given])
    assert watch.alerts == []


def test_steps_that_become_small_on_purpose():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.1, 30, end_learning_rate=0.0)
    _, watch = train([layers.Dense(32, "relu")], optimizer=keras.optimizers.SGD(schedule))
    assert "updates_too_small" not in {alert.rule for alert in watch.alerts}


def test_two_outputs_may_be_sure_of_themselves():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64,))
    rare = layers.Dense(1, "sigmoid", bias_initializer=keras.initializers.Constant(-9.0), name="rare")(inputs)
    model = keras.Model(inputs, [rare, layers.Dense(10, name="digit")(inputs)])
    model.compile("adam", ["binary_crossentropy", keras.losses.SparseCategoricalCrossentropy(from_logits=True)])
    watch = InternalStatistics(every=2, say=lambda line: None)
    x, y = digits()
    model.fit(x, [np.zeros((len(y), 1)), y], epochs=3, verbose=0, callbacks=[watch])
    assert watch.alerts == []


def test_a_constant_answer_is_no_match_for_a_weighted_loss():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(10, kernel_regularizer=keras.regularizers.L2(0.05))])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    watch = InternalStatistics(every=2, say=lambda line: None)
    model.fit(*digits(), epochs=4, verbose=0, class_weight=dict.fromkeys(range(10), 3.0), callbacks=[watch])
    assert "no_better_than_constant" not in {alert.rule for alert in watch.alerts}
