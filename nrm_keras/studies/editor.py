"""The JSON schema with which editors complete and check studies while they are typed."""

from __future__ import annotations

from typing import Any

from nrm_keras.recipe import editor
from nrm_keras.studies.schema import Study


def json_schema() -> dict[str, Any]:
    """What a study's file may say; `overrides` and levels say what a recipe's variant may."""
    recipes = editor.json_schema()["$defs"]
    schema = Study.model_json_schema()
    variant = recipes["Variant"]
    level = {**variant, "properties": {"recipe": schema["properties"]["recipe"], **variant["properties"]}}
    schema["properties"]["overrides"] |= {"$ref": "#/$defs/Variant"}
    # patternProperties, by the pattern of names, then the same for a factor's levels
    _innermost(schema["properties"]["grid"])["$ref"] = "#/$defs/Level"
    schema["$defs"] |= {**recipes, "Level": level}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "nrm_keras study"}


def _innermost(part: dict[str, Any]) -> dict[str, Any]:
    """The schema of what stands in the mappings within mappings."""
    inner = part.get("additionalProperties") or next(iter(part.get("patternProperties", {}).values()), None)
    return _innermost(inner) if isinstance(inner, dict) else part
