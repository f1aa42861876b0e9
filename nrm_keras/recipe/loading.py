"""A recipe's name and overrides become a checked `Recipe` that knows where each of its values stands."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nrm_keras.errors import PROGRAM
from nrm_keras.recipe import catalog, rules
from nrm_keras.recipe.checking import FILE_KEYS, check, located
from nrm_keras.recipe.nodes import Node, Source, dotted, leaves, merge
from nrm_keras.recipe.overrides import Overrides, check_over_lists, misplaced, parse_overrides
from nrm_keras.recipe.parsing import parse, read
from nrm_keras.recipe.problems import RecipeError, by_place, did_you_mean, shown
from nrm_keras.recipe.schema import Recipe
from nrm_keras.recipe.writing import dump

MAX_PARENTS = 16
PATHS = (("data", "path"), ("train", "init_from"))
VARIANT_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Loaded:
    """A recipe and where it came from.

    Args:
        name: with its variants, such as `images/digits_adaptive@batch`; for a file of one's own its name without suffix.
        path: the file, absolute.
        recipe: checked and complete.
        origins: dotted path to `file:line`, `command line` or `default`, for every value.
        variants: the names of the variants the recipe has.
        shipped: whether it is one of the package's own.
        imports_allowed: whether `import_modules` may import what the recipe lists.
        tree: what the files and overrides said, merged, before defaults.
    """

    name: str
    path: str
    recipe: Recipe
    origins: Mapping[str, str] = field(repr=False)
    variants: tuple[str, ...]
    shipped: bool
    imports_allowed: bool
    tree: Node = field(repr=False, compare=False)

    def to_yaml(self, origin: bool = False) -> str:
        """The recipe with everything resolved; loading it again gives an equal recipe. With each value's origin if asked."""
        return dump(self.recipe, self.origins if origin else None)

    def locate(self, path: str, message: str) -> str:
        """A message about a value with its file and line."""
        return located(self.tree, path, message)


def load(name: str | os.PathLike, overrides: Overrides = (), *, allow_imports: bool = False) -> Loaded:
    """Loads a recipe. Nothing is executed or imported.

    Args:
        name: of a shipped recipe, NAME@variant (several are applied in order), or a path.
        overrides: `section.key=value` as on the command line, a mapping from dotted paths to values, or sections of a file.
        allow_imports: whether a recipe that is not shipped may list `imports` that `import_modules` follows.

    Raises:
        RecipeError: lists every mistake, with file and line.
    """
    found = catalog.find(os.fspath(name))
    problems: list[str] = []
    tree = _read(found.path, found.source, problems, ())
    if tree.has(("claims",)):
        raise RecipeError(f"{tree.origin}: this is a study, not one run. Run it: {PROGRAM} study {os.fspath(name)}")
    variants = _variants(tree, problems)
    tree = tree.without("variants")
    for variant in found.variants:
        tree = merge(tree, _variant(variant, variants, tree))
    over = parse_overrides(overrides, problems)
    check_over_lists(tree, over, problems)
    tree = with_absolute_paths(merge(tree, over))
    recipe = check(tree, problems)
    if recipe is None or problems:
        raise RecipeError(by_place(problems))
    full_name = "@".join((found.name, *found.variants))
    allowed = allow_imports or _imports_trusted(tree)
    return Loaded(full_name, found.path, recipe, _origins(recipe, tree), tuple(variants), found.shipped, allowed, tree)


def load_with_variants(
    name: str | os.PathLike, overrides: Overrides = (), *, allow_imports: bool = False
) -> list[Loaded]:
    """The recipe and, unless the name asks for one, each of its variants. Raises the mistakes of all of them together."""
    first = load(name, overrides, allow_imports=allow_imports)
    if catalog.find(os.fspath(name)).variants:
        return [first]
    loaded, problems = [first], []
    for variant in first.variants:
        try:
            loaded.append(load(f"{os.fspath(name)}@{variant}", overrides, allow_imports=allow_imports))
        except RecipeError as error:
            problems += [f"{problem} (variant {variant})" for problem in error.problems]
    if problems:
        raise RecipeError(problems)
    return loaded


def import_modules(loaded: Loaded) -> None:
    """Imports what the recipe lists, so that it can register its builders, and checks that it did.

    Raises:
        RecipeError: imports are not allowed, a module cannot be imported, or a name is still not registered.
    """
    for module in loaded.recipe.imports:
        if not loaded.imports_allowed:
            message = f"imports run code, and this recipe is not a shipped one. Received: {module}. Read it, then add --allow-imports."
            raise RecipeError(loaded.locate("imports", message))
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a module raises while it is imported
            message = f"'{module}' cannot be imported: {type(error).__name__}: {error}. Install it or correct its name."
            raise RecipeError(loaded.locate("imports", message)) from error
    unknown = list(rules.unknown_names(loaded.recipe.model_dump()))
    if unknown:
        raise RecipeError(loaded.locate(path, message) for path, message in unknown)


