"""Real malicious models, made here: none may be loaded."""

import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from nrm_keras import cli
from nrm_keras.errors import UserError
from nrm_keras.serving.server import served_model, trust
from tests.serving import served

NUMBERS = tf.TensorSpec((None,), tf.float32, name="inputs")


class Model(tf.Module):
    """A model whose signature computes `body(inputs)`; `resource` is tracked beside it."""

    def __init__(self, body, resource=None):
        super().__init__()
        self.scale = tf.Variable(2.0)
        self.body = body
        self.resource = resource

    @tf.function(input_signature=[NUMBERS])
    def serve(self, inputs):
        return {"values": self.scale * self.body(inputs)}


def save(version_dir, body=lambda inputs: inputs, resource=None, card=True):
    model = Model(body, resource)
    tf.saved_model.save(model, str(version_dir), signatures={"serving_default": model.serve})
    if card:
        served.write_card(version_dir)
    return version_dir


def edited(version_dir, edit):
    """The same model with its graph changed, and a card that fits: as someone who forges would leave it."""
    graph = trust.read_graph(version_dir)
    edit(graph.meta_graphs[0])
    (version_dir / trust.GRAPH).write_bytes(graph.SerializeToString())
    served.write_card(version_dir)
    return version_dir


@pytest.fixture(scope="module")
def _harmless(tmp_path_factory):
    return save(tmp_path_factory.mktemp("trust") / "1")


@pytest.fixture
def harmless(_harmless, tmp_path):
    return pathlib.Path(shutil.copytree(_harmless, tmp_path / "1"))


def written(path):
    def body(inputs):
        with tf.control_dependencies([tf.io.write_file(path, "gotcha")]):
            return tf.identity(inputs)

    return body


def in_a_loop(path):
    return lambda inputs: tf.while_loop(lambda i, x: i < 1, lambda i, x: (i + 1, written(path)(x)), (0, inputs))[1]


def lines_of(path):
    def body(inputs):
        count = tf.data.TextLineDataset(path).reduce(np.int64(0), lambda n, _: n + 1)
        return inputs + tf.cast(count, tf.float32)

    return body


def table_of(path):
    initializer = tf.lookup.TextFileInitializer(
        path, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    table = tf.lookup.StaticHashTable(initializer, -1)
    return (lambda inputs: inputs + tf.cast(table.lookup(tf.constant("root")), tf.float32)), table


BODIES = {
    "WriteFile": written,
    "WriteFile in a loop": in_a_loop,
    "ReadFile": lambda path: lambda inputs: inputs + tf.strings.to_number(tf.io.read_file(path)),
    "MatchingFiles": lambda path: lambda inputs: inputs + tf.cast(tf.size(tf.io.matching_files("/*")), tf.float32),
    "EagerPyFunc": lambda path: lambda inputs: tf.py_function(lambda x: x, [inputs], tf.float32),
    "PyFunc": lambda path: lambda inputs: tf.numpy_function(lambda x: x, [inputs], tf.float32),
    "PyFuncStateless": lambda path: lambda inputs: tf.numpy_function(lambda x: x, [inputs], tf.float32, stateful=False),
    "TextLineDataset": lines_of,
    "PrintV2": lambda path: (
        lambda inputs: tf.raw_ops.PrintV2(input="gotcha", output_stream=f"file://{path}") and inputs or inputs
    ),
    "RestoreV2": lambda path: (
        lambda inputs: (
            inputs
            + tf.raw_ops.RestoreV2(prefix=path, tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])[0]
        )
    ),
    "SaveV2": lambda path: (
        lambda inputs: (
            tf.raw_ops.SaveV2(prefix=path, tensor_names=["x"], shape_and_slices=[""], tensors=[inputs])
            and inputs
            or inputs
        )
    ),
    "ImmutableConst": lambda path: (
        lambda inputs: inputs + tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=[1], memory_region_name=path)
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_operations_on_files_and_python_are_found_whoever_made_the_model(tmp_path, name):
    target = tmp_path / "target"
    version = save(tmp_path / "1", BODIES[name](str(target)))
    with pytest.raises(UserError, match=rf"(?s){name.partition(' ')[0]} in function .*--trust"):
        trust.check(version)
    assert not target.exists()


def test_a_table_that_is_read_from_a_file_is_refused(tmp_path):
    (tmp_path / "words").write_text("root\n")
    version = save(tmp_path / "1", *table_of(str(tmp_path / "words")))
    with pytest.raises(UserError, match="InitializeTableFromTextFileV2"):
        trust.check(version)


def test_what_would_run_at_load_is_found_before(tmp_path, capsys):
    """The initializer of a resource runs while TensorFlow loads a model: the check must come first."""

    class Trap(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self):
            return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="trap")

        def _initialize(self):
            tf.io.write_file(str(tmp_path / "target"), "gotcha")

    trap = Trap()
    _ = trap.resource_handle
    save(tmp_path / "zoo" / "1", resource=trap)
    (tmp_path / "target").unlink(missing_ok=True)
    with pytest.raises(UserError, match="WriteFile"):
        trust.check(tmp_path / "zoo" / "1")
    assert cli.main(["serve", str(tmp_path / "zoo"), "--port", "0"]) == 2
    assert "WriteFile" in capsys.readouterr().err and not (tmp_path / "target").exists()
    tf.saved_model.load(str(tmp_path / "zoo" / "1"))
    assert (tmp_path / "target").exists(), "the trap is none: this test proves nothing"


