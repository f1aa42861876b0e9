"""Real data that needs no download: scikit-learn's own sets, and texts that Python brings along."""

import argparse
import functools
import inspect
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

CHARACTERS = 128


class Data(NamedTuple):
    """Training and validation data."""

    x: np.ndarray
    y: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y for training."""
        return self.x, self.y

    @property
    def validation(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y for validation."""
        return self.x_validation, self.y_validation

    def map_x(self, function: Callable) -> "Data":
        """The same with a function of all inputs."""
        return self._replace(x=function(self.x), x_validation=function(self.x_validation))

    def standardized(self) -> "Data":
        """Each feature with mean 0 and variance 1 over the training data."""
        scaler = StandardScaler().fit(self.x)  # a feature that is constant there keeps its scale
        return self.map_x(lambda x: scaler.transform(x).astype("float32"))

    def with_shuffled_labels(self, seed: int) -> "Data":
        """Training labels dealt out anew, so that they say nothing of the inputs."""
        return self._replace(y=np.random.default_rng(seed).permutation(self.y))


@functools.cache
def _load(name: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(datasets, f"load_{name}")(return_X_y=True)


def split(x, y, seed: int, stratify=True) -> Data:
    """A fifth for validation."""
    x, x_validation, y, y_validation = train_test_split(
        x, y, test_size=0.2, random_state=seed, stratify=y if stratify else None
    )
    return Data(x, y, x_validation, y_validation)


def digits(seed: int, shape: tuple[int, ...] = (8, 8, 1), largest: float = 1.0) -> Data:
    """1,797 handwritten digits of 8x8 pixels, which go from 0 to `largest`."""
    x, y = _load("digits")
    return split((x * largest / 16).reshape(-1, *shape).astype("float32"), y, seed)


def patches(seed: int, size: int = 2, largest: float = 1.0) -> Data:
    """The digits as sequences of square patches."""
    side = 8 // size

    def cut(x):
        return x.reshape(-1, side, size, side, size).swapaxes(2, 3).reshape(-1, side * side, size * size)

    return digits(seed, (8, 8), largest).map_x(cut)


def cancer(seed: int) -> Data:
    """569 tumours by 30 measurements of scales from 0.001 to 1,000; benign or not."""
    x, y = _load("breast_cancer")
    return split(x.astype("float32"), y[:, None].astype("float32"), seed)


def wine(seed: int) -> Data:
    """178 wines by 13 measurements of scales from 0.1 to 1,000; three growers."""
    x, y = _load("wine")
    return split(x.astype("float32"), y, seed)


def diabetes(seed: int, mean: float = 0.0) -> Data:
    """442 patients, 10 measurements; how the illness went on, with a standard deviation of 1 about the given mean."""
    x, y = _load("diabetes")
    y = (y - y.mean()) / y.std() + mean
    return split(x.astype("float32"), y[:, None].astype("float32"), seed, stratify=False).standardized()


def windows(seed: int, length: int = 20, characters: int = 14400) -> Data:
    """Windows of text that don't overlap: Python's source of argparse, or its documentation in English."""
    texts = inspect.getsource(argparse)[:characters], "".join(topics.values())[:characters]
    codes = [np.minimum([ord(character) for character in text], CHARACTERS - 1) for text in texts]
    x = np.concatenate([of_text.reshape(-1, length) for of_text in codes]).astype("int32")
    return split(x, np.repeat([0, 1], characters // length), seed)
