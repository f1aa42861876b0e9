"""Pieces of the parser that verbs share. Imports next to nothing: `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from nrm_keras.errors import PROGRAM

Verb = Callable[[argparse.Namespace], "int | None"]


def add_verb(subparsers, name: str, verb: Verb, summary: str, *examples: str) -> argparse.ArgumentParser:
    """A parser for a verb, with its summary and examples in --help."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=examples_text(*examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(verb=verb)
    return parser


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """The arguments NAME and section.key=value ..., for every verb that loads one recipe."""
    parser.add_argument("name", metavar="NAME", help="a shipped recipe, NAME@variant, or the path of a .yaml file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="changes to the recipe")
    parser.set_defaults(more="overrides")


def add_allow_imports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-imports",
        action="store_true",
        help="import the modules a recipe from elsewhere lists: that runs their code",
    )


def is_override(word: str) -> bool:
    """Whether a word is section.key=value rather than a name or path."""
    head, found, _ = word.partition("=")
    return bool(found) and "/" not in head


def names_and_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that are names or paths, and those that are section.key=value."""
    return [word for word in words if not is_override(word)], [word for word in words if is_override(word)]


def examples_text(*commands: str) -> str:
    return "examples:\n" + "\n".join(f"  {PROGRAM} {command}" for command in commands)
