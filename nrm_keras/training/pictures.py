"""Arrays as small PNGs for a run's report."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from nrm_keras.report.evaluation import MOST_BYTES
from nrm_keras.runs import directory

PICTURE_SIDES = (256, 180)  # 180 * 180 * 3 bytes always fit into a picture's limit


def can_show(shape: tuple[int, ...]) -> bool:
    """Whether inputs of this shape are images of 1 or 3 channels."""
    return len(shape) == 3 and shape[-1] in (1, 3)


def save(path: Path, name: str, pixels: np.ndarray) -> str:
    """Writes bytes of shape `(height, width, 1 or 3)` into the run's `examples/`; returns the name in the run directory."""
    file = f"{directory.EXAMPLES}/{name}.png"
    (path / directory.EXAMPLES).mkdir(exist_ok=True)
    (path / file).write_bytes(_png(pixels))
    return file


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Pixels from 0 to 255 as they are; of any other range, such as 0 to 1, from black at its end to white."""
    low, high = min(0.0, float(images.min())), float(images.max())
    if low < 0 or not 16 < high <= 255:
        images = (images.astype("float64") - low) * (255 / ((high - low) or 1))
    return np.rint(images).astype("uint8")


def _png(pixels: np.ndarray) -> bytes:
    """The picture, made smaller where it has too many pixels or bytes for a page, and never larger."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    for side in PICTURE_SIDES:
        image.thumbnail((side, side))
        file = io.BytesIO()
        image.save(file, "PNG", optimize=True)
        if file.tell() <= MOST_BYTES:
            break
    return file.getvalue()
