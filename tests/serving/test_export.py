"""What an export writes, what it refuses, and that nothing is left behind where it does."""

import json
import os
import shlex
import shutil
import signal
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state as keras_state
from PIL import Image
from scipy.special import softmax

import nrm_keras
from nrm_keras.cli import main
from nrm_keras.data import files
from nrm_keras.errors import UserError
from nrm_keras.serving.exporting import checking, destination, heads, own_model, saved_model
from nrm_keras.serving.exporting.interface import Interface, resized

CLASSES = ("cat", "dog's", "élan")
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 12, 10, 3), "uint8")
LABELS = np.arange(40) % 3


def cnn(seed=0, end="linear"):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((12, 10, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Conv2D(8, 3, use_bias=False)(x)
    x = nrm_keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(3, activation=end)(x), name="small_cnn")


def export(model, path, **options):
    given = {"inputs": IMAGES, "labels": LABELS, "classes": CLASSES, "say": lambda line: None}
    return nrm_keras.export(model, path, **given | options)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """An exported model of one's own, and what the export said."""
    said = []
    done = export(cnn(), tmp_path_factory.mktemp("served") / "deep" / "small cnn", say=said.append)
    return done, said


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return nrm_keras.run(
        "medical/breast_cancer", out=tmp_path_factory.mktemp("runs"), smoke=True, say=lambda line: None
    )


def test_layout(served):
    done, said = served
    inside = {path.relative_to(done.path).as_posix() for path in done.path.rglob("*") if path.is_file()}
    assert {"saved_model.pb", "variables/variables.index", "README.md", "model_card.json"} < inside
    assert "assets.extra/tf_serving_warmup_requests" in inside
    assert [path.name for path in done.path.parent.iterdir()] == ["1"]
    assert done.card["name"] == "small-cnn" and done.card["input"] == {
        "name": "image",
        "dtype": "uint8",
        "shape": [None, None, None, 3],
    }
    assert set(done.card["signatures"]) == {"serving_default", "features", "monitor"}
    assert any("folded" in step["what"] for step in done.card["specialization"])
    assert any(line.startswith("Exported: ") for line in said) and any(
        "python -m nrm_keras serve" in line for line in said
    )


def test_any_batch_gives_the_same_answer(served):
    loaded = tf.saved_model.load(served[0].path)
    answer = loaded.signatures["serving_default"]
    whole = answer(image=tf.constant(IMAGES))["scores"].numpy()
    np.testing.assert_allclose(whole, softmax(cnn().predict(IMAGES.astype("float32"), verbose=0), -1), atol=1e-5)
    for size in (1, 7):
        parts = [answer(image=tf.constant(IMAGES[i : i + size]))["scores"] for i in range(0, 40, size)]
        np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-6)


def test_warmup_requests_are_answered(served):
    from tensorflow_serving.apis import prediction_log_pb2

    loaded = tf.saved_model.load(served[0].path)
    asked = set()
    for record in tf.data.TFRecordDataset(served[0].path / saved_model.WARMUP):
        request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        values = {name: tf.constant(tf.make_ndarray(proto)) for name, proto in request.inputs.items()}
        assert loaded.signatures[request.model_spec.signature_name](**values)
        asked.add((request.model_spec.name, request.model_spec.signature_name, len(values["image"])))
    batches = {("serving_default", 1), ("serving_default", 64), ("features", 1), ("monitor", 1)}
    assert asked == {("small-cnn", *batch) for batch in batches}


