"""A merged tree becomes a Recipe, or a list of everything that is wrong with it in plain words."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from nrm_keras import registry
from nrm_keras.recipe import rules
from nrm_keras.recipe.nodes import Node, dotted
from nrm_keras.recipe.problems import did_you_mean, nearest, shown
from nrm_keras.recipe.schema import SECTIONS, Recipe
from nrm_keras.recipe.sections.base import Section
from nrm_keras.recipe.sections.training import Train
from nrm_keras.recipe.wording import must_be

Path = tuple[str | int, ...]

FILE_KEYS = ("extends", "variants")  # what a file may say beside the fields of a recipe

MAX_PROBLEMS = 100  # more than a person mends at once; a file of some other kind would have thousands

# What stands in for a section with mistakes, so that the rules about the other sections still run.
_STAND_INS = {
    "data": {"source": "digits"},
    "model": {"type": "mlp"},
    "norm": {"type": "none"},
    "optimizer": {"type": "sgd"},
}


def check(tree: Node, problems: list[str]) -> Recipe | None:
    """The recipe a tree says. Mistakes are added to `problems`; with mistakes of form there is no recipe."""
    values = tree.plain()
    errors: list[dict] = []
    try:
        recipe = Recipe.model_validate(values, context={"rules_later": True})
    except ValidationError as error:
        errors = error.errors(include_url=False)
        recipe = Recipe.model_validate(
            _patched(values, {item["loc"][0] for item in errors}), context={"rules_later": True}
        )
    problems += _describe_all(errors, tree)
    faulty = frozenset(str(item["loc"][0]) for item in errors)
    found = rules.broken(recipe, without=faulty)
    if not values.get("imports"):  # with imports, `import_modules` checks the names when the modules had their say
        found += rules.unknown_names(values)
    problems += [located(tree, path, message) for path, message in found]
    return None if errors else recipe


def located(tree: Node, path: str, message: str) -> str:
    """A problem line: where the value (or what it is missing in) stands, its dotted path, the message."""
    parts: Path = tuple(int(part) if part.isdigit() else part for part in path.split("."))
    return f"{tree.nearest(parts).origin}: {path}: {message}"


def known_keys(tree: Node, path: Path) -> tuple[str, ...]:
    """The keys of the section at a path."""
    section = _section_class(tree, path)
    keys = tuple(section.model_fields) if section else ()
    return keys + FILE_KEYS if section is Recipe else keys


def _patched(values: dict[str, Any], faulty: set) -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if key not in faulty}
    return {**kept, **{key: value for key, value in _STAND_INS.items() if key in faulty}}


def _describe_all(errors: list[dict], tree: Node) -> list[str]:
    at: dict[Path, list[dict]] = {}
    for error in errors:
        at.setdefault(_clean_path(error, tree), []).append(error)
    # A value that fits no branch of a union fails once per branch; the branch that got further says more.
    inner = {path[:length] for path in at for length in range(1, len(path))}
    deepest = [path for path in at if path not in inner]
    rest = len(deepest) - MAX_PROBLEMS
    more = [f"{tree.source.at(1)}: and {rest} more mistakes of this kind. Is this a recipe?"] if rest > 0 else []
    return [_describe(path, at[path], tree) for path in deepest[:MAX_PROBLEMS]] + more


def _clean_path(error: dict, tree: Node) -> Path:
    """The path of an error in the file, without the names of the unions' branches that pydantic puts in between."""
    parts = list(error["loc"])
    branch = 2 if parts[0] == "callbacks" else 1
    if parts[0] in SECTIONS and len(parts) > branch:
        del parts[branch]
    path: Path = ()
    node: Node = tree
    for index, part in enumerate(parts):
        child = node.child(part)
        if child is not None:
            path, node = (*path, part), child
        elif error["type"] == "missing" and index == len(parts) - 1 and isinstance(part, str):
            path = (*path, part)
    return path


def _describe(path: Path, errors: list[dict], tree: Node) -> str:
    kind = errors[0]["type"]
    if kind == "missing" and not tree.has(path):
        return f"{tree.nearest(path).key_origin}: {dotted(path)}: missing. {_what_to_add(tree, path)}"
    node = tree.nearest(path)
    if kind == "extra_forbidden":
        return f"{node.key_origin}: {dotted(path)}: unknown key.{_key_hint(tree, path)}"
    if kind == "union_tag_not_found":
        return _describe_type(path, node)
    return f"{node.origin}: {dotted(path)}: {must_be(errors, node.plain())}"


def _describe_type(path: Path, node: Node) -> str:
    field = str(path[0])
    by, choices = rules.discriminator(field), _choices(field)
    if not isinstance(node.value, dict):
        value = node.value if isinstance(node.value, str) and node.value in choices else "..."
        how = f"{{{by}: {value}}}" if node.source.has_lines else f"{dotted(path)}.{by}={value}"
        return f"{node.origin}: {dotted(path)}: must be a mapping. Received: {shown(node.plain())}. Write {how}."
    named = node.child(by)
    if named is None:
        return f"{node.key_origin}: {dotted(path)}.{by}: missing. Choose one of: {', '.join(choices)}."
    received = named.plain()
    if received is None and "none" in choices:
        hint = " Did you mean 'none'?"
    else:
        hint = did_you_mean(received, choices) if isinstance(received, str) else f" Known: {', '.join(choices)}."
    return f"{named.origin}: {dotted(path)}.{by}: unknown {by}. Received: {shown(received)}.{hint}"


def _choices(field: str) -> tuple[str, ...]:
    return registry.names(rules.KIND_OF_FIELD[field]) if field in rules.KIND_OF_FIELD else tuple(SECTIONS[field])


def _what_to_add(tree: Node, path: Path) -> str:
    section = _section_class(tree, path[:-1])
    description = section.model_fields[path[-1]].description if section else None
    if path[-1] in SECTIONS:
        by = rules.discriminator(str(path[-1]))
        return f"Add {path[-1]}: {{{by}: ...}}, with one of: {', '.join(_choices(str(path[-1])))}."
    return f"Add it: {description}." if description else "Add it."


def _section_class(tree: Node, path: Path) -> type[Section] | None:
    if not path:
        return Recipe
    if path == ("train",):
        return Train
    field = str(path[0])
    if field not in SECTIONS or len(path) != (2 if field == "callbacks" else 1):
        return None
    name = tree.nearest(path).child(rules.discriminator(field))
    return SECTIONS[field].get(name.value) if name is not None and isinstance(name.value, str) else None


def _key_hint(tree: Node, path: Path) -> str:
    key, known = str(path[-1]), known_keys(tree, path[:-1])
    if nearest(key, known, cutoff=0.75):
        return did_you_mean(key, known)
    siblings = _siblings(path)
    meant = nearest(key, {name for section in siblings.values() for name in section.model_fields}, cutoff=0.75)
    if meant is not None:
        owners = " and ".join(name for name, section in siblings.items() if meant in section.model_fields)
        return f" '{meant}' is a key of {owners}."
    return did_you_mean(key, known)


def _siblings(path: Path) -> dict[str, type[Section]]:
    """Where else a key could belong: the other types of the same section, or for a key at the top all sections."""
    if len(path) > 1:
        return SECTIONS.get(str(path[0]), {})
    everything = {f"{field} ({name})": section for field, types in SECTIONS.items() for name, section in types.items()}
    return {"train": Train, **everything}
