"""A study's tree becomes a `Study`, or a list of what is wrong with its form."""

from __future__ import annotations

from pydantic import ValidationError

from nrm_keras.recipe.nodes import Node, dotted
from nrm_keras.recipe.problems import did_you_mean, shown
from nrm_keras.recipe.sections.base import Section
from nrm_keras.recipe.wording import must_be
from nrm_keras.studies.probes import PROBES
from nrm_keras.studies.schema import Claim, Measurement, Study

Path = tuple[str | int, ...]

MAX_PROBLEMS = 100


# What stands in for a section with mistakes, so that the others are checked all the same.
_STAND_INS = {
    **dict.fromkeys(("title", "claim", "source", "recipe"), "none"),
    "seeds": (0,),
    "measurements": {"none": {"metric": "none"}},
    "claims": {
        "none": {
            "statement": "none",
            "measurement": "none",
            "compare": {},
            "to": 0,
            "expect": "equal",
            "smallest_effect": 1,
        }
    },
}


def check(tree: Node, problems: list[str]) -> tuple[Study, frozenset[str]]:
    """The study a tree says, and which of its sections have mistakes, which are added to `problems`; others stand in there."""
    values = tree.plain()
    try:
        return Study.model_validate(values), frozenset()
    except ValidationError as error:
        errors = error.errors(include_url=False)
    at: dict[Path, list[dict]] = {}
    for item in errors:
        at.setdefault(_clean_path(item, tree), []).append(item)
    # a value that fits no branch of a union fails once per branch; the branch that got further says more
    inner = {path[:length] for path in at for length in range(len(path))}
    deepest = [path for path in at if path not in inner]
    problems += [_describe(path, at[path], tree) for path in deepest[:MAX_PROBLEMS]]
    faulty = frozenset(str(item["loc"][0]) for item in errors)
    kept = {key: value for key, value in values.items() if key not in faulty}
    stand_ins = {key: value for key, value in _STAND_INS.items() if key in faulty}
    return Study.model_validate({**kept, **stand_ins}), faulty


def _clean_path(error: dict, tree: Node) -> Path:
    """The path of an error in the file, without the names of the unions' branches that pydantic puts in between."""
    path: Path = ()
    for index, part in enumerate(error["loc"]):
        last_missing = error["type"] == "missing" and index == len(error["loc"]) - 1
        if tree.has((*path, part)) or last_missing:
            path = (*path, part)
    return path


def _describe(path: Path, errors: list[dict], tree: Node) -> str:
    error, node, place = errors[0], tree.nearest(path), dotted(path) or "study"
    section = _section(tree, path[:-1])
    if error["type"] == "missing":
        field = section.model_fields.get(path[-1]) if section else None
        what = f": {field.description}" if field and field.description else ""
        return f"{node.key_origin}: {place}: missing. Add it{what}."
    if error["type"] == "extra_forbidden":
        known = tuple(section.model_fields) if section else ()
        return f"{node.key_origin}: {place}: unknown key.{did_you_mean(str(path[-1]), known)}"
    if error["type"] == "union_tag_not_found":
        kind = node.child("type")
        received = "none" if kind is None else shown(kind.plain())
        hint = did_you_mean(str(received).strip("'"), tuple(PROBES))
        return f"{(kind or node).origin}: {place}.type: a probe's name is expected. Received: {received}.{hint}"
    if error["type"] == "string_pattern_mismatch":
        rule = "names of factors, levels, measurements, claims and probes have letters, digits, _ . + - only"
        return f"{node.key_origin}: {place}: {rule}. Received: {shown(error['input'])}. Rename it."
    if error["type"] == "value_error":
        return f"{node.origin}: {place}: {error['ctx']['error']}"
    return f"{node.origin}: {place}: {must_be(errors, node.plain())}"


def _section(tree: Node, path: Path) -> type[Section] | None:
    """The section whose keys stand at a path."""
    if not path:
        return Study
    if len(path) != 2:
        return None
    if path[0] == "probes":
        kind = tree.nearest(path).child("type")
        return PROBES[kind.value].options if kind is not None and kind.value in PROBES else None
    return {"measurements": Measurement, "claims": Claim}.get(path[0])
