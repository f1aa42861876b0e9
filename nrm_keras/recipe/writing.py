"""A recipe as YAML text that loads as the equal recipe, and how two recipes differ."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nrm_keras.recipe.nodes import DISCRIMINATORS, dotted, leaves
from nrm_keras.recipe.parsing import scalar
from nrm_keras.recipe.problems import printable
from nrm_keras.recipe.schema import Recipe

MAX_COMMENT_COLUMN = 60

# Text that needs no quotes, in any YAML: plain characters, and no word that YAML 1.1 reads as a boolean.
_PLAIN = re.compile(r"[A-Za-z_/][\w./+-]*( [\w./+-]+)*", re.ASCII)
_YAML_1_1 = {"yes", "no", "on", "off", "y", "n"}


def dump(recipe: Recipe, origins: Mapping[str, str] | None = None) -> str:
    """The whole recipe, defaults included, as YAML; with `origins`, each value's origin in an aligned comment."""
    lines = list(_lines(values_of(recipe), "", ()))
    if origins is None:
        return "".join(f"{text}\n" for text, _ in lines)
    width = max(min(len(text), MAX_COMMENT_COLUMN) for text, path in lines if path)
    return "".join(
        f"{text:<{width}}  # {printable(origins.get(dotted(path), 'default'))}\n" if path else f"{text}\n"
        for text, path in lines
    )


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Plain values of a recipe; what a section is comes first in it."""

    def ordered(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(ordered, value))
        if not isinstance(value, dict):
            return value
        first = [key for key in DISCRIMINATORS if key in value]
        return {key: ordered(value[key]) for key in (*first, *(key for key in value if key not in first))}

    return ordered(recipe.model_dump())


class _Absent:
    """Stands for a value the other recipe does not have."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


def difference(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """What two recipes say differently: (dotted path, value in a, value in b), `ABSENT` where one has no such key."""
    left, right = (dict(leaves(values_of(recipe))) for recipe in (a, b))
    paths = [*left, *(path for path in right if path not in left)]
    pairs = ((dotted(path), left.get(path, ABSENT), right.get(path, ABSENT)) for path in paths)
    return [(path, x, y) for path, x, y in pairs if not _same(x, y)]


def _same(x: Any, y: Any) -> bool:
    return type(x) is type(y) and (x == y or repr(x) == repr(y))  # repr: nan is the same setting as nan


def _lines(values: dict, indent: str, path: tuple) -> Iterator[tuple[str, tuple]]:
    """Lines of block YAML, each with the path of the value it holds, or () for a line that only opens a block."""
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, dict) and value:
            yield f"{indent}{_text(key)}:", ()
            yield from _lines(value, indent + "  ", here)
        elif _holds_mappings(value):
            yield f"{indent}{_text(key)}:", ()
            yield from _items(value, indent + "  ", here)
        else:
            yield f"{indent}{_text(key)}: {flow(value)}", here


def _items(values: tuple, indent: str, path: tuple) -> Iterator[tuple[str, tuple]]:
    for index, value in enumerate(values):
        if isinstance(value, dict) and value:
            entries = _lines(value, indent + "  ", (*path, index))
            for number, (text, leaf) in enumerate(entries):
                yield (f"{indent}- {text[len(indent) + 2 :]}" if number == 0 else text), leaf
        else:
            yield f"{indent}- {flow(value)}", (*path, index)


def _holds_mappings(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(entry, dict) for entry in value)


def flow(value: Any) -> str:
    """A value in one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {flow(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    return repr(value)


def _text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _YAML_1_1 and scalar(text) == text:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"
