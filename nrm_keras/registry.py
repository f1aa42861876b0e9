"""Builders that users add: names a recipe may then use in `norm.type`, `model.type`, `data.source` and so on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nrm_keras.errors import UserError
from nrm_keras.recipe.problems import did_you_mean

KINDS = ("norm", "model", "data", "callback", "metric", "optimizer")

_built_in: dict[str, tuple[str, ...]] = {kind: () for kind in KINDS}
_added: dict[str, dict[str, Callable]] = {kind: {} for kind in KINDS}

Builder = TypeVar("Builder", bound=Callable)


class RegistryError(UserError, ValueError):
    """A kind or name the registry cannot take or does not have."""


def register(kind: str, name: str) -> Callable[[Builder], Builder]:
    """Makes a builder available to recipes under a name.

    A recipe reaches it through `imports: [the_module]`, which `run`, `study` and `validate --build` import.

    Args:
        kind: `norm`, `model`, `data`, `callback`, `metric` or `optimizer`.
        name: what recipes call it. Built-in names cannot be taken, nor a name something else was registered under.

    Returns:
        A decorator that returns what it decorates unchanged.

    Raises:
        RegistryError: the kind is unknown, or the name is not text or taken.

    What is called, with what, and what it returns:

    | kind | call | returns |
    |---|---|---|
    | norm | `build(name=..., **keys of norm)` | a Keras layer of that name |
    | model | `build(x, norm, **keys of model)`; `norm(name)` makes a normalizer, and is None with `norm: none` | a tensor of features |
    | data | `build(section)` with every key of `data` as an attribute | `nrm_keras.data.examples.Examples` |
    | optimizer | `build(learning_rate=..., weight_decay=..., global_clipnorm=..., **keys of optimizer)` | a Keras optimizer |
    | callback | `build(**keys of the callback)` | a Keras callback |
    | metric | `build()` | a Keras metric named as registered |

    Example:

    ```python
    @nrm_keras.register("norm", "mine")          # norm: {type: mine, strength: 0.5}
    def build(name, strength):
        return MyNormalization(strength, name=name)
    ```
    """
    _check_kind(kind)
    if not isinstance(name, str) or not name:
        raise RegistryError(f"A registered name is a text that is not empty. Received: name={name!r}.")

    def add(builder: Builder) -> Builder:
        _refuse_taken(kind, name, builder)
        _added[kind][name] = builder
        return builder

    return add


def get(kind: str, name: str) -> Callable:
    """The builder a user registered; `RegistryError` with the nearest name where there is none."""
    _check_kind(kind)
    if name not in _added[kind]:
        hint = did_you_mean(name, names(kind))
        raise RegistryError(
            f"No {kind} is registered as '{name}'.{hint} Add it with @nrm_keras.register('{kind}', '{name}')."
        )
    return _added[kind][name]


def is_registered(kind: str, name: str) -> bool:
    """Whether a user registered that name."""
    _check_kind(kind)
    return name in _added[kind]


def names(kind: str) -> tuple[str, ...]:
    """The names a recipe may use: the built-in ones in their order, then the registered ones."""
    _check_kind(kind)
    return _built_in_names(kind) + tuple(sorted(_added[kind]))


def reserve(kind: str, built_in: tuple[str, ...]) -> None:
    """Declares the built-in names of a kind; for nrm_keras.recipe.schema."""
    _built_in[kind] = tuple(built_in)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise RegistryError(
            f"One can register a {', '.join(KINDS)}. Received: kind={kind!r}.{did_you_mean(kind, KINDS)}"
        )


def _built_in_names(kind: str) -> tuple[str, ...]:
    # The schema declares them when it is imported, and it needs this module: importing it on top would be a circle.
    from nrm_keras.recipe import schema  # noqa: F401

    return _built_in[kind]


def _refuse_taken(kind: str, name: str, builder: Callable) -> None:
    if name in _built_in_names(kind):
        raise RegistryError(
            f"The {kind} '{name}' is built in and cannot be replaced. Register yours under another name."
        )
    other = _added[kind].get(name)
    # The same definition again is a notebook cell run twice, or a reloaded module.
    if other is not None and _definition(other) != _definition(builder):
        raise RegistryError(
            f"The {kind} '{name}' is already registered by {_definition(other)}. Received: {_definition(builder)}."
            " Register it under another name."
        )


def _definition(builder: Callable) -> str:
    return f"{getattr(builder, '__module__', '?')}.{getattr(builder, '__qualname__', repr(builder))}"
