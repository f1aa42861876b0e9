"""What `norm: {type: ...}` in a recipe builds."""

from __future__ import annotations

from collections.abc import Callable

import keras

from nrm_keras import registry
from nrm_keras.layers.named import NAMED

NormFactory = Callable[[str], "keras.layers.Layer"]


def norm_factory(norm, replicas: int = 1) -> NormFactory | None:
    """A function that makes a normalizer of the recipe's kind under a given layer name; None for `type: none`.

    Args:
        norm: the recipe's `norm` section.
        replicas: with several, running statistics are synchronized unless the recipe says otherwise, so that a
            strategy doesn't change what is trained.
    """
    if norm.type == "none":
        return None
    options = norm.model_dump(exclude={"type"})
    if "synchronized" in options and options["synchronized"] is None:
        options["synchronized"] = replicas > 1 and options.get("virtual_batch_size") is None
    build = NAMED[norm.type] if norm.type in NAMED else registry.get("norm", norm.type)
    return lambda name: build(name=name, **options)
