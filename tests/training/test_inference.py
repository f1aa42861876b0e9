"""What a finished run can be asked."""

import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import nrm_keras
from nrm_keras.data import sources
from nrm_keras.errors import UserError
from nrm_keras.recipe import loading
from nrm_keras.runs import directory
from nrm_keras.training import given, inference
from tests.data.scans import write_nifti

QUICK = {"train.epochs": 1, "model": {"type": "mlp", "units": [8]}, "data.batch_size": 64}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return nrm_keras.run("images/digits_adaptive", QUICK | {"data.limit": 200}, out=out, say=lambda _: None).path


def test_evaluate_says_how_many_examples_it_measured(finished, tmp_path):
    digits = load_digits()
    assert inference.evaluate(finished)["examples"] == 359
    assert inference.evaluate(finished, split="train")["examples"] == 200
    np.savez(tmp_path / "all.npz", x=digits.images, y=digits.target)
    scores = inference.evaluate(finished, str(tmp_path / "all.npz"))
    assert next(iter(scores)) == "examples" and scores["examples"] == 1797


def test_evaluate_measures_all_of_other_data_whatever_the_limit_of_the_run(tmp_path):
    digits = load_digits()
    np.savez(tmp_path / "all.npz", x=digits.images, y=digits.target)
    data = {"data": {"source": "npz", "path": str(tmp_path / "all.npz"), "limit": 100, "batch_size": 64}}
    recipe = {key: value for key, value in QUICK.items() if key != "data.batch_size"} | data
    run = nrm_keras.run("images/digits_adaptive", recipe, out=tmp_path, say=lambda _: None)
    assert inference.evaluate(run.path, str(tmp_path / "all.npz"))["examples"] == 1797


@pytest.mark.parametrize("name", ["x.png", "x.npy", "missing.npz"])
def test_evaluate_names_what_data_may_be(finished, tmp_path, name):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8)))
    with pytest.raises(UserError, match=rf"{name}: .*an .npz file .*or a folder of images"):
        inference.evaluate(finished, str(tmp_path / name))


SMALL = {
    "text": """\
data: {source: text_file, path: texts.csv, vocabulary: 50, length: 6, batch_size: 8}
model: {type: gru, width: 4}
norm: {type: none}
""",
    "segmentation": """\
task: segmentation
data: {source: pairs, path: scans, image_size: [16, 16], batch_size: 4, fit: pad}
model: {type: unet, width: 4, depth: 1}
norm: {type: none}
""",
    "regression": """\
task: regression
data: {source: npz, path: numbers.npz, targets: [energy (MeV), spin]}
model: {type: mlp, units: [4]}
norm: {type: none}
""",
}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with a user's own data, and a function that trains on them and gives the run directory."""
    folder = tmp_path_factory.mktemp("own")
    lines = [f"{('awful', 'great')[n % 2]} film {n},{('bad', 'good')[n % 2]}" for n in range(60)]
    (folder / "texts.csv").write_text("\n".join(["text,label", *lines]))
    (folder / "new.jsonl").write_text('{"text": "great, great", "label": "good"}\n' * 2)
    chance = np.random.default_rng(0)
    for patient in range(6):
        values = chance.integers(0, 2, (5, 14, 12))
        write_nifti(folder / f"scans/images/p{patient}.nii.gz", (values * 100).astype("uint8"))
        write_nifti(folder / f"scans/masks/p{patient}.nii.gz", values.astype("uint8"))
    x = chance.normal(size=(50, 3))
    np.savez(folder / "numbers.npz", x=x, y=x[:, :2])

    def train(task):
        recipe = folder / f"{task}.yaml"
        if not recipe.exists():
            recipe.write_text(f"{SMALL[task]}optimizer: {{type: adam}}\ntrain: {{epochs: 1}}\n")
            nrm_keras.run(recipe, out=folder / "runs" / task, say=lambda line: None)
        return directory.find_all(folder / "runs" / task)[0]

    train.folder = folder
    return train


@pytest.mark.parametrize(
    ("task", "data", "examples"),
    [
        ("text", "texts.csv", 60),
        ("text", "new.jsonl", 2),
        ("segmentation", "scans", 72),
        ("regression", "numbers.npz", 50),
    ],
)
def test_evaluate_measures_other_data_of_the_kind_that_the_run_was_trained_on(own, task, data, examples):
    scores = inference.evaluate(own(task), str(own.folder / data))
    assert scores["examples"] == examples and np.isfinite(scores["loss"])


@pytest.mark.parametrize(
    ("task", "data", "needed"),
    [
        ("text", "scans", "a .csv or .jsonl file of texts"),
        ("segmentation", "numbers.npz", "a folder of images and masks"),
        ("regression", "texts.csv", "an .npz file"),
    ],
)
def test_evaluate_says_what_the_task_needs(own, task, data, needed):
    with pytest.raises(UserError, match=f"{needed}.*Received: data of another kind"):
        inference.evaluate(own(task), str(own.folder / data))


