"""What a Keras callback remembers, as plain data."""

from __future__ import annotations

import inspect

import numpy as np


def kind_of(callback) -> str:
    """What tells a saved state whose it is. The best value of one metric says nothing about another."""
    monitor = getattr(callback, "monitor", None)
    return type(callback).__name__ + (f"({monitor})" if monitor else "")


def state_of(callback) -> dict:
    """Everything in the callback that is plain data, but not what `fit` sets itself."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    # constructor arguments are settings, not state: an accepted change of patience must last, and Keras turns the sign of
    # min_delta on its first use
    settings = {*inspect.signature(type(callback)).parameters, "params", "_params", "_model"}
    return {name: value for name, value in vars(callback).items() if name not in settings and _is_plain(value)}


def set_state(callback, state: dict) -> None:
    if hasattr(callback, "set_state"):
        callback.set_state(state)
    else:
        vars(callback).update(state)


def _is_plain(value) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) for k in value) and all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (bool, int, float, str, np.ndarray, np.generic))


def pack(value, name: str, arrays: dict):
    """JSON for `value`; arrays go into `arrays` and leave their name behind."""
    if isinstance(value, (np.ndarray, np.generic)):
        arrays[name] = np.asarray(value)
        return {"array": name}
    if isinstance(value, dict):
        return {"dict": {key: pack(item, f"{name}/{key}", arrays) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"list": [pack(item, f"{name}/{i}", arrays) for i, item in enumerate(value)]}
    return {"value": value}


def unpack(packed, arrays: dict):
    ((kind, content),) = packed.items()
    if kind == "array":
        return arrays[content].copy()
    if kind == "dict":
        return {key: unpack(item, arrays) for key, item in content.items()}
    return [unpack(item, arrays) for item in content] if kind == "list" else content