def test_own_models_pass_and_answer(harmless, tmp_path):
    assert trust.objections(harmless) == []
    served.save_network(served.network(), tmp_path / "zoo" / "1")
    assert trust.objections(tmp_path / "zoo" / "1") == []
    loaded = served_model.load(harmless, "x")
    assert loaded.signatures["serving_default"].run({"inputs": np.float32([3])})["values"].tolist() == [6]


def test_models_with_text_recurrence_and_attention_pass(tmp_path):
    import keras

    layers = keras.layers
    text = keras.Input((), dtype="string", name="text")
    words = layers.TextVectorization(max_tokens=50, output_sequence_length=8)
    words.adapt(["a b c d", "b c the"])
    x = layers.Embedding(50, 4, mask_zero=True)(words(text))
    x = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(x, x))
    model = keras.Model(text, layers.Dense(2, "gelu")(layers.GRU(3)(layers.Dropout(0.1)(x))))
    model.export(tmp_path / "1", verbose=False)
    served.write_card(tmp_path / "1")
    assert trust.objections(tmp_path / "1") == []


def test_without_a_digest_or_with_another_it_is_not_ours(harmless, capsys):
    (harmless / "variables" / "variables.data-00000-of-00001").write_bytes(b"other weights")
    with pytest.raises(UserError, match="changed since the export"):
        trust.check(harmless)
    for content in ("{", "[]", "{}", None):
        card = harmless / "model_card.json"
        card.unlink() if content is None else card.write_text(content)
        with pytest.raises(UserError, match="no export of nrm_keras"):
            trust.check(harmless)
    trust.check(harmless, trust=True)
    assert "because of --trust" in capsys.readouterr().err


def test_links_and_assets_that_leave_the_folder(harmless, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    (harmless / "assets" / "words.txt").symlink_to(secret)
    with pytest.raises(UserError, match="no links"):
        trust.check(harmless)
    os.remove(harmless / "assets" / "words.txt")
    for name in ("../../secret", str(secret), "a/../../b"):
        version = edited(harmless, lambda graph, name=name: graph.asset_file_def.add(filename=name))
        with pytest.raises(UserError, match="outside its folder"):
            trust.check(version)


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "saved_model.cpb"])
def test_a_second_graph_which_a_loader_might_prefer(harmless, name):
    (harmless / name).write_bytes(b"")
    served.write_card(harmless)
    with pytest.raises(UserError, match="second graph"):
        trust.check(harmless)


def saver(graph):
    """The name of the function that writes the variables to the file it is given."""
    node = next(node for node in graph.graph_def.node if f"{node.name}:0" == graph.saver_def.save_tensor_name)
    return node.attr["f"].func.name


def call_saver(graph):
    function = next(f for f in graph.graph_def.library.function if "signature_wrapper" in f.signature.name)
    call = next(node for node in function.node_def if "f" in node.attr)
    call.attr["f"].func.name = saver(graph)


