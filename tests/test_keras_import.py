"""Keras knows the layers once both are imported, in whichever order; alone, the package imports neither it nor TensorFlow.

Every case is a process of its own.
"""

import re

import pytest

from tests import programs

REGISTERED = "keras.saving.get_registered_object('nrm_keras>AdaptiveNormalization')"

SAVE = """
import sys
import keras, numpy as np
from nrm_keras import layers
from nrm_keras.training.optimizers import WarmUp, _Constant
keras.utils.set_random_seed(0)
folder = sys.argv[1]
x = np.random.default_rng(0).normal(size=(8, 4, 4, 6)).astype("float32")
model = keras.Sequential([
    keras.Input((4, 4, 6)),
    layers.BatchNormalization(), keras.layers.Conv2D(6, 3), layers.AdaptiveNormalization(),
    layers.GroupNormalization(groups=2), keras.layers.Flatten(), keras.layers.Dense(3),
])
model.compile(keras.optimizers.SGD(WarmUp(_Constant(0.1), 0.1, 3)), "mse")
model.fit(x, np.zeros((8, 3)), verbose=0)
model.save(f"{folder}/model.keras")
np.savez(f"{folder}/expected.npz", x=x, y=model.predict(x, verbose=0))
"""

LOAD = """
import sys
import numpy as np
{imports}
folder = sys.argv[1]
model = keras.models.load_model(f"{{folder}}/model.keras")
saved = np.load(f"{{folder}}/expected.npz")
np.testing.assert_array_equal(model.predict(saved["x"], verbose=0), saved["y"])
assert type(model.optimizer._learning_rate).__name__ == "WarmUp"
from keras import saving
again = saving.deserialize_keras_object(saving.serialize_keras_object(model.layers[0]))
assert type(again) is type(model.layers[0]) and type(again).__module__ == "nrm_keras.layers.batch"
"""


def run(code, *arguments):
    return programs.python("-c", code, *map(str, arguments))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    run(SAVE, folder)
    return folder


@pytest.mark.parametrize(
    "imports",
    [
        "import nrm_keras; import keras",
        "import keras; import nrm_keras",
        "import tensorflow; import nrm_keras; from tensorflow import keras",
        "import nrm_keras; import tensorflow as tf; keras = tf.keras",
    ],
)
def test_a_fresh_process_loads_a_model_with_either_order_of_imports(imports, saved):
    run(LOAD.format(imports=imports), saved)


SAVE_MODELS = """
import sys
import keras, numpy as np
from nrm_keras import layers, models
from nrm_keras.training.tasks import TASKS
norm = lambda name: layers.LayerNormalization(name=name)
image, words = keras.Input((9, 10, 1)), keras.Input((6,), dtype="int32")
text = dict(vocabulary=20, length=6, width=4)
made = {
    "unet": (image, models.unet(image, norm, width=4, depth=1), "segmentation"),
    "gru": (words, models.gru(words, norm, bidirectional=True, **text), "classification"),
    "transformer": (words, models.transformer(words, norm, depth=1, heads=2, hidden=4, **text), "classification"),
}
for name, (inputs, features, task) in made.items():
    model = keras.Model(inputs, keras.layers.Dense(2)(features))
    model.compile("sgd", TASKS[task].loss(), metrics=[metric(2) for key, metric in TASKS[task].metrics.items() if key != "top_5_accuracy"])
    x = np.arange(2 * np.prod(inputs.shape[1:])).reshape(2, *inputs.shape[1:]) % 20
    y = np.resize([0, 1], (2, *model.output_shape[1:-1]))
    model.train_on_batch(x, y)
    model.save(f"{sys.argv[1]}/{name}.keras")
    np.savez(f"{sys.argv[1]}/{name}.npz", x=x, y=model.predict(x, verbose=0))
"""
LOAD_MODELS = """
import sys, warnings
import numpy as np
warnings.simplefilter("error", RuntimeWarning)
{imports}
import keras
for name in ("unet", "gru", "transformer"):
    model = keras.saving.load_model(f"{{sys.argv[1]}}/{{name}}.keras")
    saved = np.load(f"{{sys.argv[1]}}/{{name}}.npz")
    np.testing.assert_array_equal(model.predict(saved["x"], verbose=0), saved["y"])
"""


@pytest.fixture(scope="module")
def saved_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    run(SAVE_MODELS, folder)
    return folder


@pytest.mark.parametrize("imports", ["import nrm_keras", "from nrm_keras import layers", "from nrm_keras import load"])
def test_a_fresh_process_loads_the_models_of_recipes(imports, saved_models):
    """Only layers and schedules were registered: evaluate and predict could load no U-Net and no model of text."""
    run(LOAD_MODELS.format(imports=imports), saved_models)


def test_without_the_package_keras_does_not_load_the_model(saved):
    """Or the test above would show nothing."""
    with pytest.raises(AssertionError, match="Could not locate class"):
        run(LOAD.format(imports="import keras"), saved)


def test_alone_it_imports_neither_keras_nor_tensorflow():
    run("import sys, nrm_keras; assert not {'keras', 'tensorflow', 'numpy', 'nrm_keras.layers'} & set(sys.modules)")