def test_card_shows_a_request_that_works(served):
    done, _ = served
    text = (done.path / "README.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("    curl ")]
    command = shlex.split(line)
    sent = command[command.index("-d") + 1]
    assert command[-1] == "http://localhost:8501/v1/models/small-cnn:predict"
    body = json.loads((done.path / sent[1:]).read_text() if sent.startswith("@") else sent)
    assert body == done.card["example_request"]
    answers = tf.saved_model.load(done.path).signatures["serving_default"](
        image=tf.constant(body["instances"], tf.uint8)
    )
    (expected,) = done.card["example_answer"]["predictions"]
    np.testing.assert_allclose(answers["scores"][0], expected["scores"], atol=1e-6)
    assert answers["labels"][0].numpy().decode() == expected["labels"] in CLASSES


@pytest.mark.parametrize("size", [(12, 10), (31, 17), (5, 40)])
def test_images_are_resized_as_for_training(size, tmp_path):
    picture = np.random.default_rng(1).integers(0, 256, (*size, 3), "uint8")
    Image.fromarray(picture).save(tmp_path / "picture.png")
    trained_on = files.decoder((12, 10, 3))(str(tmp_path / "picture.png"))
    np.testing.assert_array_equal(resized(tf.constant(picture[None]), (12, 10), rounds=False)[0], trained_on)


def test_another_model_is_refused(served, tmp_path):
    """The check can fail: a SavedModel with other weights than the Keras model it is said to be."""
    other = own_model.of_model(cnn(seed=1), "other", IMAGES, labels=LABELS, classes=CLASSES)
    with pytest.raises(UserError, match="answers as the Keras model.*Received: scores"):
        checking.check(other, served[0].path, "savedmodel", (saved_model.SERVING,), 1e-4)


def test_a_model_that_does_not_load_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"nothing")
    mine = own_model.of_model(cnn(), "mine", IMAGES, classes=CLASSES)
    with pytest.raises(UserError, match="in a process of its own.*Error: "):
        checking.check(mine, tmp_path, "savedmodel", (saved_model.SERVING,), 1e-4)


def test_nothing_is_overwritten(served, capsys):
    done, _ = served
    before = (done.path / "model_card.json").read_bytes()
    with pytest.raises(UserError, match="never overwritten.*--version 2"):
        export(cnn(seed=1), done.path.parent)
    assert (done.path / "model_card.json").read_bytes() == before


def stop(error):
    if error is not SystemExit:
        raise error("stopped")
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, UserError, OSError])
def test_nothing_is_left_behind(error, tmp_path):
    def say(line):
        if line.startswith("Checking"):
            assert (next(tmp_path.glob("new/place/.1-*")) / "saved_model.pb").exists()
            stop(error)

    with pytest.raises(UserError if error is OSError else error):
        export(cnn(), tmp_path / "new" / "place", monitor=False, say=say)
    assert not list(tmp_path.iterdir()) and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.skipif(sys.platform != "linux", reason="no limits of a process's files")
def test_a_full_disk_is_explained(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def say(line):
        if line.startswith("Writing"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))

    try:
        with pytest.raises(UserError, match="the system refused: .*Nothing was exported. Free space"):
            export(cnn(), tmp_path / "new", monitor=False, say=say)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_another_process_was_quicker(tmp_path):
    path = destination.check(tmp_path, 1)
    with pytest.raises(UserError, match="never overwritten"), destination.written(path) as folder:
        (folder / "mine").touch()
        path.mkdir()
        (path / "theirs").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["1", "theirs"]


def test_the_command_line_explains(run, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run.path, unfinished)
    (unfinished / "summary.json").unlink()
    for arguments, said in {
        (str(unfinished), "dest"): "run --resume",
        ("nowhere", "dest"): "no such directory",
        ("nowhere.keras", "dest"): "no such file",
        (str(run.path), str(file)): "a file",
        (str(run.path), str(file / "deeper")): "a file",
        (str(run.path), "dest", "--version", "0"): "from 1",
        (str(run.path), "dest", "--format", "caffe"): "savedmodel, onnx, litert",
        (str(run.path), "dest", "--classes", "a,b"): "a run has its own data and names. Received: classes",
    }.items():
        assert main(["export", *arguments]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--tolerance", "nan"), ("--tolerance", "1"), ("--gate-tolerance", "-1"), ("--classes", "cat,,cat")],
)
def test_options_that_mean_nothing_are_refused(option, value, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", "run", "dest", option, value])
    assert f"argument {option}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"inputs": IMAGES[..., :1]}, r"of shape \(examples, 12, 10, 3\). Received: \(40, 12, 10, 1\)"),
        ({"inputs": IMAGES.astype("float32")[:, 1:]}, r"Received: \(40, 11, 10, 3\)"),
        ({"inputs": np.float32(3)}, r"Received: \(\)"),
        ({"labels": LABELS[1:]}, "one for each of the 40 examples. Received: int64 of shape \\(39,\\)"),
        ({"labels": np.int64(1)}, r"Received: int64 of shape \(\)"),
        ({"labels": LABELS + 1}, "from 0 to 2.*Received: .*from 1 to 3"),
        ({"labels": LABELS / 2}, "class numbers from 0 to 2"),
        ({"labels": np.eye(3, dtype=int)[LABELS]}, "such as one-hot rows have"),
        ({"labels": np.array(["cat"] * 40)}, "labels"),
    ],
)
def test_examples_that_do_not_fit_are_refused(given, said, tmp_path):
    with pytest.raises(UserError, match=said):
        export(cnn(), tmp_path / "new", **given)
    assert not list(tmp_path.iterdir())


