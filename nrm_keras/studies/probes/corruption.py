"""How far a model can be trusted on corrupted images, and whether recalibration mends it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from scipy.special import softmax

from nrm_keras.data.examples import Split
from nrm_keras.errors import UserError
from nrm_keras.serving.drift.monitor import DriftMonitor
from nrm_keras.studies.probes.corruptions import corrupt
from nrm_keras.studies.probes.trained import Trained
from nrm_keras.surgery import recalibrate
from nrm_keras.surgery.meter import has_running_statistics

BINS = 15
BATCH = 250
REFERENCE, REQUEST, REQUESTS = 2000, 64, 16


def measure(trained: Trained, examples: int, **amounts: float) -> dict[str, float]:
    """Accuracy, calibration error and drift score on clean and on corrupted images, and on these after `recalibrate`.

    Held-out images are corrupted; running statistics are estimated anew on one half of them, without labels, and all is
    measured on the other half. The drift score is that of `DriftMonitor`, averaged over requests of 64 images; its
    reference is the model as trained on clean images of the validation split (the training split where there is none),
    and stays so: recalibration lowers the score as far as the layers' statistics come back to what they were.
    A model without running statistics has nothing to recalibrate: it is measured as it is.

    Raises:
        UserError: the examples are no images.
    """
    model, data = trained.model(), trained.examples
    if len(data.shape) != 3:
        raise UserError(
            "corruption needs images (height, width, channels)."
            f" Received: examples of shape {data.shape}. Choose a recipe of images."
        )
    rng = np.random.default_rng(trained.recipe.train.seed)
    chosen = trained.some(trained.held_out, examples)
    clean = _pixels(data, chosen)
    corrupted = corrupt(clean, amounts, rng, top=_top(data))
    half = len(clean) // 2
    labels = chosen.labels[half:]
    monitor = _monitor(trained, model)
    found = {
        **_scores(model, monitor, clean[half:], labels, "clean_"),
        **_scores(model, monitor, corrupted[half:], labels, ""),
    }
    if any(has_running_statistics(layer) for layer in model._flatten_layers()):
        size = trained.recipe.data.batch_size
        recalibrate(model, corrupted[:half], batch_size=size, include_frozen=True, evaluate=False, verbose=0)
    return found | _scores(model, monitor, corrupted[half:], labels, "recalibrated_")


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: the mean over the examples of their bin's |accuracy - mean confidence|, in bins of equal
    width of the largest probability.

    >>> import numpy as np
    >>> from nrm_keras.studies.probes.corruption import calibration_error
    >>> sure = np.log([[0.9, 0.1], [0.9, 0.1]])
    >>> round(calibration_error(sure, np.array([0, 1])), 6)  # 0.9 sure, right in one of two
    0.4

    Source: Guo et al. 2017 (arXiv:1706.04599), equation 3.
    """
    probabilities = softmax(logits.astype("float64"), axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    # bins are open below and closed above
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(place, right - confidence, bins)).sum() / len(labels))


def _scores(model, monitor, images, labels, prefix):
    logits = model.predict(images, batch_size=BATCH, verbose=0)
    requests = [images[i : i + REQUEST] for i in range(0, len(images), REQUEST)][:REQUESTS]
    # the last one, if it is smaller, has a score of another spread
    whole = [request for request in requests if len(request) == len(requests[0])]
    return {
        f"{prefix}accuracy": np.mean(logits.argmax(1) == labels),
        f"{prefix}calibration_error": calibration_error(logits, labels),
        f"{prefix}drift_score": np.mean([float(monitor(tf.constant(request))) for request in whole]),
    }


def _monitor(trained, model):
    """A function from a request to its score."""
    data = trained.examples
    split = data.validation if len(data.validation) >= REQUEST else data.train
    images = _pixels(data, trained.some(split, REFERENCE)).astype("float32")
    parts = np.array_split(images, max(1, len(images) // BATCH))
    monitor = DriftMonitor.of(model, map(tf.constant, parts))
    return tf.function(lambda request: monitor(request)["score"], autograph=False, reduce_retracing=True)


def _pixels(data, split: Split) -> np.ndarray:
    if data.decode is None:
        return np.asarray(split.inputs).astype("float32")
    return np.stack([data.decode(one).numpy() for one in split.inputs])


def _top(data) -> float:
    """The largest value that a pixel has: 255 of files, else the largest there is in the training images."""
    return 255.0 if data.decode is not None else float(np.max(data.train.inputs))
