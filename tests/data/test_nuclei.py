import numpy as np
import pytest

from nrm_keras.data import nuclei, sources
from nrm_keras.data.examples import Split
from nrm_keras.errors import UserError
from nrm_keras.recipe.sections import data as data_sections

needs_table = pytest.mark.skipif(
    not nuclei.Nuclei.package.installed_root(), reason=f"needs the {nuclei.Nuclei.package} installed"
)

# lines of NUBASE2020: fixed columns, # for what is extrapolated, an excited state of 6Li
TABLE = """\
# Nubase2020
#       1: 3   AAA           a3       Mass Number (AAA)
001 0000   1n       8071.3181     0.0004                              609.8    s 0.6    1/2+*         06          1932 B-=100
001 0010   1H       7288.971064   0.000013                            stbl              1/2+*         06          1920 IS=99.9855 78
002 0010   2H      13135.722895   0.000015                            stbl              1+*           03          1932 IS=0.0145 78
003 0030   3Li     28670#      2000#                                  p-unst            3/2-#         98               p ?
004 0020   4He      2424.91587    0.00015                             stbl              0+            98          1908 IS=99.9998 2
006 0030   6Li     14086.8804     0.0014                              stbl              1+*           02          1921 IS=4.85 171
006 0038   6Li  i  17649.76       0.10     3562.88       0.10          56     as 14     0+      T=1   02          1981 IT=100
"""


def options(**given):
    return data_sections.Nuclei(source="nuclei", **given)


def read(tmp_path, text):
    path = tmp_path / "table.txt"
    path.write_text(text, "utf-8")
    return nuclei.read_table(path)


def rows(split):
    return {row.tobytes() for row in split.inputs}


def test_table_in_fixed_columns(tmp_path):
    table = read(tmp_path, TABLE)
    assert table.protons.tolist() == [0, 1, 1, 3, 2, 3] and table.neutrons.tolist() == [1, 0, 1, 0, 2, 3]
    assert table.measured.tolist() == [True, True, True, False, True, True]
    # textbook: the deuteron is bound by 2.2246 MeV, helium-4 by 28.2957, lithium-6 by 31.994
    assert table.energy[[2, 4, 5]] * [2, 4, 6] == pytest.approx([2.2246, 28.2957, 31.994], abs=5e-4)
    assert table.energy[:2] == pytest.approx([0, 0], abs=1e-9)
    assert table.uncertainty[3] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "line,message",
    [
        ("004 0020   4He      2424.", "line 10"),  # cut off: no uncertainty
        ("004 00", "line 10"),
        ("004 0050   4B       2424.91587    0.00015", "line 10"),  # five protons of four nucleons
        ("<html>not found</html>", "line 10.*<html>"),
        ("004 0020   4He      24x4.91587    0.00015", "line 10"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, TABLE + line + "\n")


def test_a_table_without_nuclei_or_in_another_encoding(tmp_path):
    with pytest.raises(UserError, match="Received: none"):
        read(tmp_path, "# a head alone\n")
    with pytest.raises(UserError, match="plain ASCII"):
        read(tmp_path, TABLE + "ä")


def grid():
    """Made-up nuclei of 4 to 120 nucleons, several of each number."""
    protons, neutrons = (axis.ravel() for axis in np.meshgrid(np.arange(2, 50), np.arange(2, 72)))
    ones = np.ones(len(protons))
    return nuclei.Table(protons, neutrons, 8 * ones, 0 * ones, ones > 0)


def test_features_are_what_their_names_say(tmp_path):
    table = read(tmp_path, TABLE).take([2, 4, 5])  # 2H, 4He, 6Li
    names = ("Z", "N", "odd_Z", "magic_N", "log_N")
    expected = [[1, 1, 1, 1, np.log(2)], [2, 2, 0, 0, np.log(3)], [3, 3, 1, 1, np.log(4)]]
    made = nuclei.features(table, names)
    assert made.dtype == "float32" and made == pytest.approx(np.array(expected))
    assert nuclei.features(grid(), ("magic_Z", "magic_N")).max() <= 16  # halfway between 50 and 82


def split(**given):
    table = grid()
    examples = Split(nuclei.features(table, ("Z", "N")), table.energy[:, None].astype("float32"))
    return nuclei.split(examples, table.protons + table.neutrons, options(**given))


@pytest.mark.parametrize("kind", ["random", "heavy"])
@pytest.mark.parametrize("test", [0.0, 0.1, 0.5])
def test_splits_partition_the_nuclei(kind, test):
    parts = split(split=kind, test=test)
    assert sum(map(len, parts.values())) == len(set.union(*map(rows, parts.values()))) == 48 * 70
    assert len(parts["test"]) == pytest.approx(test * 48 * 70, abs=48) and len(parts["train"]) > 1000


def test_the_heaviest_are_held_out_whole():
    parts = split(split="heavy", test=0.2)
    nucleons = {name: part.inputs.sum(1) for name, part in parts.items()}
    assert nucleons["test"].min() > max(nucleons["train"].max(), nucleons["validation"].max())
    assert len(parts["test"]) <= 0.2 * 48 * 70
    random = {name: part.inputs.sum(1) for name, part in split(split="random", test=0.2).items()}
    assert random["test"].min() < random["train"].max()  # the other split doesn't have the property


def test_mock_nuclei():
    examples = sources.mock(options(features=("Z", "odd_N")), 9)
    assert examples.task == "regression" and examples.targets == (nuclei.TARGET,) and examples.shape == (2,)
    assert examples.train.labels.shape == (9, 1) and examples.train.labels.dtype == "float32"


@needs_table
def test_real_nuclei():
    examples = sources.load(options())
    assert sum(map(len, (examples.train, examples.validation, examples.test))) == 2457
    assert examples.task == "regression" and not any(examples.repeated().values())
    # iron-56, 8.790 MeV; features are Z, N and others
    parts = (examples.train, examples.validation, examples.test)
    everything = [pair for part in parts for pair in zip(part.inputs, part.labels, strict=True)]
    assert [float(y[0]) for x, y in everything if tuple(x[:2]) == (26, 30)] == pytest.approx([8.790], abs=1e-3)
    assert len(sources.load(options(values="all", lightest=0)).train) > len(examples.train)


@needs_table
def test_real_heavy_nuclei_and_what_is_said():
    examples = sources.load(options(split="heavy"))
    heaviest, lightest = examples.train.inputs[:, :2].sum(1).max(), examples.test.inputs[:, :2].sum(1).min()
    assert heaviest < lightest
    said = " ".join(examples.notes)
    assert "100 nuclei with fewer than 8" in said and "extrapolated from trends are left out" in said
    assert "extrapolation" in examples.caveat
