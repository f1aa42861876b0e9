import gzip
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from nrm_keras.data import sources, tfds
from nrm_keras.errors import UserError
from nrm_keras.recipe import schema


def rows(split):
    return {row.tobytes() for row in split.inputs}


def test_digits_splits_are_disjoint_stratified_and_fixed():
    examples = sources.load(schema.Digits())
    splits = (examples.train, examples.validation, examples.test)
    assert [len(split) for split in splits] == [1258, 180, 359]
    assert sum(len(rows(split)) for split in splits) == len(set.union(*map(rows, splits)))
    assert np.bincount(examples.test.labels).min() >= 34
    assert examples.fingerprint() == sources.load(schema.Digits()).fingerprint()
    assert examples.fingerprint() != sources.load(schema.Digits(split_seed=1)).fingerprint()
    # the test split doesn't move when the validation share does
    assert rows(sources.load(schema.Digits(validation=0.3)).test) == rows(examples.test)


def test_limit_keeps_every_class():
    examples = sources.load(schema.Digits(limit=100))
    assert len(examples.train) == 100 and len(np.unique(examples.train.labels)) == 10
    assert len(examples.test) == 359


def test_npz_with_own_splits_and_to_be_split(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(60, 5)).astype("float32"), np.arange(60) % 3
    np.savez(
        tmp_path / "own.npz",
        x_train=x[:40],
        y_train=y[:40],
        x_val=x[40:50],
        y_val=y[40:50],
        x_test=x[50:],
        y_test=y[50:],
    )
    own = sources.load(schema.Npz(source="npz", path=str(tmp_path / "own.npz")))
    assert (own.test.inputs == x[50:]).all() and (own.validation.labels == y[40:50]).all()
    np.savez(tmp_path / "one.npz", x=x, y=y, classes=["a", "b", "c"])
    one = sources.load(schema.Npz(source="npz", path=str(tmp_path / "one.npz"), validation=0.2, test=0.1))
    assert [len(one.train), len(one.validation), len(one.test)] == [42, 12, 6]
    assert len(set.union(*map(rows, (one.train, one.validation, one.test)))) == 60
    assert one.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "arrays,message",
    [
        ({"z": np.zeros(3)}, "x_train and y_train"),
        ({"x": np.zeros((3, 2))}, "no y"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4, int)}, r"y int64 \(4,\)"),
        ({"x": np.full((3, 2), np.nan), "y": np.zeros(3, int)}, "6 NaN"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, -1, 1])}, "-1 to 1"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 2]), "classes": ["a", "b"]}, "0 to 1"),
        ({"x": np.zeros((3, 2)), "y": np.array([0.5, 1, 2])}, "float64"),
    ],
)
def test_npz_mistakes_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=message):
        sources.load(schema.Npz(source="npz", path=str(tmp_path / "bad.npz")))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_npz_that_is_none(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(UserError, match="np.savez"):
        sources.load(schema.Npz(source="npz", path=str(tmp_path / "bad.npz")))


def test_npz_executes_no_pickle(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/exploded",)

    np.savez(tmp_path / "bomb.npz", x=np.array([Bomb()], dtype=object), y=np.array([0]))
    with pytest.raises(UserError):
        sources.load(schema.Npz(source="npz", path=str(tmp_path / "bomb.npz")))
    assert not (tmp_path / "exploded").exists()


def paint(folder, count, colour, size=(9, 7)):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (colour, number, 0)).save(folder / f"{number}.png")


def test_folder_of_classes_is_split_and_decoded(tmp_path):
    paint(tmp_path / "cat", 10, 200)
    paint(tmp_path / "dog", 10, 20)
    examples = sources.load(schema.Folder(source="folder", path=str(tmp_path), image_size=(8, 6)))
    assert examples.classes == ("cat", "dog") and examples.shape == (8, 6, 3)
    paths = np.concatenate([examples.train.inputs, examples.validation.inputs, examples.test.inputs])
    assert len(set(paths)) == len(paths) == 20
    path, label = examples.train.inputs[0], examples.train.labels[0]
    image = examples.decode(path).numpy()
    assert image.shape == (8, 6, 3) and abs(image[..., 0].mean() - (200, 20)[label]) < 1


def test_folder_with_own_splits(tmp_path):
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        paint(tmp_path / part / "a", count, 1)
        paint(tmp_path / part / "b", count, 2)
    examples = sources.load(schema.Folder(source="folder", path=str(tmp_path)))
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [12, 4, 6]
    assert all("/test/" in path for path in examples.test.inputs)


def test_folder_names_a_broken_image_and_missing_classes(tmp_path):
    paint(tmp_path / "a", 2, 1)
    with pytest.raises(UserError, match="two at least"):
        sources.load(schema.Folder(source="folder", path=str(tmp_path)))
    paint(tmp_path / "b", 2, 1)
    (tmp_path / "b" / "torn.png").write_bytes((tmp_path / "b" / "0.png").read_bytes()[:40])
    with pytest.raises(UserError, match="torn.png"):
        sources.load(schema.Folder(source="folder", path=str(tmp_path)))


@pytest.mark.skipif(not tfds.FashionMnist._package_splits(), reason="needs the Debian package dataset-fashion-mnist")
def test_fashion_mnist_from_the_debian_package(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    data = schema.FashionMnist(source="fashion_mnist")
    assert sources.find(data) == "Debian package dataset-fashion-mnist"
    examples = sources.load(data)
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [54000, 6000, 10000]
    assert (np.bincount(examples.test.labels) == 1000).all()
    # published mean and standard deviation of the training pixels in [0, 1]
    pixels = np.concatenate([examples.train.inputs, examples.validation.inputs]) / 255.0
    assert abs(pixels.mean() - 0.2860) < 1e-4 and abs(pixels.std() - 0.3530) < 1e-4


def test_a_missing_source_says_what_was_tried_and_what_supplies_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    data = schema.Cifar10(source="cifar10")
    assert sources.find(data) is None
    with pytest.raises(UserError) as error:
        # an address nobody answers, so that the test is the same on machines with a network
        monkeypatch.setattr(tfds, "prepare", lambda *_: (_ for _ in ()).throw(UserError("ConnectionError: no network")))
        sources.load(data)
    text = str(error.value)
    assert text.index("1. prepared") < text.index("2. cifar-10-binary.tar.gz in") < text.index("3. a download")
    assert "data prepare cifar10 --from" in text and "ConnectionError" in text


def test_a_damaged_archive_is_refused_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(b"not a tar"))
    with pytest.raises(UserError, match="checksum"):
        tfds.prepare(tfds.Cifar10, tmp_path)
    with pytest.raises(UserError, match="Missing: train-images-idx3-ubyte.gz"):
        tfds.prepare(tfds.FashionMnist, tmp_path)
    assert sources.find(schema.Cifar10(source="cifar10")) is None


def test_finding_data_needs_no_tensorflow():
    code = (
        "import sys; from nrm_keras.data import sources; from nrm_keras.recipe import schema;"
        "sources.find(schema.Cifar10(source='cifar10')); sources.find(schema.Digits());"
        "print([m for m in ('tensorflow', 'keras', 'tensorflow_datasets') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
