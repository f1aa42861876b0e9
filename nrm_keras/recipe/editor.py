"""The JSON schema with which editors complete and check recipes while they are typed."""

from __future__ import annotations

from typing import Any

from nrm_keras.recipe import rules
from nrm_keras.recipe.schema import SECTIONS, Recipe


def json_schema() -> dict[str, Any]:
    """Everything a file may say. Nothing is required, since a file may extend another that says it."""
    schema = _loosened(Recipe.model_json_schema())
    _require_names_of_ones_own(schema["$defs"])
    sections = schema["properties"]
    variant = {"type": "object", "additionalProperties": False, "properties": dict(sections)}
    sections["extends"] = {
        "type": "string",
        "description": "a .yaml file relative to this one, or the name of a shipped recipe, whose values this one changes",
    }
    sections["variants"] = {
        "type": "object",
        "description": "named changes to this recipe: run NAME@variant",
        "additionalProperties": {"$ref": "#/$defs/Variant"},
    }
    schema["$defs"]["Variant"] = variant
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "nrm_keras recipe", **schema}


def _loosened(part: Any) -> Any:
    """Without `required`; a section without its `type` may fit several types, so any of them is enough."""
    if isinstance(part, list):
        return [_loosened(entry) for entry in part]
    if not isinstance(part, dict):
        return part
    return {
        "anyOf" if key == "oneOf" else key: _loosened(value) for key, value in part.items() if not _dropped(key, value)
    }


def _dropped(key: str, value: Any) -> bool:
    """`required`, and pydantic's titles, which only repeat names; a property may be called `title` as well."""
    return (key == "required" and isinstance(value, list)) or (key == "title" and isinstance(value, str))


def _require_names_of_ones_own(definitions: dict[str, Any]) -> None:
    """A section with free keys must have a name that is not built in, or it would excuse every typo of the others."""
    for name, by, fields in (
        ("Custom", "type", ("model", "norm", "callbacks")),
        ("CustomOptimizer", "type", ("optimizer",)),
        ("CustomData", rules.discriminator("data"), ("data",)),
    ):
        built_in = sorted(word for field in fields for word in SECTIONS[field])
        definitions[name]["required"] = [by]
        definitions[name]["properties"][by]["not"] = {"enum": built_in}