# Files ---------------------------------------------------------------------------------------------------------------


def _read(path: str, source: Source, problems: list[str], children: tuple[str, ...]) -> Node:
    """The tree of a file on top of what it extends."""
    tree = parse(read(path, source.label), source, problems)
    if not isinstance(tree.value, dict):
        problems.append(
            f"{tree.origin}: a recipe is a mapping of sections. Received: {shown(tree.plain())}. Start with 'data:'."
        )
        raise RecipeError(problems)
    extends = tree.child("extends")
    if extends is None:
        return tree
    children = (*children, os.path.realpath(path))
    parent = _parent(extends, children, problems)
    base = _read(parent.path, parent.source, problems, children)
    return replace(tree, value=merge(base, tree.without("extends")).value)


def _parent(extends: Node, children: tuple[str, ...], problems: list[str]) -> catalog.Found:
    name, say = extends.value, lambda message: RecipeError([*problems, f"{extends.origin}: extends: {message}"])
    if not isinstance(name, str) or not name:
        raise say(
            f"must be one path or the name of a shipped recipe. Received: {shown(extends.plain())}. Name one file."
        )
    if "\0" in name:
        raise say("a path has no NUL character. Received one. Correct the path.")
    if name.endswith(catalog.SUFFIXES):
        parent = catalog.of_path(os.path.join(extends.source.folder, os.path.expanduser(name)))
        if not os.path.exists(parent.path):
            raise say(f"no such file. Received: '{name}', which is {parent.path!r}. Correct the path.")
    else:
        parent = catalog.shipped(name)
        if parent is None:
            raise say(f"no shipped recipe is called '{name}'.{catalog.suggestion(name)}")
    real = os.path.realpath(parent.path)
    if real in children:
        cycle = " -> ".join(catalog.label(path) for path in (*children[children.index(real) :], real))
        raise say(f"recipes must not extend each other in a circle. Received: {cycle}. Remove one extends.")
    if len(children) >= MAX_PARENTS:
        raise say(f"at most {MAX_PARENTS} recipes may extend each other. Merge some.")
    return parent


def _variants(tree: Node, problems: list[str]) -> dict[str, Node]:
    node = tree.child("variants")
    if node is None:
        return {}
    if not isinstance(node.value, dict):
        problems.append(
            f"{node.origin}: variants: must be a mapping from names to changes. Received: {shown(node.plain())}."
        )
        return {}
    for name, variant in node.value.items():
        if not VARIANT_NAME.fullmatch(name):
            problems.append(
                f"{variant.key_origin}: variants: a name has letters, digits, _ . - only. Received: '{name}'."
            )
        if not isinstance(variant.value, dict):
            received = shown(variant.plain())
            problems.append(f"{variant.origin}: variants.{name}: must be a mapping of sections. Received: {received}.")
        else:
            problems += misplaced(variant, f"variants.{name}.")
    return {
        name: variant.without(*FILE_KEYS) for name, variant in node.value.items() if isinstance(variant.value, dict)
    }


def _variant(name: str, variants: dict[str, Node], tree: Node) -> Node:
    if name not in variants:
        hint = did_you_mean(name, tuple(variants)) or " The recipe has no variants."
        raise RecipeError(f"{tree.source.at(1)}: variants: no variant is called '{name}'.{hint}")
    return variants[name]


# Results -------------------------------------------------------------------------------------------------------------


def with_absolute_paths(tree: Node) -> Node:
    """The sections with the paths in them relative to nothing, instead of to the file that says them."""
    for section, key in PATHS:
        node = tree.nearest((section, key)) if tree.has((section, key)) else None
        if node is not None and isinstance(node.value, str) and node.value and "://" not in node.value:
            absolute = os.path.abspath(os.path.join(node.source.folder, os.path.expanduser(node.value)))
            tree = tree.with_entry(section, tree.child(section).with_entry(key, replace(node, value=absolute)))
    return tree


def _imports_trusted(tree: Node) -> bool:
    """Shipped recipes may import; so may the command line, where the user typed the module's name."""
    imports = tree.child("imports")
    return imports is None or imports.source.shipped or not imports.source.has_lines


def _origins(recipe: Recipe, tree: Node) -> dict[str, str]:
    return {
        dotted(path): tree.nearest(path).origin if tree.has(path) else "default"
        for path, _ in leaves(recipe.model_dump())
    }
