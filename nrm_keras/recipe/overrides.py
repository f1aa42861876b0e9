"""Changes to a recipe from the command line or from Python, parsed by the rules that hold for files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nrm_keras.recipe.checking import FILE_KEYS
from nrm_keras.recipe.nodes import Node, Source, command_line, from_python, merge
from nrm_keras.recipe.parsing import parse, scalar
from nrm_keras.recipe.problems import RecipeError

Overrides = Sequence[str] | Mapping[str, Any] | Node


def parse_overrides(overrides: Overrides, problems: list[str]) -> Node:
    """All overrides as one tree, so that their order does not matter: a type dropped no key set beside it.

    What is a tree already, as the sections in a study's file, keeps its lines.
    """
    if isinstance(overrides, Node):
        problems += misplaced(overrides, "")
        return overrides.without(*FILE_KEYS)
    source = command_line() if not isinstance(overrides, Mapping) else replace(command_line(), label="overrides")
    tree = Node({}, source)
    for item in overrides.items() if isinstance(overrides, Mapping) else overrides:
        node = _override(item, source, problems)
        tree = merge(tree, node) if node is not None else tree
    problems += misplaced(tree, "")
    return tree.without(*FILE_KEYS)


def _override(item: str | tuple[str, Any], source: Source, problems: list[str]) -> Node | None:
    path, found, text = item.partition("=") if isinstance(item, str) else (item[0], "=", item[1])
    parts = path.strip().split(".")
    if not found or not all(parts):
        problems.append(
            f"{source.label}: an override is section.key=value. Received: '{item}'. Such as norm.type=batch."
        )
        return None
    faults: list[str] = []
    try:
        node = _override_value(text, source, faults) if isinstance(item, str) else from_python(text, source)
    except (RecipeError, ValueError) as error:
        faults += error.problems if isinstance(error, RecipeError) else [f"{source.label}: {error}."]
        node = None
    problems += [f"{source.label}: {path}: {fault.removeprefix(source.label + ': ')}" for fault in faults]
    if node is None:
        return None
    for part in reversed(parts):
        node = Node({part: node}, source)
    return node


def _override_value(text: str, source: Source, problems: list[str]) -> Node:
    text = text.strip()
    # Only brackets and quotes need YAML: elsewhere ':' and '#' are part of the text.
    return parse(text, source, problems) if text[:1] in tuple("[{\"'") else Node(scalar(text), source)


def check_over_lists(tree: Node, over: Node, problems: list[str]) -> None:
    """Notes overrides of one entry of a list: lists are replaced, so the rest of it would be lost."""
    for name, node in over.value.items():
        old = tree.child(name)
        if old is not None and isinstance(old.value, list) and isinstance(node.value, dict):
            problems.append(f"{node.origin}: {name}: a list is replaced as a whole. Write {name}=[...].")


def misplaced(node: Node, prefix: str) -> list[str]:
    """Complaints about `extends` and `variants` in a variant or among overrides."""
    found = [key for key in FILE_KEYS if key in node.value]
    return [
        f"{node.value[key].key_origin}: {prefix}{key}: stands at the top of a file only. Move it there."
        for key in found
    ]