BEHIND = {
    "a part of Keras": "import nrm_keras; from keras.src.saving import saving_lib; import keras",
    "the layers first": "from nrm_keras import layers; import keras",
    "a reload": "import nrm_keras, importlib; importlib.reload(nrm_keras); import keras; importlib.reload(nrm_keras)",
    "looked for": "import nrm_keras, importlib.util as u; assert u.find_spec('keras').loader.get_filename(); import keras",
}


@pytest.mark.parametrize("imports", BEHIND)
def test_registered_behind(imports):
    run(f"{BEHIND[imports]}; assert {REGISTERED}")


def test_keras_and_its_import_are_left_as_they_were():
    """Its loader and specification are those it has without this package; a reload works."""
    show = "print(type(keras.__loader__), keras.__spec__, keras.__loader__ is keras.__spec__.loader)"
    plain, watched = (run(f"{imports}; {show}") for imports in ("import keras", "import nrm_keras, keras"))

    def without_addresses(text):
        return [word for word in text.split() if not word.startswith("0x")]

    assert without_addresses(plain) == without_addresses(watched)
    run(f"import nrm_keras, keras, importlib; importlib.reload(keras); assert {REGISTERED}")


def test_an_import_of_keras_that_fails_fails_as_without_us_and_may_be_tried_again(tmp_path):
    stub = tmp_path / "keras"
    stub.mkdir()
    (stub / "__init__.py").write_text("raise ImportError('no backend')")
    code = f"""
import sys
import nrm_keras
sys.path.insert(0, sys.argv[1])
for _ in range(2):
    try:
        import keras
    except ImportError as error:
        assert str(error) == "no backend"
    else:
        raise AssertionError("keras was imported")
    assert "keras" not in sys.modules and "nrm_keras.layers" not in sys.modules
sys.path.remove(sys.argv[1])
import importlib
importlib.invalidate_caches()
import keras
assert {REGISTERED}
"""
    run(code, tmp_path)


def test_no_keras_is_said_by_python():
    code = """
import sys, importlib.util, nrm_keras
sys.path = []
assert importlib.util.find_spec("keras") is None
try:
    import keras
except ModuleNotFoundError as error:
    assert error.name == "keras"
else:
    raise AssertionError("keras was imported")
"""
    run(code)


def test_imported_by_keras_own_import_it_registers_at_the_next_import_behind_it():
    """As a plug-in that a backend starts would do."""
    code = f"""
import sys

class PlugIn:
    def find_spec(self, name, path=None, target=None):
        if name == "keras.src.saving" and "nrm_keras" not in sys.modules:
            import nrm_keras
            assert "nrm_keras.layers" not in sys.modules

sys.meta_path.insert(0, PlugIn())
import keras
assert "nrm_keras" in sys.modules
import this
assert {REGISTERED}
"""
    run(code)


def test_a_failure_to_register_warns_and_leaves_keras_usable():
    code = """
import sys, warnings
import nrm_keras
sys.modules["nrm_keras.layers"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import keras
(warning,) = [w for w in caught if "nrm_keras" in str(w.message)]
assert "could not register its layers with Keras" in str(warning.message) and warning.category is RuntimeWarning
assert keras.ops
"""
    run(code)


def test_threads_that_import_both_at_once():
    """Without parts of Keras: those, imported while another thread imports Keras, fail without this package too."""
    code = f"""
import importlib, threading
names = ["keras", "nrm_keras", "nrm_keras.layers"] * 2
errors, barrier = [], threading.Barrier(len(names))

def load(name):
    barrier.wait()
    try:
        importlib.import_module(name)
    except BaseException as error:
        errors.append(f"{{name}}: {{error!r}}")

threads = [threading.Thread(target=load, args=(name,), daemon=True) for name in names]
[t.start() for t in threads]
[t.join(60) for t in threads]
assert not any(t.is_alive() for t in threads), "deadlock"
assert not errors, errors
import keras
assert {REGISTERED}
"""
    run(code)


def test_a_pickled_model_finds_its_layers(tmp_path):
    """Unpickling imports Keras by itself."""
    code = """
import pickle, sys, keras, nrm_keras
model = keras.Sequential([keras.Input((4,)), nrm_keras.layers.GroupNormalization(groups=2)])
pickle.dump(model, open(sys.argv[1], "wb"))
"""
    path = tmp_path / "model.pickle"
    run(code, path)
    load = "import pickle, sys; assert pickle.load(open(sys.argv[1], 'rb')).layers[0].groups == 2"
    run(f"import nrm_keras; {load}", path)
    with pytest.raises(AssertionError, match="Could not locate class"):
        run(load, path)


def test_every_class_that_a_saved_model_may_hold_is_registered():
    pattern = re.compile(
        r"^@keras.saving.register_keras_serializable\(package=\"nrm_keras\"\)\nclass (\w+)", re.MULTILINE
    )
    sources = (programs.ROOT / "nrm_keras").rglob("*.py")
    names = [name for source in sources for name in pattern.findall(source.read_text())]
    assert {"Dice", "DomainBatchNormalization", "WarmUp"} <= set(names)
    code = "import sys, nrm_keras, keras; from keras.saving import get_registered_object as get"
    run(f"{code}; assert all(get(f'nrm_keras>{{name}}') for name in sys.argv[1:])", *names)


def test_the_command_line_starts():
    done = programs.python("-m", "nrm_keras", "--help")
    assert "run" in done
