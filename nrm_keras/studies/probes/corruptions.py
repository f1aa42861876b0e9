"""Images as cameras spoil them; each function takes images `(n, height, width, channels)` with values from 0 to `top`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage


def noise(images: np.ndarray, amount: float, rng: np.random.Generator, top: float) -> np.ndarray:
    """Gaussian noise with a standard deviation of `amount` of the range."""
    return images + rng.normal(0, amount * top, images.shape)


def blur(images: np.ndarray, amount: float, rng: np.random.Generator, top: float) -> np.ndarray:
    """A Gaussian blur with a standard deviation of `amount` pixels."""
    return ndimage.gaussian_filter(images, (0, amount, amount, 0))


def contrast(images: np.ndarray, amount: float, rng: np.random.Generator, top: float) -> np.ndarray:
    """A share of the contrast is lost, about each image's mean (Hendrycks & Dietterich 2019, arXiv:1903.12261)."""
    mean = images.mean((1, 2, 3), keepdims=True)
    return mean + (1 - amount) * (images - mean)


def darker(images: np.ndarray, amount: float, rng: np.random.Generator, top: float) -> np.ndarray:
    """A share of the brightness is lost."""
    return (1 - amount) * images


def inverted(images: np.ndarray, amount: float, rng: np.random.Generator, top: float) -> np.ndarray:
    """A share of the images, drawn by chance, is inverted."""
    chosen = rng.random((len(images), 1, 1, 1)) < amount
    return np.where(chosen, top - images, images)


CORRUPTIONS = {function.__name__: function for function in (noise, blur, contrast, darker, inverted)}


def corrupt(
    images: np.ndarray, amounts: Mapping[str, float], rng: np.random.Generator, top: float = 255.0
) -> np.ndarray:
    """The images behind each corruption with an amount above 0, in their order; rounded and clipped as pixels are.

    Args:
        amounts: by the names of `CORRUPTIONS`.

    Returns:
        float32.

    Example:

    >>> import numpy as np
    >>> from nrm_keras.studies.probes.corruptions import corrupt
    >>> image = np.array([0.0, 100.0]).reshape(1, 1, 2, 1)
    >>> corrupt(image, {"inverted": 1.0}, np.random.default_rng(0)).ravel().tolist()
    [255.0, 155.0]
    """
    images = images.astype("float32")
    for name, function in CORRUPTIONS.items():
        if amounts.get(name):
            images = np.clip(np.round(function(images, amounts[name], rng, top)), 0, top).astype("float32")
    return images
