"""Losses and metrics of the tasks against scikit-learn and plain NumPy float64."""

import keras
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import f1_score, jaccard_score, r2_score, roc_auc_score, root_mean_squared_error

from nrm_keras.recipe.rules import METRICS_OF_TASK
from nrm_keras.training.tasks import TASKS, Auroc, Dice, DiceCrossEntropy

CHANCE = np.random.default_rng(0)


def masks(batch=3, size=6, classes=3, positions=2):
    true = CHANCE.integers(0, classes, (batch, *[size] * positions)).astype("int32")
    logits = CHANCE.normal(size=(*true.shape, classes)) + 1.5 * np.eye(classes)[true]
    return true, logits.astype("float32")


@pytest.mark.parametrize("positions", [2, 3])
@pytest.mark.parametrize("classes", [2, 3])
def test_dice_and_iou_are_those_of_scikit_learn(classes, positions):
    true, logits = masks(classes=classes, positions=positions)
    metrics = TASKS["segmentation"].metrics
    foreground = list(range(1, classes))
    for name, reference in (("dice", f1_score), ("iou", jaccard_score)):
        metric = metrics[name](classes)
        for part in (slice(0, 1), slice(1, None)):  # the batches don't matter
            metric.update_state(true[part], logits[part])
        expected = reference(true.ravel(), logits.argmax(-1).ravel(), labels=foreground, average="macro")
        assert float(metric.result()) == pytest.approx(expected, rel=1e-6)


def test_dice_leaves_out_a_class_that_is_nowhere():
    true, predicted = np.array([[0, 1, 1, 0]]), np.array([[0, 1, 0, 0]])
    metric = Dice(3)
    metric.update_state(true, 9.0 * np.eye(3)[predicted])
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_dice_cross_entropy_against_numpy():
    true, logits = masks()
    p, t = softmax(logits.astype("float64"), -1), np.eye(3)[true]
    entropy = -np.log((p * t).sum(-1)).mean((1, 2))
    both, either = (p * t).sum((1, 2))[:, 1:], (p + t).sum((1, 2))[:, 1:]
    expected = entropy + 1 - ((2 * both + 1) / (either + 1)).mean(-1)
    found = DiceCrossEntropy(reduction=None)(true, logits)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), expected, rtol=1e-5)
    assert float(DiceCrossEntropy()(true, 50.0 * np.eye(3)[true])) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("confidence", [0.1, 1.0, 12.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_auroc_is_that_of_scikit_learn(classes, confidence):
    true = np.resize(np.arange(classes), 600).astype("int32")
    logits = confidence * (CHANCE.normal(size=(600, classes)) + 0.7 * np.eye(classes)[true]).astype("float32")
    metric = Auroc(classes)
    metric.update_state(true[:100], logits[:100])
    metric.update_state(true[100:], logits[100:])
    p = softmax(logits.astype("float64"), -1)
    expected = roc_auc_score(true, p[:, 1]) if classes == 2 else roc_auc_score(true, p, multi_class="ovr")
    assert float(metric.result()) == pytest.approx(expected, abs=2e-3)


def test_auroc_leaves_out_a_class_that_is_not_there():
    true = np.resize([0, 1], 200).astype("int32")
    logits = (CHANCE.normal(size=(200, 3)) + np.eye(3)[true]).astype("float32")
    p = softmax(logits.astype("float64"), -1)
    metric = Auroc(3)
    metric.update_state(true, logits)
    expected = np.mean([roc_auc_score(true == label, p[:, label]) for label in (0, 1)])
    assert float(metric.result()) == pytest.approx(expected, abs=2e-3)
    metric.reset_state()
    metric.update_state(true[:1], logits[:1])
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0), (0.05, 5)])
def test_auroc_of_scores_that_are_close_together(scale, shift):
    """With 1,000 thresholds such scores, as of rare classes early in training, shared a few of them: 0.6 for 0.79."""
    true = np.resize([0, 1], 2000).astype("int32")
    logits = scale * (CHANCE.normal(size=(2000, 2)) + 0.8 * np.eye(2)[true]) + [shift, 0]
    metric = Auroc(2)
    metric.update_state(true, logits.astype("float32"))
    assert float(metric.result()) == pytest.approx(roc_auc_score(true, logits[:, 1] - logits[:, 0]), abs=2e-3)


def test_regression_metrics_are_those_of_scikit_learn():
    true = CHANCE.normal(size=(50, 1)).astype("float32")
    predicted = (true + 0.3 * CHANCE.normal(size=true.shape)).astype("float32")
    for name, reference in (("rmse", root_mean_squared_error), ("r2", r2_score)):
        metric = TASKS["regression"].metrics[name](1)
        metric.update_state(true, predicted)
        assert float(metric.result()) == pytest.approx(reference(true, predicted), rel=1e-4)


@pytest.mark.parametrize("made", [Dice(3), Auroc(4), DiceCrossEntropy()])
def test_round_trip(made):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is type(made) and again.get_config() == made.get_config()


def test_recipes_may_name_exactly_the_metrics_that_there_are():
    assert {task: set(names) for task, names in METRICS_OF_TASK.items()} == {
        name: set(task.metrics) for name, task in TASKS.items()
    }
