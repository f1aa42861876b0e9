"""README's code of "Use the layers in your own model" does what it says."""

import textwrap

import numpy as np
import pytest

from tests import programs

POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")
SECTION = "## Use the layers in your own model"

TRAIN = """
import sys
import numpy as np
import keras
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
images, labels = rng.normal(size=(16, 8, 8, 3)).astype("float32"), rng.integers(0, 10, 16)
exec(compile(open("use.py").read(), "use.py", "exec"))
assert keras.config.dtype_policy().name == sys.argv[1]
share = float(keras.ops.convert_to_numpy(model.layers[1].share))
assert share != 0, "it was trained"
np.savez("expected.npz", images=images, y=model.predict(images, verbose=0))
"""

LOAD = """
import numpy as np
import keras, mine
model = keras.models.load_model("model.keras")
saved = np.load("expected.npz")
np.testing.assert_array_equal(model.predict(saved["images"], verbose=0), saved["y"])
norm = model.layers[1]
assert type(norm) is mine.SharedNormalization and norm.share.dtype == norm.gamma.dtype == "float32"
x = saved["images"]
y = keras.ops.convert_to_numpy(keras.ops.cast(norm(model.layers[0](x)), "float32"))
np.savez("norm.npz", x=keras.ops.convert_to_numpy(keras.ops.cast(model.layers[0](x), "float32")), y=y,
         share=norm.share, gamma=norm.gamma, beta=norm.beta)
"""


def code_blocks():
    """The indented blocks of the section, in order."""
    section = (programs.ROOT / "README.md").read_text().split(SECTION)[1].split("\n## ")[0]
    blocks, block = [], []
    for line in [*section.splitlines(), "end"]:
        if line.startswith("    ") or (block and not line):
            block.append(line)
        elif block:
            blocks.append(textwrap.dedent("\n".join(block)).strip() + "\n")
            block = []
    return blocks


@pytest.mark.parametrize("policy", POLICIES)
def test_own_normalizer_trains_saves_and_loads_in_a_fresh_process(policy, tmp_path):
    _, mine, use = code_blocks()
    assert use.count('"mixed_float16"') == 1
    (tmp_path / "mine.py").write_text(mine)
    (tmp_path / "use.py").write_text(use.replace('"mixed_float16"', f'"{policy}"'))
    programs.python("-c", TRAIN, policy, folder=tmp_path)
    programs.python("-c", LOAD, folder=tmp_path)
    saved = np.load(tmp_path / "norm.npz")
    x, own = saved["x"].astype("float64"), 1 / (1 + np.exp(-saved["share"].astype("float64")))
    mean = own * x.mean((1, 2), keepdims=True) + (1 - own) * x.mean((1, 2, 3), keepdims=True)
    variance = own * x.var((1, 2), keepdims=True) + (1 - own) * x.var((1, 2, 3), keepdims=True)
    expected = saved["gamma"] * (x - mean) / np.sqrt(variance + 1e-3) + saved["beta"]
    rounding = {"float32": 2e-6, "mixed_float16": 2**-10, "mixed_bfloat16": 2**-7}[policy]
    np.testing.assert_allclose(saved["y"], expected, rtol=rounding, atol=rounding)


def test_own_normalizer_is_short():
    _, mine, _ = code_blocks()
    assert len([line for line in mine.splitlines() if line.strip()]) <= 16


def test_the_package_s_layers_are_called_as_shown():
    calls, _, _ = code_blocks()
    import keras

    names = {"x": keras.Input((4, 4, 8)), "site": keras.Input((), dtype="int32")}
    exec(calls, names)  # noqa: S102  it is README's
    assert names["x"].shape == (None, 4, 4, 8)
