"""What pydantic finds wrong with a value, in plain words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nrm_keras.recipe.problems import did_you_mean, nearest, shown


def must_be(errors: list[dict], received: Any) -> str:
    """The rule that a value breaks, the value, and what was perhaps meant; several errors where it fits no branch of a union."""
    expected = list(dict.fromkeys(_EXPECTED.get(error["type"], _as_pydantic)(error) for error in errors))
    return f"must be {' or '.join(expected)}. Received: {shown(received)}.{_value_hint(received, errors)}"


def _value_hint(received: Any, errors: list[dict]) -> str:
    kinds = {error["type"] for error in errors}
    if isinstance(received, str):
        lowered = received.lower()
        if "bool_type" in kinds and lowered in ("yes", "on", "y", "no", "off", "n"):
            return f" Did you mean {'true' if lowered in ('yes', 'on', 'y') else 'false'}?"
        if "tuple_type" in kinds:
            return f" Write [{received}]."
        if "literal_error" in kinds:
            return did_you_mean(received, _literals(errors)) if nearest(received, _literals(errors)) else ""
    if "int_type" in kinds and isinstance(received, float) and received.is_integer():
        return f" Write {int(received)}."
    if "string_type" in kinds and received is not None and not isinstance(received, (dict, tuple)):
        return f' Write "{shown(received)}" in quotes.'
    return ""


def _literals(errors: list[dict]) -> list[str]:
    expected = [error["ctx"]["expected"] for error in errors if error["type"] == "literal_error"]
    return [word.strip("' ") for text in expected for word in text.replace(" or ", ", ").split(",")]


def _one_of(error: dict) -> str:
    words = _literals([error])
    return f"one of {', '.join(words)}" if len(words) > 1 else words[0]


def _bound(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else repr(limit)


def _kind(error: dict) -> str:
    return "mapping" if isinstance(error["input"], dict) else "list"


def _as_pydantic(error: dict) -> str:
    return error["msg"].removeprefix("Input should be ")


_EXPECTED: dict[str, Callable[[dict], str]] = {
    "bool_type": lambda error: "true or false",
    "int_type": lambda error: "a whole number",
    "float_type": lambda error: "a number",
    "finite_number": lambda error: "a finite number",
    "string_type": lambda error: "text",
    "string_too_short": lambda error: "text that is not empty",
    "tuple_type": lambda error: "a list",
    "dict_type": lambda error: "a mapping",
    "model_type": lambda error: "a mapping",
    "literal_error": _one_of,
    "greater_than": lambda error: f"greater than {_bound(error['ctx']['gt'])}",
    "greater_than_equal": lambda error: f"at least {_bound(error['ctx']['ge'])}",
    "less_than": lambda error: f"less than {_bound(error['ctx']['lt'])}",
    "less_than_equal": lambda error: f"at most {_bound(error['ctx']['le'])}",
    "too_short": lambda error: f"a {_kind(error)} of at least {error['ctx']['min_length']}",
    "too_long": lambda error: f"a list of at most {error['ctx']['max_length']}",
    "missing": lambda error: f"a longer list than {len(error['input'])}",
}
