"""A simple model on the same split, so that a network's score has something to stand beside."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from nrm_keras.data.examples import Examples, Split, limited
from nrm_keras.errors import UserError

MOST_POSITIONS = 500_000  # of masks, to fit on: a handful of weights needs no more
BINS = 64
NAMES = {
    ("tfidf", "classification"): "TF-IDF with logistic regression",
    ("linear", "classification"): "logistic regression",
    ("linear", "segmentation"): "logistic regression on the intensity of each position",
    ("linear", "regression"): "ridge regression",
}


def check(recipe, examples: Examples) -> None:
    """Checks that the recipe's baseline is one for such data.

    Raises:
        UserError: it is for text and this is none, or the other way round.
    """
    if recipe.baseline is not None and (recipe.baseline == "tfidf") != examples.is_text:
        raise UserError(
            "baseline: tfidf is for text, linear for all else."
            f" Received: {recipe.baseline} for {recipe.data.source}. Set baseline: {'tfidf' if examples.is_text else 'linear'}."
        )


def measure(recipe, examples: Examples, say: Callable[[str], None]) -> dict | None:
    """Fits the recipe's baseline on its training split and scores it on its test split.

    Returns:
        `name`, `metrics` (as `summary.json` names them) and `seconds`; None where the recipe has none, or no test split, or
        scikit-learn can't fit it, which is said.
    """
    if recipe.baseline is None or not len(examples.test):
        return None
    began = time.monotonic()
    fit = {"classification": _classify, "segmentation": _segment, "regression": _regress}[recipe.task]
    name = NAMES[recipe.baseline, recipe.task]
    try:
        metrics = fit(recipe, examples)
    except (ValueError, MemoryError) as error:  # hours of training may stand behind the result that it would cost
        say(f"Note: the baseline, {name}, is left out: {error}")
        return None
    seconds = round(time.monotonic() - began, 1)
    say(f"Baseline, {name}: {'  '.join(f'{key} {value:.4f}' for key, value in metrics.items())}   ({seconds:.0f} s)")
    return {"name": name, "metrics": metrics, "seconds": seconds}


def _classify(recipe, examples: Examples) -> dict[str, float]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = TfidfVectorizer() if examples.is_text else StandardScaler()
    model = make_pipeline(features, LogisticRegression(max_iter=1000))
    model.fit(_inputs(examples, examples.train), examples.train.labels)
    predicted = model.predict(_inputs(examples, examples.test))
    return {"accuracy": float(accuracy_score(examples.test.labels, predicted))}


def _inputs(examples: Examples, split: Split):
    """The examples as rows of numbers, or as texts."""
    if examples.is_text:
        return split.inputs
    inputs = split.inputs
    if examples.decode is not None:
        inputs = np.stack([examples.decode(one).numpy() for one in inputs])
    return np.asarray(inputs, "float32").reshape(len(split), -1)


def _segment(recipe, examples: Examples) -> dict[str, float]:
    """Logistic regression on the channels of each position alone: what intensity knows without any neighbourhood.

    In bins, as tissue between two intensities is no linear function of intensity.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import KBinsDiscretizer

    channels, count = examples.shape[-1], len(examples.classes)
    fits = max(1, MOST_POSITIONS // int(np.prod(examples.shape[:-1])))
    some = limited(examples.train, fits)
    bins = KBinsDiscretizer(BINS, strategy="uniform", subsample=None)
    model = make_pipeline(bins, LogisticRegression(max_iter=1000))
    model.fit(np.reshape(some.inputs, (-1, channels)).astype("float32"), np.ravel(some.labels))
    confusion = np.zeros(count * count, "int64")
    for start in range(0, len(examples.test), fits):  # the split may be larger than memory
        part = examples.test.take(slice(start, start + fits))
        predicted = model.predict(np.reshape(part.inputs, (-1, channels)).astype("float32"))
        confusion += np.bincount(np.ravel(part.labels).astype("int64") * count + predicted, minlength=count * count)
    confusion = confusion.reshape(count, count)
    both, either = 2 * confusion.diagonal()[1:], (confusion.sum(0) + confusion.sum(1))[1:]
    return {"dice": float(np.mean(both[either > 0] / either[either > 0])) if either.any() else 0.0}


def _regress(recipe, examples: Examples) -> dict[str, float]:
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score, root_mean_squared_error
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), Ridge())
    model.fit(_inputs(examples, examples.train), examples.train.labels)
    predicted = model.predict(_inputs(examples, examples.test))
    true = examples.test.labels
    return {"rmse": float(root_mean_squared_error(true, predicted)), "r2": float(r2_score(true, predicted))}
