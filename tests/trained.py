"""Models as if they had been trained."""

import keras
import numpy as np

RANDOM = {
    "gamma": lambda rng, shape: rng.uniform(0.5, 1.5, shape),
    "beta": lambda rng, shape: rng.normal(scale=0.3, size=shape),
    "bias": lambda rng, shape: rng.normal(scale=0.3, size=shape),
    "moving_mean": lambda rng, shape: rng.normal(scale=0.3, size=shape),
    "moving_variance": lambda rng, shape: rng.uniform(0.5, 2.0, shape),
    "gate_delta": lambda rng, shape: rng.normal(scale=0.05, size=shape),
}


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """The model, with no weight at the value that would hide a mistake."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.name in RANDOM:
            variable.assign(RANDOM[variable.name](rng, variable.shape))
    return model