def nest_saver(graph):
    function = next(f for f in graph.graph_def.library.function if "signature_wrapper" in f.signature.name)
    call = next(node for node in function.node_def if "f" in node.attr)
    call.attr["branches"].list.func.add(name="harmless").attr["inner"].func.name = saver(graph)


def give_saver_to_an_object(graph):
    graph.object_graph_def.concrete_functions[saver(graph)].bound_inputs.extend([])


def name_saver_in_an_object(graph):
    graph.object_graph_def.nodes.add().bare_concrete_function.concrete_function_name = saver(graph)


def put_another_operation_there(graph):
    name = graph.saver_def.save_tensor_name.partition(":")[0]
    next(node for node in graph.graph_def.node if node.name == name).op = "WriteFile"


def give_the_saver_a_second_function(graph):
    name = graph.saver_def.save_tensor_name.partition(":")[0]
    node = next(node for node in graph.graph_def.node if node.name == name)
    node.attr["g"].func.name = "another"


def answer_by_saver(graph):
    graph.signature_def["serving_default"].outputs["values"].name = graph.saver_def.save_tensor_name


def depend_on_saver(graph):
    graph.graph_def.node.add(name="more", op="NoOp", input=["^" + graph.saver_def.restore_op_name])


def swap_in_saver(graph):
    function = next(f for f in graph.graph_def.library.function if f.signature.name == saver(graph))
    function.attr["api_implements"].s = b"serve"


def call_by_name(graph):
    graph.graph_def.node.add(name="more", op=saver(graph))


def unknown_operation(graph):
    graph.graph_def.node.add(name="more", op="MyOwnOp")


def two_graphs(graph):
    graph.ClearField("object_graph_def")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (call_saver, "which saves, in function"),
        (nest_saver, "which saves, in function"),
        (give_saver_to_an_object, "object's function"),
        (name_saver_in_an_object, "object's function"),
        (put_another_operation_there, "WriteFile in the place of the saver"),
        (give_the_saver_a_second_function, "in the place of the saver"),
        (answer_by_saver, "signature serving_default runs the saver"),
        (depend_on_saver, "more runs the saver"),
        (swap_in_saver, "stands for something else"),
        (call_by_name, "in the graph"),
        (unknown_operation, "MyOwnOp in the graph"),
        (two_graphs, "as TensorFlow 2 saves it"),
    ],
)
def test_nothing_else_leads_to_the_saver(harmless, edit, words):
    with pytest.raises(UserError, match=words):
        trust.check(edited(harmless, edit))


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, None])
def test_what_is_no_saved_model(harmless, content):
    (harmless / trust.GRAPH).unlink() if content is None else (harmless / trust.GRAPH).write_bytes(content)
    with pytest.raises(UserError, match=r"Received|as TensorFlow 2 saves it"):
        trust.check(harmless)


def test_the_command_names_what_it_found_and_trust_lets_it_pass(tmp_path, harmless):
    folder = tmp_path / "zoo"
    save(folder / "1", written(str(tmp_path / "target")))
    with served.serving(folder, "--trust") as server:
        assert any("WriteFile" in line for line in server.errors)
        assert server.predict(instances=[1.5])["predictions"] == [3.0]
        assert (tmp_path / "target").read_text() == "gotcha"
        assert server.stop() == 0


def test_what_is_loaded_is_what_was_checked(harmless):
    with trust.checked(harmless) as folder:
        assert not folder.parent.stat().st_mode & 0o077
        (harmless / trust.GRAPH).write_bytes(b"another graph")
        assert served_model.load(folder, "safe").signatures["serving_default"].run({"inputs": np.ones(1, "float32")})
    assert not folder.exists()


def test_a_model_that_changes_while_it_is_copied_is_refused(harmless, monkeypatch):
    copytree = shutil.copytree

    def changed(source, *arguments, **options):
        (harmless / "variables" / "more").touch()
        return copytree(source, *arguments, **options)

    monkeypatch.setattr(shutil, "copytree", changed)
    with pytest.raises(UserError, match="stays as it is.*have changed since the export"), trust.checked(harmless):
        raise AssertionError("was loaded")
