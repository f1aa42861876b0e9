"""The JSON schema for editors, judged by a small validator of the keywords it uses."""

import json

import pytest

from nrm_keras.recipe import catalog
from nrm_keras.recipe.editor import json_schema
from nrm_keras.recipe.nodes import Source
from nrm_keras.recipe.parsing import parse

SCHEMA = json.loads(json.dumps(json_schema()))
TYPES = {"object": dict, "array": (list, tuple), "string": str, "boolean": bool, "null": type(None)}


def fits(value, schema):
    """Whether a value obeys a schema, for the keywords that pydantic writes here."""
    if "$ref" in schema:
        schema = {
            **SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]],
            **{k: v for k, v in schema.items() if k != "$ref"},
        }
    checks = [
        "type" not in schema or _is(value, schema["type"]),
        "const" not in schema or value == schema["const"],
        "enum" not in schema or value in schema["enum"],
        "anyOf" not in schema or any(fits(value, option) for option in schema["anyOf"]),
        "not" not in schema or not fits(value, schema["not"]),
        "exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"],
    ]
    if not all(checks):
        return False
    if isinstance(value, dict):
        known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
        return all(key in value for key in schema.get("required", ())) and all(
            fits(entry, known[key]) if key in known else other is True or (other and fits(entry, other))
            for key, entry in value.items()
        )
    return not isinstance(value, (list, tuple)) or all(fits(entry, schema.get("items", {})) for entry in value)


def _is(value, kind):
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else (int, float)) and not isinstance(value, bool)
    return isinstance(value, TYPES[kind])


@pytest.mark.parametrize("name", [*catalog.names(), "base/images"])
def test_shipped_files_obey_it(name):
    text = (catalog.root() / f"{name}.yaml").read_text()
    assert fits(parse(text, Source("x", "/"), []).plain(), SCHEMA)


@pytest.mark.parametrize(
    ("recipe", "good"),
    [
        ({}, True),
        ({"norm": {"momentum": 0.5}}, True),
        ({"norm": {"momentun": 0.5}}, False),
        ({"norm": {"type": "batch", "momentun": 0.5}}, False),
        ({"norm": {"type": "own", "anything": 0.5}}, True),
        ({"extends": "base/images", "imports": ["mine"], "variants": {"a": {"train": {"epochs": 1}}}}, True),
        ({"variants": {"a": {"trian": {}}}}, False),
        ({"variants": {"a": {"extends": "b"}}}, False),
        ({"data": {"batch_size": 0}}, False),
        ({"title": "x"}, True),
        ({"titel": "x"}, False),
    ],
)
def test_what_it_accepts(recipe, good):
    assert bool(fits(recipe, SCHEMA)) is good


def test_nothing_of_ours_is_required_and_every_key_is_described():
    assert "required" not in SCHEMA
    for name, section in SCHEMA["$defs"].items():
        assert name.startswith("Custom") or "required" not in section
        for key, entry in section["properties"].items():
            described = key in ("type", "source") or name == "Variant" or "description" in entry
            assert described, f"{name}.{key}"
    assert all("description" in entry for entry in SCHEMA["properties"].values())
