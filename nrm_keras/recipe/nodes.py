"""The tree a recipe is before it is checked: plain values that remember their file and line, and how trees merge."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

DISCRIMINATORS = ("type", "source")


@dataclass(frozen=True)
class Source:
    """Where text came from.

    Args:
        label: how messages call it: a file's path, or `command line`.
        folder: where relative paths in it start.
        shipped: whether it is one of the package's own recipes.
        has_lines: whether line numbers mean something.
    """

    label: str
    folder: str
    shipped: bool = False
    has_lines: bool = True

    def at(self, line: int) -> str:
        return f"{self.label}:{line}" if self.has_lines else self.label


def command_line() -> Source:
    """The source of overrides: relative paths start in the shell's directory."""
    return Source("command line", os.getcwd(), has_lines=False)


@dataclass(frozen=True)
class Node:
    """A value with its place.

    Args:
        value: text, number, boolean, None, a list of nodes, or a dict from text to nodes.
        line, key_line: where the value, and the key in front of it, stand.
        size, height: how many nodes it holds and how deep they are nested, with aliases written out.
        span: first and last character of the value in its text.
    """

    value: Any
    source: Source
    line: int = 1
    key_line: int | None = None
    size: int = 1
    height: int = 0
    span: tuple[int, int] = (0, 0)

    @property
    def origin(self) -> str:
        return self.source.at(self.line)

    @property
    def key_origin(self) -> str:
        return self.source.at(self.key_line or self.line)

    def child(self, part: str | int) -> Node | None:
        """The entry of a mapping or list, or None."""
        if isinstance(self.value, dict):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            return self.value[part]
        return None

    def nearest(self, path: tuple[str | int, ...]) -> Node:
        """The node at a path, or the last one on the way to it."""
        node = self
        for part in path:
            child = node.child(part)
            if child is None:
                break
            node = child
        return node

    def has(self, path: tuple[str | int, ...]) -> bool:
        node: Node | None = self
        for part in path:
            node = node.child(part) if node is not None else None
        return node is not None

    def plain(self) -> Any:
        """The bare values; lists become tuples, as frozen sections hold them."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return tuple(node.plain() for node in self.value)
        return self.value

    def with_entry(self, key: str, entry: Node) -> Node:
        return replace(self, value={**self.value, key: entry})

    def without(self, *keys: str) -> Node:
        return replace(self, value={key: node for key, node in self.value.items() if key not in keys})


def merge(base: Node, over: Node) -> Node:
    """Mappings merge deeply, lists and values replace, and another `type` or `source` replaces the whole mapping."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict) or _other_type(base, over):
        return over
    merged = dict(base.value)
    for key, node in over.value.items():
        merged[key] = merge(merged[key], node) if key in merged else node
    # Messages about what is missing point to where the section says what it is.
    place = over if any(key in over.value for key in DISCRIMINATORS) else base
    return replace(place, value=merged)


def _other_type(base: Node, over: Node) -> bool:
    pairs = ((base.value.get(key), over.value.get(key)) for key in DISCRIMINATORS)
    return any(old is not None and new is not None and old.value != new.value for old, new in pairs)


def from_python(value: Any, source: Source) -> Node:
    """A tree of values that Python code gives, such as the overrides of `nrm_keras.run`."""
    if isinstance(value, dict):
        return Node({str(key): from_python(entry, source) for key, entry in value.items()}, source)
    if isinstance(value, (list, tuple)):
        return Node([from_python(entry, source) for entry in value], source)
    return Node(os.fspath(value) if isinstance(value, os.PathLike) else value, source)


def leaves(values: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value of nested dicts with its path; a list counts as one value unless it holds mappings."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    elif isinstance(values, (list, tuple)) and any(isinstance(value, dict) for value in values):
        for index, value in enumerate(values):
            yield from leaves(value, (*path, index))
    else:
        yield path, values


def dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))
