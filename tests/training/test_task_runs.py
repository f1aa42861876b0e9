"""Each task from its data to a saved model that scores the same, with sources and models of a user's own."""

import json

import keras
import numpy as np
import pytest

import nrm_keras
from nrm_keras.errors import UserError
from nrm_keras.runs import directory
from nrm_keras.training import inference, launch

MODULE = """
import keras, numpy as np
import nrm_keras
from nrm_keras.data.examples import Examples, Split

SIZES = {"train": 48, "validation": 16, "test": 16}


def splits(make):
    return [make(np.random.default_rng(number), size) for number, size in enumerate(SIZES.values())]


@nrm_keras.register("data", "discs")
def discs(section):
    def make(chance, count):
        centre = chance.uniform(3, 9, (count, 2, 1, 1))
        rows, columns = np.mgrid[:12, :13]
        true = (np.hypot(rows - centre[:, 0], columns - centre[:, 1]) < 3).astype("uint8")
        noisy = (true[..., None] * 100 + chance.normal(60, 25, (*true.shape, 1))).clip(0, 255).astype("uint8")
        return Split(noisy, true)

    return Examples(("background", "disc"), *splits(make), "drawn", (12, 13, 1), caveat="Drawn discs prove little.")


@nrm_keras.register("data", "lines")
def lines(section):
    words = np.array("good fine great bad poor awful film plot and the of ä".split())

    def make(chance, count):
        label = np.arange(count) % 2
        texts = [" ".join([*chance.choice(words[6:], 4), *chance.choice(words[3 * one : 3 * one + 3], 2)]) for one in label]
        return Split(np.array(texts, object), label.astype("int32"))

    return Examples(("good", "bad"), *splits(make), "made up", ())


@nrm_keras.register("data", "line")
def line(section):
    def make(chance, count):
        x = chance.normal(size=(count, 2)).astype("float32")
        return Split(x, (800 + 50 * x[:, :1] + chance.normal(size=(count, 1))).astype("float32"))

    return Examples((), *splits(make), "made up", (2,), targets=("energy (MeV)",))


@nrm_keras.register("data", "sites")
def sites(section):
    def make(chance, count):
        domain = np.arange(count) % 3 if count == 48 else np.full(count, -1)
        y = chance.integers(0, 2, count)
        x = chance.normal(size=(count, 4)) + 3 * y[:, None] + 20 * np.where(domain < 0, 1, domain)[:, None]
        return Split(x.astype("float32"), y.astype("int32"), domains=domain.astype("int32"))

    return Examples(("healthy", "ill"), *splits(make), "made up", (4,), domains=("A", "B", "C"))


@nrm_keras.register("model", "convolutions")
def convolutions(x, norm, filters):
    x = keras.layers.Conv2D(filters, 3, padding="same", name="conv")(x)
    return keras.layers.ReLU(name="relu")(norm("norm")(x))


@nrm_keras.register("model", "bag")
def bag(x, norm, width, vocabulary, length):
    x = keras.layers.Embedding(vocabulary, width, mask_zero=True, name="embedding")(x)
    return keras.layers.GlobalAveragePooling1D(name="mean")(norm("norm")(x))
"""
TASKS = {
    "segmentation": """\
task: segmentation
data: {source: discs, batch_size: 2, augment: [crop, flip]}
model: {type: convolutions, filters: 8}
norm: {type: group, groups: 4}
baseline: linear
train: {epochs: 6}
""",
    "text": """\
data: {source: lines, batch_size: 8, vocabulary: 100, length: 10}
model: {type: bag, width: 8}
norm: {type: layer}
baseline: tfidf
train: {epochs: 6, metrics: [accuracy, auroc]}
""",
    "regression": """\
task: regression
data: {source: line, batch_size: 8}
model: {type: mlp, units: [16]}
norm: {type: none}
baseline: linear
train: {epochs: 20}
""",
    "domains": """\
data: {source: sites, batch_size: 12}
model: {type: mlp, units: [8]}
norm: {type: domain}
train: {epochs: 6}
""",
}
# what a model that learned nothing reaches is far away
GOOD = {
    "segmentation": ("dice", lambda value: value > 0.8),
    "text": ("auroc", lambda value: value > 0.95),
    "regression": ("rmse", lambda value: value < 15),
    "domains": ("accuracy", lambda value: value > 0.8),  # of a site that training never saw, amid those it saw
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Returns a function that writes a task's recipe, beside the module that it imports."""
    (tmp_path / "own_tasks.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def write(task, *changes):
        text = TASKS[task]
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        rate = "1e-1" if task == "regression" else "3e-2"
        (tmp_path / f"{task}.yaml").write_text(
            f"imports: [own_tasks]\n{text}optimizer: {{type: adam, learning_rate: {rate}}}\n"
        )
        return tmp_path / f"{task}.yaml"

    return write


def run(recipe, **options):
    said = []
    out = recipe.parent / "runs"
    return nrm_keras.run(recipe, out=out, say=said.append, allow_imports=True, **options), said


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_learned_saved_and_scored_again(task, write):
    finished, said = run(write(task))
    test = finished.summary["metrics"]["test"]
    name, good = GOOD[task]
    assert good(test[name]), test
    again = inference.evaluate(finished.path, allow_imports=True)
    assert again.pop("examples") == 16
    assert again == pytest.approx(test, rel=1e-5)
    page = (finished.path / "report.html").read_text()
    baseline = finished.summary["baseline"]
    assert (baseline is None) == (task == "domains")
    if baseline:
        assert baseline["name"] in page and any(line.startswith("Baseline") for line in said)
    if task == "segmentation":
        assert "Drawn discs prove little." in page and "Note: Drawn discs prove little." in said


def test_pictures_and_counts_of_masks(write):
    finished, _ = run(write("segmentation"))
    content = json.loads((finished.path / "evaluation.json").read_text())
    counts = np.array(content["confusion"])
    assert content["unit"] == "pixels" and counts.sum() == 16 * 12 * 13
    dice = 2 * counts[1, 1] / (counts[1].sum() + counts[:, 1].sum())
    assert dice == pytest.approx(finished.summary["metrics"]["test"]["dice"], rel=1e-5)
    first = content["examples"][0]
    files = [finished.path / first[name] for name in ("image", "mask", "predicted_mask")]
    from PIL import Image

    assert [Image.open(file).size for file in files] == [(13, 12)] * 3
    assert "Least overlap" in (finished.path / "report.html").read_text()


def test_the_saved_model_takes_raw_text(write, tmp_path):
    finished, _ = run(write("text"))
    model = keras.saving.load_model(finished.path / "checkpoints/model.keras")
    import tensorflow as tf

    logits = model(tf.constant(["Great, great film!", "awful plot", "", "wörds never seen ä"]))
    assert logits[0, 0] > logits[0, 1] and logits[1, 1] > logits[1, 0]
    (tmp_path / "texts.txt").write_text("Great, great film!\nawful plot\n")
    rows = inference.predict(finished.path, tmp_path / "texts.txt", allow_imports=True)
    assert [row["class"] for row in rows] == ["good", "bad"]


def test_predictions_have_the_units_of_the_target(write, tmp_path):
    finished, _ = run(write("regression"))
    np.save(tmp_path / "x.npy", np.array([[0.0, 0.0], [1.0, 0.0]], "float32"))
    rows = inference.predict(finished.path, tmp_path / "x.npy", allow_imports=True)
    assert [row["energy (MeV)"] for row in rows] == pytest.approx([800, 850], abs=25)


def test_an_interrupted_text_run_goes_on_with_the_same_words(write):
    whole, _ = run(write("text"))

    def stop(line):
        if line.startswith("epoch 3/6"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nrm_keras.run(write("text"), out=write("text").parent / "cut", say=stop, allow_imports=True)
    (path,) = directory.find_all(write("text").parent / "cut")
    rows = (path / "metrics.csv").read_text().splitlines()
    rows[1] = ",".join([*rows[1].split(",")[:-1], "1000"])  # seconds, the last column, of the first epoch
    (path / "metrics.csv").write_text("\r\n".join(rows) + "\r\n")
    resumed = launch.resume(path, allow_imports=True, say=lambda line: None)
    assert resumed.summary["metrics"] == whole.summary["metrics"]
    assert resumed.summary["seconds"] > 1000


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("segmentation", ("task: segmentation\n", ""), "Received: task classification, and data for segmentation"),
        ("segmentation", ("baseline: linear", "baseline: tfidf"), "Set baseline: linear."),
        ("text", ("baseline: tfidf", "baseline: linear"), "Set baseline: tfidf."),
        ("regression", ("{type: none}", "{type: domain}"), "norm.type domain needs data that says which domain"),
        ("text", ("batch_size: 8", "batch_size: 8, augment: [flip]"), "data.augment: of text only drop_words"),
    ],
)
def test_data_that_does_not_fit_is_told_before_anything_is_trained(task, change, message, write, tmp_path):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        run(write(task, change))
    assert not list((tmp_path / "runs").rglob("recipe.yaml"))


TEXTS = """\
data: {source: text_file, path: texts.csv, batch_size: 8, length: 4}
model: {type: transformer, width: 4, depth: 1, heads: 1, hidden: 4}
norm: {type: layer}
optimizer: {type: adam}
baseline: tfidf
train: {epochs: 1}
"""


def run_on_texts(tmp_path, rows):
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"{one},{label}\n" for one, label in rows))
    (tmp_path / "own.yaml").write_text(TEXTS)
    return run(tmp_path / "own.yaml")


def test_texts_without_words_are_refused(tmp_path):
    with pytest.raises(UserError, match="no word in"):
        run_on_texts(tmp_path, [("!" * (number + 1), "ab"[number % 2]) for number in range(20)])


def test_a_baseline_that_cannot_be_fitted_does_not_cost_the_result(tmp_path):
    """TF-IDF knows no words of a single letter."""
    letters = [f"{one} {other}" for one in "abcde" for other in "fghij"]
    finished, said = run_on_texts(tmp_path, [(text, "xy"[number % 2]) for number, text in enumerate(letters)])
    assert finished.summary["baseline"] is None and finished.summary["metrics"]["test"]
    assert any("baseline, TF-IDF with logistic regression, is left out" in line for line in said)


def test_one_class_is_refused(tmp_path):
    np.savez(tmp_path / "one.npz", x=np.zeros((20, 2), "float32"), y=np.zeros(20, int))
    (tmp_path / "own.yaml").write_text(
        "data: {source: npz, path: one.npz}\nmodel: {type: mlp}\nnorm: {type: layer}\noptimizer: {type: adam}\n"
    )
    with pytest.raises(UserError, match="two classes at least. Received: 0 only"):
        run(tmp_path / "own.yaml")
