"""What `norm: {type: ...}` in a recipe builds."""

from __future__ import annotations

import functools
from collections.abc import Callable

from nrm_keras import registry
from nrm_keras.layers.domain import DomainBatchNormalization
from nrm_keras.layers.named import NAMED

NormFactory = Callable[[str], Callable]


def norm_factory(norm, replicas: int = 1, domain=None, domains: int = 0) -> NormFactory | None:
    """A function that makes what normalizes a tensor, under a given layer name; None for `type: none`.

    Args:
        norm: the recipe's `norm` section.
        replicas: with several, running statistics are synchronized unless the recipe says otherwise, so that a
            strategy doesn't change what is trained.
        domain: for `type: domain`, the symbolic tensor with the domain of each example.
        domains: how many there are.
    """
    if norm.type == "none":
        return None
    options = norm.model_dump(exclude={"type"})
    if "synchronized" in options and options["synchronized"] is None:
        options["synchronized"] = replicas > 1 and options.get("virtual_batch_size") is None
    if norm.type == "domain":
        return lambda name: functools.partial(
            _of_domain, DomainBatchNormalization(domains, name=name, **options), domain
        )
    build = NAMED[norm.type] if norm.type in NAMED else registry.get("norm", norm.type)
    return lambda name: build(name=name, **options)


def _of_domain(layer: DomainBatchNormalization, domain, x):
    return layer(x, domain)
