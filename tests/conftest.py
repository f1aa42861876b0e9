"""What every test gets: a quiet TensorFlow, and none of the data this machine happens to have prepared."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_DATA_DIR = os.environ.get("TFDS_DATA_DIR")

import pytest


@pytest.fixture(autouse=True)
def _own_data_directory(tmp_path_factory, monkeypatch):
    # one for each test: what one prepares must not be another's data
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))


@pytest.fixture
def real_data(_own_data_directory, monkeypatch):
    """Loads a recipe's `data` section from the user's own data directory; skips the test where that lacks the data."""
    from nrm_keras.data import sources

    if _DATA_DIR is None:
        monkeypatch.delenv("TFDS_DATA_DIR")
    else:
        monkeypatch.setenv("TFDS_DATA_DIR", _DATA_DIR)

    def load(data, limit=None):
        if sources.find(data) is None:
            pytest.skip(f"{data.source} is not on this machine; python -m nrm_keras data prepare {data.source} gets it")
        return sources.load(data, limit)

    return load
