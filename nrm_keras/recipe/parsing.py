"""YAML text becomes nodes. PyYAML only tokenizes: no tag is looked up, nothing is constructed, and its traps are closed.

Scalars follow YAML 1.2's core schema, so `1e-4` is a number and `off`, dates and `1_000` are text.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import replace

import yaml

from nrm_keras.recipe.nodes import Node, Source
from nrm_keras.recipe.problems import RecipeError, shown

MAX_BYTES = 256 * 1024
MAX_NODES = 10_000
MAX_DEPTH = 24
MAX_DIGITS = 60

_CONSTANTS = {
    text: value
    for word, value in (("true", True), ("false", False), ("null", None))
    for text in (word, word.title(), word.upper())
}
_CONSTANTS |= {"~": None, "": None}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BASES = {"0o": 8, "0x": 16}


def read(path: str, label: str) -> str:
    """The text of a recipe file, or a RecipeError that says why not. Nothing is read from what is too large or no file."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise RecipeError(f"{label}: a recipe is a file. Received: a directory. Name a .yaml file in it.")
        if not stat.S_ISREG(status.st_mode):
            raise RecipeError(
                f"{label}: a recipe is a regular file. Received: a pipe or device. Write it to a .yaml file."
            )
        _check_size(status.st_size, label)
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(
            f"{label}: no such file. Check the path; 'python -m nrm_keras ls' lists the shipped recipes."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(
            f"{label}: the recipe cannot be read: {reason}. Check the path and its permissions."
        ) from None
    _check_size(len(data), label)
    return _decode(data, label)


def parse(text: str, source: Source, problems: list[str]) -> Node:
    """The one document in a text.

    Mistakes that leave the rest readable (duplicate keys, tags, merge keys) are added to `problems`; others raise.
    """
    try:
        return _Builder(text, source, problems).document()
    except yaml.MarkedYAMLError as error:
        raise RecipeError([*problems, _syntax_problem(error, text, source)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            [
                *problems,
                f"{source.at(line)}: the character U+{ord(text[error.position]):04X} cannot stand in YAML. Remove it.",
            ]
        ) from None


def scalar(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError(f"a number has at most {MAX_DIGITS} digits. Received: {len(text)}. Quote it if it is text")
        base = _BASES.get(text[:2], 10)
        return int(text[2:] if base != 10 else text, base)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


class _Builder:
    """Builds nodes from PyYAML's events; counts and depths are limited while it builds, not afterwards."""

    def __init__(self, text: str, source: Source, problems: list[str]):
        self.events = yaml.parse(text, Loader=yaml.SafeLoader)
        self.source = source
        self.problems = problems
        self.anchors: dict[str, Node | None] = {}

    def document(self) -> Node:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            raise RecipeError(
                f"{self.source.at(1)}: the file is empty. Start from a shipped recipe: python -m nrm_keras cp NAME DEST"
            )
        root = self.node(next(self.events), depth=0)
        next(self.events)  # the end of the document
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self.fail(event, "a second document starts here. A file holds one recipe: split the file.")
        return root

    def node(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, depth)
        if event.tag is not None:
            self.complain(
                event, f"tags are not allowed in recipes, and none is executed. Received: {event.tag}. Remove it."
            )
        self.check_depth(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = None  # an alias to it from inside is a cycle
        if isinstance(event, yaml.ScalarEvent):
            node = Node(
                self.scalar(event), self.source, _line(event), span=(event.start_mark.index, event.end_mark.index)
            )
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(event, depth)
        else:
            node = self.mapping(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def alias(self, event: yaml.AliasEvent, depth: int) -> Node:
        node = self.anchors.get(event.anchor)
        if event.anchor not in self.anchors:
            self.fail(event, f"the alias *{event.anchor} has no anchor &{event.anchor} above it. Write the value out.")
        if node is None:
            self.fail(event, f"the alias *{event.anchor} stands inside its own anchor. Write the value out.")
        self.check_depth(event, depth + node.height)
        return node

    def scalar(self, event: yaml.ScalarEvent):
        if event.style is not None:
            return event.value
        try:
            return scalar(event.value)
        except ValueError as error:
            self.complain(event, f"{error}.")
            return event.value

    def sequence(self, start: yaml.Event, depth: int) -> Node:
        entries, size = [], 1
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            entries.append(self.node(event, depth + 1))
            size = self.grown(size, entries[-1], event)
        return Node(entries, self.source, _line(start), size=size, height=_height(entries))

    def mapping(self, start: yaml.Event, depth: int) -> Node:
        entries, size = {}, 1
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event, depth)
            node = replace(self.node(next(self.events), depth + 1), key_line=_line(event))
            size = self.grown(size, node, event)
            if key in entries:
                first = entries[key].key_line
                self.complain(event, f"{key}: the key is already on line {first}. Remove one of the two.")
            elif key is not None:
                entries[key] = node
        return Node(entries, self.source, _line(start), size=size, height=_height(entries.values()))

    def key(self, event: yaml.Event, depth: int) -> str | None:
        node = self.node(event, depth + 1)
        if not isinstance(node.value, str):
            text = event.value if isinstance(event, yaml.ScalarEvent) else None
            advice = f'Write "{text}" in quotes' if text else "Write a name"
            self.complain(event, f"a key is a text. Received: {shown(node.plain())}. {advice}.")
            return None
        if node.value == "<<" and event.style is None:
            self.complain(event, "merge keys (<<) are not supported. Use extends, variants, or write the keys out.")
            return None
        return node.value

    def grown(self, size: int, node: Node, event: yaml.Event) -> int:
        if size + node.size > MAX_NODES:
            self.fail(
                event, f"a recipe holds at most {MAX_NODES} values, aliases written out. Remove aliases or values."
            )
        return size + node.size

    def check_depth(self, event: yaml.Event, depth: int) -> None:
        if depth > MAX_DEPTH:
            self.fail(event, f"values are nested at most {MAX_DEPTH} deep. Remove some brackets or levels.")

    def complain(self, event: yaml.Event, message: str) -> None:
        self.problems.append(f"{self.source.at(_line(event))}: {message}")

    def fail(self, event: yaml.Event, message: str) -> None:
        self.complain(event, message)
        raise RecipeError(self.problems)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1


def _height(entries: Iterable[Node]) -> int:
    return 1 + max((entry.height for entry in entries), default=0)


def _check_size(size: int, label: str) -> None:
    if size > MAX_BYTES:
        raise RecipeError(
            f"{label}:1: a recipe has at most {MAX_BYTES // 1024} KB. Received: {size // 1024} KB. Is this a recipe?"
        )


def _decode(data: bytes, label: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{label}:{line}: a recipe is UTF-8 text. Received: byte 0x{data[error.start]:02X}. Save the file as UTF-8."
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise RecipeError(f"{label}:{line}: a recipe is text. Received: a NUL byte. Is this a recipe, saved as UTF-8?")
    return text


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, source: Source) -> str:
    mark = error.problem_mark or error.context_mark
    where = source.at(mark.line + 1 if mark else 1)
    problem = error.problem or "cannot be read"
    if mark and text[mark.index : mark.index + 1] == "\t":
        return f"{where}: YAML does not allow tabs here. Indent with spaces."
    hint = ""
    if "mapping values are not allowed" in problem:
        hint = " Check the indentation; put text that holds ': ' in quotes."
    elif "cannot start any token" in problem:
        hint = " Put text that starts with a special character in quotes."
    context = f" {error.context}" if error.context else ""
    started = (
        f" (line {error.context_mark.line + 1})"
        if error.context_mark and mark and error.context_mark.line != mark.line
        else ""
    )
    return f"{where}: this is not YAML: {problem}{context}{started}.{hint}"