def test_predict_reads_the_column_of_texts(own):
    rows = inference.predict(own("text"), own.folder / "new.jsonl")
    assert [row["input"] for row in rows] == ["great, great"] * 2
    with pytest.raises(UserError, match=r"new.csv:1: every row has text. Received: x; no text"):
        (own.folder / "new.csv").write_text("x\n1\n")
        inference.predict(own("text"), own.folder / "new.csv")


@pytest.mark.parametrize("source", ["scans", "scans/images", "scans/images/p0.nii.gz"])
def test_predict_gives_a_row_for_each_scan_and_none_for_masks(own, source):
    rows = inference.predict(own("segmentation"), own.folder / source)
    expected = sorted((own.folder / "scans/images").iterdir())
    assert [row["input"] for row in rows] == [str(path) for path in expected[: len(rows)]] and len(rows) in (1, 6)
    assert all(row["share(background)"] + row["share(foreground)"] == pytest.approx(1) for row in rows)


def test_predict_writes_what_the_model_says_of_each_voxel(own, tmp_path):
    recipe, model = loading.load(own("segmentation") / directory.RECIPE).recipe, nrm_keras.load(own("segmentation"))
    for row in inference.predict(own("segmentation"), own.folder / "scans", masks=tmp_path / "masks"):
        image = Path(row["input"])
        _, shown = given.inputs(image, recipe, (16, 16, 1))
        classes = model.predict(shown, verbose=0).argmax(-1)
        assert row["share(foreground)"] == pytest.approx(classes.mean())
        mask = np.asarray(nibabel.load(tmp_path / "masks" / image.name).dataobj)
        # 12 slices of 14 x 5, of which the model saw 16 x 16; rows from the front, where the file's begin at the back
        np.testing.assert_array_equal(mask, classes[:, 1:15, 5:10][:, ::-1].transpose())


@pytest.mark.parametrize(("task", "source"), [("regression", "numbers.npz"), ("segmentation", "arrays.npy")])
def test_predict_writes_masks_of_image_files_only(own, tmp_path, task, source):
    np.save(own.folder / "arrays.npy", np.zeros((1, 16, 16)))
    with pytest.raises(UserError, match="--masks writes masks of the size of their image files"):
        inference.predict(own(task), own.folder / source, masks=tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_predict_shows_the_model_what_training_showed_it(own):
    recipe = loading.load(own("segmentation") / directory.RECIPE).recipe
    train = sources.load(recipe.data).train
    name = own.folder / f"scans/images/{train.groups[0]}.nii.gz"
    _, shown = given.inputs(name, recipe, (16, 16, 1))
    np.testing.assert_array_equal(shown, train.inputs[train.groups == train.groups[0]])


def test_evaluate_imports_what_the_recipe_lists_if_it_may(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished, tmp_path / "run")
    recipe = run / "recipe.yaml"
    text = recipe.read_text()
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("imports:"))
    recipe.write_text("imports: [module_of_the_test]\n" + text)
    (tmp_path / "module_of_the_test.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="imports run code"):
        inference.evaluate(run)
    assert "module_of_the_test" not in sys.modules
    assert inference.evaluate(run, allow_imports=True)["examples"] == 359
    assert sys.modules.pop("module_of_the_test")


def test_a_run_without_its_summary_is_named(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "summary.json").unlink()
    with pytest.raises(UserError, match="summary.json"):
        inference.evaluate(run)


@pytest.mark.parametrize(
    "array,message",
    [
        (np.full((2, 8, 8), "a"), "number array.*<U1"),
        (np.zeros((2, 8, 8), "longdouble"), "64 bits.*float128"),
        (np.zeros((2, 8, 8), complex), "complex128"),
        (np.full((2, 8, 8), np.nan), "128 NaN"),
        (np.full((2, 8, 8), 1e39), "larger"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".NPZ"])
def test_predict_refuses_what_is_no_input(finished, tmp_path, array, message, suffix):
    path = tmp_path / f"x{suffix}"
    with open(path, "wb") as file:
        np.save(file, array) if suffix == ".npy" else np.savez(file, x=array)
    with pytest.raises(UserError, match=message):
        inference.predict(finished, path)


@pytest.mark.parametrize(
    "torn", [lambda b: b"", lambda b: b[:-60], lambda b: b[:200] + b"????" + b[204:], lambda b: b"PK"]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_predict_refuses_broken_archives(finished, tmp_path, torn, save):
    path = tmp_path / "x.npz"
    save(path, x=np.random.default_rng(0).normal(size=(2, 8, 8)))
    path.write_bytes(torn(path.read_bytes()))
    with pytest.raises(UserError, match="x.npz: an archive of plain arrays is needed"):
        inference.predict(finished, path)
    np.savez(path, z=np.zeros(3))
    with pytest.raises(UserError, match="the array x"):
        inference.predict(finished, path)


def test_predict_refuses_other_images(finished, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.bmp")
    for source in (tmp_path / "x.bmp", tmp_path):
        with pytest.raises(UserError, match="convert it to PNG"):
            inference.predict(finished, source)