def test_a_normalizer_behind_the_last_kernel_is_folded_and_exports(tmp_path):
    inputs = keras.Input((5,), name="x")
    end = nrm_keras.layers.BatchNormalization()(keras.layers.Dense(3, use_bias=False, name="dense")(inputs))
    values = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
    done = export(keras.Model(inputs, end), tmp_path, inputs=values, monitor=False)
    assert [step["what"] for step in done.card["specialization"]] == ["folded into 'dense'"]
    found = tf.saved_model.load(done.path).signatures["features"](inputs=tf.constant(values))["features"]
    np.testing.assert_array_equal(found, values)


def test_probabilities_are_known_by_their_values(tmp_path):
    """A float32 tail behind the softmax, as mixed precision is often written: softmax would be applied twice."""
    model = cnn(end="softmax")
    model = keras.Model(model.input, keras.layers.Activation("linear", dtype="float32")(model.output), name="tail")
    done = export(model, tmp_path, monitor=False)
    scores = tf.saved_model.load(done.path).signatures["serving_default"](image=tf.constant(IMAGES))["scores"]
    np.testing.assert_allclose(scores, model.predict(IMAGES.astype("float32"), verbose=0), atol=1e-5)


def test_an_answer_that_depends_on_the_batch_is_not_exported(tmp_path):
    inputs = keras.Input((5,), name="x")
    out = keras.layers.Dense(3)(inputs)
    model = keras.Model(inputs, out + 1e-4 * keras.ops.mean(out, axis=0, keepdims=True))
    values = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
    with pytest.raises(UserError, match="the same alone and in any batch, within 1e-05.*Received: values that differ"):
        given = {"inputs": values, "labels": None, "classes": None, "specialized": False}
        export(model, tmp_path / "new", **given, monitor=False, tolerance=0.01)
    assert not list(tmp_path.iterdir())


def test_examples_are_taken_from_all_of_a_sorted_file():
    labels = np.repeat(np.arange(3), 1000)
    many = own_model.of_model(cnn(), "many", np.resize(IMAGES, (3000, 12, 10, 3)), labels=labels, classes=CLASSES)
    assert many.count == 1000 and np.bincount(many.labels).min() >= 333
    assert sum(len(batch) for batch in many.reference) == 3000


