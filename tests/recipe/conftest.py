import pytest

from nrm_keras import registry

COMPLETE = """\
data: {source: digits}
model: {type: mlp}
norm: {type: batch}
optimizer: {type: sgd}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a recipe into the working directory, so that messages name it by its bare file name."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="x.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write


@pytest.fixture
def clean_registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_added", {kind: {} for kind in registry.KINDS})
