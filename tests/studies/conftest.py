import pytest
import yaml

from nrm_keras.recipe.nodes import command_line, from_python, merge

# quick: 100 digits, one epoch of a network of 8 units
TINY = {
    "title": "Tiny",
    "claim": "Networks of 8 units err much whatever normalizes them.",
    "source": "nobody",
    "recipe": "images/digits_adaptive@mlp",
    "overrides": {
        "data": {"limit": 100, "batch_size": 50},
        "model": {"units": [8]},
        "train": {"epochs": 1},
    },
    "grid": {"norm": {"batch": {"norm": {"type": "batch"}}, "none": {"norm": {"type": "none"}}}},
    "seeds": [0, 1, 2],
    "measurements": {"error": {"metric": "test.accuracy", "transform": "complement"}},
    "claims": {
        "alike": {
            "statement": "both err alike",
            "measurement": "error",
            "compare": {"norm": "batch"},
            "to": {"norm": "none"},
            "expect": "equal",
            "smallest_effect": 0.9,
        }
    },
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a study into the working directory: TINY with changes merged over it."""
    monkeypatch.chdir(tmp_path)

    def write(changes=None, name="tiny.yaml"):
        source = command_line()
        study = merge(from_python(TINY, source), from_python(changes or {}, source)).plain()
        # through a list, as YAML has no tuples
        (tmp_path / name).write_text(yaml.safe_dump(_lists(study), sort_keys=False))
        return name

    return write


def _lists(value):
    if isinstance(value, dict):
        return {key: _lists(entry) for key, entry in value.items()}
    return [_lists(entry) for entry in value] if isinstance(value, (list, tuple)) else value
