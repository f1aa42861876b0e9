"""Every shipped recipe and every one of its variants trains for two steps."""

import pytest

import nrm_keras
from nrm_keras.data import images, sources, tfds
from nrm_keras.recipe import catalog, loading
from tests.data import cifar

RECIPES = [
    loaded.name
    for name in catalog.names()
    if not name.startswith("base/")
    for loaded in loading.load_with_variants(name)
]


@pytest.fixture(scope="module", autouse=True)
def _tiny_cifar10(tmp_path_factory):
    """CIFAR-10 as TFDS's own builder makes it from a tiny archive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.getbasetemp() / "tfds"))
        folder = tmp_path_factory.mktemp("cifar")
        tfds.prepare(images.Cifar10, cifar.write_archive(folder), accept_checksum=True)
    yield


@pytest.mark.parametrize("name", RECIPES)
def test_smoke(name, tmp_path):
    data = loading.load(name).recipe.data
    if sources.find(data) is None:
        pytest.skip(f"{data.source} is not on this machine; python -m nrm_keras data ls says how to get it")
    said = []
    run = nrm_keras.run(name, out=tmp_path, smoke=True, say=said.append)
    summary = run.summary
    assert summary["status"] == "finished" and summary["smoke"] and summary["steps"] == 2
    assert set(summary["metrics"]) == {"train", "validation", "test"}
    assert (run.path / "report.html").stat().st_size > 10_000
    assert run.load().count_params() == summary["parameters"]
    assert any(line.startswith("Test: accuracy") for line in said)