def test_answers_that_are_not_finite_are_not_exported(tmp_path):
    model = cnn()
    model.layers[-1].bias.assign([np.nan, 0, 0])
    with pytest.raises(UserError, match="finite numbers. Received: logits with NaN or infinity for 40 of 40"):
        export(model, tmp_path / "new", monitor=False, specialized=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_exports_with_its_monitor(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    try:
        model = cnn()
    finally:
        keras.config.set_dtype_policy("float32")
    done = export(model, tmp_path)
    assert done.card["signatures"] == ["serving_default", "features", "monitor"]
    assert done.card["check"]["tolerances"]["features"] > 1e-4
    assert not os.path.exists("dest")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc refuses even root")
def test_where_nobody_may_write(run):
    with pytest.raises(UserError, match="the system refused|not writable"):
        nrm_keras.export(run.path, "/proc/served", say=lambda line: None)


def test_a_run_directory_runs_no_code(run, tmp_path, capsys, monkeypatch):
    """Neither the modules that its recipe lists, nor what its model file holds."""
    hostile = tmp_path / "run"
    shutil.copytree(run.path, hostile)
    recipe = (hostile / "recipe.yaml").read_text()
    (hostile / "recipe.yaml").write_text(recipe.replace("imports: []", "imports: [hostile]"))
    (tmp_path / "hostile.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["export", str(hostile), str(tmp_path / "served")]) == 2
    assert "--allow-imports" in capsys.readouterr().err

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs))
    model.save(tmp_path / "lambda.keras")
    keras.config.enable_unsafe_deserialization()  # as other code of the process may have done
    try:
        with pytest.raises(UserError, match="a .keras file was expected"):
            nrm_keras.export(tmp_path / "lambda.keras", tmp_path / "served", inputs=np.ones((8, 4)), say=print)
    finally:
        keras_state.set_global_attribute("safe_mode_saving", None)
    assert not (tmp_path / "served").exists()


def test_keras_file_on_the_command_line(tmp_path, capsys):
    cnn(end="softmax").save(tmp_path / "mine.keras")
    np.savez(tmp_path / "examples.npz", x=IMAGES, y=LABELS)
    words = ["export", tmp_path / "mine.keras", tmp_path / "served", "--inputs", tmp_path / "examples.npz"]
    assert main([*map(str, words), "--classes", "a,b,c", "--no-monitor", "--no-specialize", "--version", "3"]) == 0
    assert "Exported: " in capsys.readouterr().out
    scores = tf.saved_model.load(tmp_path / "served" / "3").signatures["serving_default"](image=tf.constant(IMAGES))
    expected = cnn(end="softmax").predict(IMAGES.astype("float32"), verbose=0)
    np.testing.assert_allclose(scores["scores"], expected, atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_other_runtimes(format, tmp_path):
    for module in ("tf2onnx", "onnxruntime") if format == "onnx" else ("ai_edge_litert",):
        pytest.importorskip(module)
    done = export(cnn(), tmp_path / format, format=format)
    expected = softmax(cnn().predict(IMAGES[:5].astype("float32"), verbose=0), -1)
    file = done.path / done.card["file"]
    assert sorted(path.name for path in done.path.iterdir()) == sorted(["README.md", "model_card.json", file.name])
    if format == "onnx":
        import onnxruntime

        (scores,) = onnxruntime.InferenceSession(file).run(["scores"], {"image": IMAGES[:5]})
    else:
        from ai_edge_litert.interpreter import Interpreter

        scores = Interpreter(str(file)).get_signature_runner()(image=IMAGES[:5])["scores"]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_other_runtimes_refuse(tmp_path):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    text = keras.Input((), dtype="string")
    words = keras.layers.TextVectorization(10, output_sequence_length=4, vocabulary=["a", "b"])(text)
    model = keras.Model(text, keras.layers.Dense(2)(keras.layers.Embedding(10, 3)(words)[:, 0]))
    with pytest.raises(UserError, match="onnx takes numbers"):
        export(model, tmp_path / "served", format="onnx", inputs=["a b", "b"], labels=None, classes=["x", "y"])
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = cnn()
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(UserError, match="Received: a model that computes in bfloat16"):
        export(model, tmp_path / "served", format="onnx")
    assert not list(tmp_path.iterdir())


def test_models_that_cannot_be_exported(tmp_path):
    inputs = keras.Input((4,))
    two = keras.Model(inputs, [inputs, inputs])
    with pytest.raises(UserError, match="has one output"):
        nrm_keras.export(two, tmp_path, inputs=np.ones((8, 4)), targets=["a"])
    with pytest.raises(UserError, match="Received: none. Give inputs"):
        nrm_keras.export(cnn(), tmp_path)
    with pytest.raises(UserError, match="one name for each"):
        export(cnn(), tmp_path, classes=["a", "b"])
    with pytest.raises(UserError, match="Received: Wrapped"):

        class Wrapped(keras.Model):
            pass

        nrm_keras.export(Wrapped(), tmp_path, inputs=IMAGES)


def test_features_are_what_the_last_layer_takes():
    """Also where that layer is in a model inside of the model, or predictions are brought back to their units behind it."""
    x = inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, activation="relu", name="hidden")
    x = keras.layers.Dense(2)(hidden(x))
    inner = keras.Model(inputs, keras.layers.Normalization(mean=[1.0, 2.0], variance=[3.0, 4.0], invert=True)(x))
    outer = keras.Input((5,))
    whole = keras.Model(outer, keras.layers.Activation("linear")(inner(outer * 2.0)))
    values = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
    kernel, bias = (np.asarray(weight) for weight in hidden.get_weights())
    np.testing.assert_allclose(heads.features(whole)(values), np.maximum(2 * values @ kernel + bias, 0), rtol=1e-5)


def test_signature_of_named_inputs():
    a, b = keras.Input((3,), name="a"), keras.Input((), dtype="int32", name="b")
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(a) + keras.ops.cast(b, "float32")[:, None])
    interface = Interface.of(model, "regression", ["sum"], image=False)
    assert [(spec.name, spec.dtype.name) for spec in interface.signature] == [("a", "float32"), ("b", "int32")]
    answer = saved_model.functions(model, interface)["serving_default"](np.ones((2, 3), "float32"), np.array([1, 2]))
    assert answer["values"].shape == (2, 1)
