"""Results per class, confusion matrix and pictures from files, good and bad."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from nrm_keras.report import evaluation

NAMES = ["cat", "dog", "<b>cow</b>", "emu"]


def png(size=(8, 8), noise=False):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)) if noise else np.zeros((*size, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype("uint8")).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def answers():
    """True and predicted classes, of which the last is never answered; class 0 is most often mistaken for 2."""
    random = np.random.default_rng(0)
    true = random.integers(0, 4, 300)
    predicted = np.where(random.uniform(size=300) < 0.7, true, random.integers(0, 3, 300))
    predicted[(true == 0) & (predicted == 1)] = 2
    return true, np.where(predicted == 3, 0, predicted)


@pytest.fixture
def content(answers):
    return {
        "version": 1,
        "split": "test",
        "classes": NAMES,
        "confusion": confusion_matrix(*answers).tolist(),
        "loss_per_class": [0.25, 1.5, 0.125, 3.0],
        "examples": [{"image": "examples/0001.png", "true": "cat", "predicted": "<b>cow</b>", "probability": 0.97}],
    }


def read(run, content):
    (run / "evaluation.json").write_text(content if isinstance(content, str) else json.dumps(content))
    notices = []
    return evaluation.read(run, notices), notices


def good(run, content):
    found, notices = read(run, content)
    assert found is not None and notices == []
    return found


def identity(classes, count=5):
    return {
        "version": 1,
        "split": "test",
        "classes": list(map(str, range(classes))),
        "confusion": (count * np.eye(classes, dtype=int)).tolist(),
    }


def share(cell):
    return float(cell.split(" %")[0]) / 100


def test_the_table_agrees_with_scikit_learn(tmp_path, content, answers):
    table = evaluation.per_class(good(tmp_path, content))
    precision, recall, f1, support = precision_recall_fscore_support(*answers, zero_division=0)
    assert table.head == ["class", "examples", "precision", "recall", "F1", "loss", "most often taken for"]
    assert [row[0] for row in table.rows] == NAMES
    assert [int(row[1]) for row in table.rows] == list(support)
    assert [share(row[2]) for row in table.rows[:3]] == pytest.approx(precision[:3], abs=6e-4)
    assert table.rows[3][2] == "never answered"
    assert [share(row[3]) for row in table.rows] == pytest.approx(recall, abs=6e-4)
    assert [float(row[4]) for row in table.rows] == pytest.approx(f1, abs=6e-5)
    for row, right, all_of in zip(table.rows, confusion_matrix(*answers).diagonal(), support, strict=True):
        interval = binomtest(right, all_of).proportion_ci(method="wilson")
        assert f"({100 * interval.low:.1f} to {100 * interval.high:.1f})" in row[3]
    true, predicted = answers
    taken = np.bincount(predicted[true == 0], minlength=4)
    assert table.rows[0][6] == f"<b>cow</b> ({taken[2]})"


def test_a_class_without_examples_and_a_flawless_run(tmp_path):
    content = identity(3)
    content["confusion"][1] = [0, 0, 0]
    found = good(tmp_path, content)
    assert evaluation.per_class(found).rows[1] == ["1", "0", "", "", "", ""]
    chart = evaluation.confusion(found)
    assert chart.sentence == "All 10 test examples are classified correctly."
    assert "no examples" in chart.figure["data"][0]["hovertext"][1][0]


def test_the_matrix_shows_counts_and_shares(tmp_path, content, answers):
    chart = evaluation.confusion(good(tmp_path, content))
    (heatmap,) = chart.figure["data"]
    counts = confusion_matrix(*answers)
    shares = np.array([[value or 0.0 for value in row] for row in heatmap["z"]])
    np.testing.assert_allclose(shares, counts / counts.sum(1, keepdims=True))
    assert heatmap["text"][1][0] == str(counts[1, 0]) and heatmap["text"][0][1] == "" and heatmap["z"][0][1] is None
    assert heatmap["hovertext"][1][0].startswith(f"true dog, predicted cat: {counts[1, 0]} of {counts[1].sum()} (")
    mistakes = counts - np.diag(counts.diagonal())
    true, predicted = np.unravel_index(mistakes.argmax(), mistakes.shape)
    assert chart.sentence == (
        f"{mistakes.sum()} of 300 test examples are taken for another class. "
        f"Most often {NAMES[true]} is taken for {NAMES[predicted]} ({mistakes.max()} of {counts[true].sum()})."
    )
    # plotly reads markup in its texts
    assert "<" not in json.dumps(chart.figure["data"]) + json.dumps(chart.figure["layout"]["xaxis"])
    assert "&lt;b&gt;cow&lt;/b&gt;" in chart.figure["layout"]["yaxis"]["ticktext"]


def test_of_many_classes_the_worst_are_shown_and_the_others_named(tmp_path):
    content = identity(250)
    for index in range(40, 70):
        content["confusion"][index][index - 40] += 2  # 30 classes miss 2, and 30 others are wrongly answered twice
        content["confusion"][index][249] += 1
    found = good(tmp_path, content)
    chart = evaluation.confusion(found)
    shown = chart.figure["layout"]["xaxis"]["ticktext"]
    assert len(shown) == 30 and "249" in shown and set(shown) - {"249"} <= set(map(str, range(40, 70)))
    assert chart.sentence.endswith("The 30 of 250 classes with the most errors; evaluation.json has all.")
    assert "text" not in chart.figure["data"][0]
    table = evaluation.per_class(found)
    assert len(table.rows) == 200 and table.note.startswith("The 200 of 250 classes")
    assert {str(index) for index in range(70)} <= {row[0] for row in table.rows}


def test_single_mistakes_have_no_favourite(tmp_path):
    content = identity(3)
    content["confusion"][0][1] = content["confusion"][2][0] = 1
    sentence = evaluation.confusion(good(tmp_path, content)).sentence
    assert sentence == "2 of 17 test examples are taken for another class. No two classes are confused more than once."


def test_long_names_keep_both_ends_on_the_axes_and_are_whole_on_hover(tmp_path):
    names = [f"a name with a long beginning {number}" for number in range(3)]
    figure = evaluation.confusion(good(tmp_path, identity(3) | {"classes": names})).figure
    ticks = figure["layout"]["xaxis"]["ticktext"]
    assert len(set(ticks)) == 3 and max(map(len, ticks)) <= 16
    assert names[2] in figure["data"][0]["hovertext"][2][0]


def test_one_class_has_no_matrix(tmp_path):
    assert evaluation.confusion(good(tmp_path, identity(1))) is None


def changed(content, **changes):
    return {**content, **changes}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: json.dumps(c)[:-40], "not as expected"),
        (lambda c: "", "not as expected"),
        (lambda c: "[]", "not as expected"),
        (lambda c: "[" * 100_000, "not as expected"),
        (lambda c: json.dumps(c).replace("cat", "\\ud800"), "not as expected"),
        (lambda c: json.dumps(c).replace("0.25", "NaN"), "loss_per_class.0"),
        (lambda c: json.dumps(c).replace("0.97", "Infinity"), "examples.0.probability"),
        (lambda c: changed(c, version=2), "version: Value error, this nrm_keras reads version 1. Received: 2"),
        (lambda c: {k: v for k, v in c.items() if k != "version"}, "version"),
        (lambda c: {k: v for k, v in c.items() if k != "confusion"}, "confusion"),
        (lambda c: changed(c, confusion=c["confusion"][:3]), "3 rows"),
        (lambda c: changed(c, confusion=[row[:2] for row in c["confusion"]]), "columns"),
        (lambda c: changed(c, confusion=[*c["confusion"][:3], [1]]), "columns"),
        (lambda c: changed(c, confusion=[[-1] * 4] * 4), "confusion.0.0"),
        (lambda c: changed(c, confusion=[[float("nan")] * 4] * 4), "confusion.0.0"),
        (lambda c: changed(c, confusion=[[10**30] * 4] * 4), "confusion.0.0"),
        (lambda c: changed(c, loss_per_class=[1.0]), "1 losses"),
        (lambda c: changed(c, classes=[{}] * 4), "classes.0"),
        (lambda c: changed(c, confusion=[[0] * 4] * 4), "no examples"),
        (lambda c: changed(c, confusion=[[0] * 4] * 4, unanswered=300), "For 300 of 300 test examples"),
        (lambda c: changed(c, classes=[], confusion=[], loss_per_class=None), "no examples"),
    ],
)
def test_what_is_damaged_is_left_out_with_a_notice(tmp_path, content, change, words):
    found, notices = read(tmp_path, change(content))
    assert found is None
    (notice,) = notices
    assert words in notice and "evaluation.json" in notice or "For 300" in notice


def test_a_missing_file_is_noticed_in_a_finished_run_only(tmp_path):
    notices = []
    assert evaluation.read(tmp_path, notices) is None and notices == []
    (tmp_path / "summary.json").write_text("{}")
    assert evaluation.read(tmp_path, notices) is None
    assert notices == ["evaluation.json is missing, so results per class are left out."]
    (tmp_path / "evaluation.json").mkdir()
    assert evaluation.read(tmp_path, notices) is None and "cannot be read" in notices[1]


def test_some_unanswered_examples_are_said(tmp_path, content):
    found, notices = read(tmp_path, changed(content, unanswered=7))
    assert found is not None and notices[0].startswith("For 7 of 307 test examples")


def test_pictures_are_inlined_with_masks(tmp_path, content):
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/0001.png").write_bytes(png())
    (tmp_path / "examples/mask.png").write_bytes(png((4, 4)))
    content["examples"].append({"image": "examples/0001.png", "mask": "examples/mask.png"})
    notices = []
    first, second = evaluation.pictures(tmp_path, good(tmp_path, content), notices)
    assert notices == [] and first.caption == "cat taken for <b>cow</b> (97.0 %)" and first.mask == ""
    kind, _, data = first.image.partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == png()
    assert base64.b64decode(second.mask.partition(",")[2]) == png((4, 4)) and second.predicted_mask == ""


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("../secret.png", "Received: ../secret.png"),
        ("examples/../../secret.png", "files below examples/"),
        ("secret.png", "files below examples/"),
        ("{outside}/secret.png", "files below examples/"),
        ("examples/link.png", "files below examples/"),
        ("examples/page.png", "not a PNG"),
        ("examples/large.png", "bytes"),
        ("examples/none.png", "is missing"),
        ("examples/folder", "is missing"),
        ("examples", "is missing"),
        ("examples/\0.png", "null"),
        (f"examples/{'a' * 5000}", "left out"),
    ],
)
@pytest.mark.parametrize("key", ["image", "mask"])
def test_other_files_are_refused(tmp_path, content, image, words, key):
    run = tmp_path / "run"
    (run / "examples/folder").mkdir(parents=True)
    for path in (tmp_path / "secret.png", run / "secret.png", run / "examples/0001.png"):
        path.write_bytes(png())
    (run / "examples/link.png").symlink_to(tmp_path / "secret.png")
    (run / "examples/page.png").write_text("<svg onload='alert(1)'>")
    (run / "examples/large.png").write_bytes(png((256, 256), noise=True))
    content["examples"].append({"image": "examples/0001.png", key: image.format(outside=tmp_path)})
    notices = []
    shown = evaluation.pictures(run, good(run, content), notices)
    assert [one.caption for one in shown] == ["cat taken for <b>cow</b> (97.0 %)"]
    assert len(notices) == 1 and words in notices[0]


def test_a_folder_of_pictures_that_is_a_link_is_refused(tmp_path, content):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/0001.png").write_bytes(png())
    (tmp_path / "run").mkdir()
    (tmp_path / "run/examples").symlink_to(tmp_path / "elsewhere")
    notices = []
    assert evaluation.pictures(tmp_path / "run", good(tmp_path / "run", content), notices) == []
    assert len(notices) == 1


def test_at_most_twelve_pictures(tmp_path, content):
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/0001.png").write_bytes(png())
    found = good(tmp_path, changed(content, examples=content["examples"] * 20))
    notices = []
    assert len(evaluation.pictures(tmp_path, found, notices)) == 12
