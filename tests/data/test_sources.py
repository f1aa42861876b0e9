import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from nrm_keras.data import files, images, sources, tfds
from nrm_keras.data.examples import Examples, Split, holdout
from nrm_keras.errors import UserError
from nrm_keras.recipe.sections import data as data_sections


def rows(split):
    return {row.tobytes() for row in split.inputs}


def test_digits_splits_are_disjoint_stratified_and_fixed():
    examples = sources.load(data_sections.Digits())
    splits = (examples.train, examples.validation, examples.test)
    assert [len(split) for split in splits] == [1258, 180, 359]
    assert sum(len(rows(split)) for split in splits) == len(set.union(*map(rows, splits)))
    assert np.bincount(examples.test.labels).min() >= 34
    assert examples.fingerprint() == sources.load(data_sections.Digits()).fingerprint()
    assert examples.fingerprint() != sources.load(data_sections.Digits(split_seed=1)).fingerprint()
    # the test split doesn't move when the validation share does
    assert rows(sources.load(data_sections.Digits(validation=0.3)).test) == rows(examples.test)


def test_limit_keeps_every_class():
    examples = sources.load(data_sections.Digits(limit=100))
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
    own = sources.load(data_sections.Npz(source="npz", path=str(tmp_path / "own.npz")))
    assert (own.test.inputs == x[50:]).all() and (own.validation.labels == y[40:50]).all()
    np.savez(tmp_path / "one.npz", x=x, y=y, classes=["a", "b", "c"])
    one = sources.load(data_sections.Npz(source="npz", path=str(tmp_path / "one.npz"), validation=0.2, test=0.1))
    assert [len(one.train), len(one.validation), len(one.test)] == [42, 12, 6]
    assert len(set.union(*map(rows, (one.train, one.validation, one.test)))) == 60
    assert one.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "arrays,message",
    [
        ({"z": np.zeros(3)}, "x_train and y_train"),
        ({"x": np.zeros((3, 2))}, "no y"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4, int)}, r"y int64 \(4,\)"),
        ({"x": np.zeros((3, 0)), "y": np.arange(3)}, r"Received: x float64 \(3, 0\)"),
        ({"x": np.full((3, 2), np.nan), "y": np.zeros(3, int)}, "6 NaN"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, -1, 1])}, "-1 to 1"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 2]), "classes": ["a", "b"]}, "0 to 1"),
        ({"x": np.zeros((3, 2)), "y": np.array([0.5, 1, 2])}, r"float64.*np.unique\(y, return_inverse=True\)"),
        ({"x": np.zeros((3, 2)), "y": np.array([True, False, True])}, r"bool.*np.unique"),
        ({"x": np.zeros((3, 2)), "y": np.array(["a", "b", "a"])}, r"<U1.*np.unique"),
        ({"x": np.zeros((3, 2)), "y": np.eye(3)}, r"\(3, 3\).*y.argmax\(1\)"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 2]) + 2**32}, "4294967296 to 4294967298"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 2**64 - 1], "uint64")}, "0 to 18446744073709551615"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 2**31 - 1])}, "0 to 2147483647"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 2]), "classes": np.array("a")}, r"distinct names.*\(\)"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 2]), "classes": [["a", "b", "c"]]}, r"distinct names.*\(1, 3\)"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 2]), "classes": ["a", "b", "a"]}, "Received: a more than once"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 2]), "classes": np.array([], str)}, "distinct names"),
        ({"x": np.zeros((3, 2), "longdouble"), "y": np.zeros(3, int)}, r"64 bits.*float128"),
        ({"x": np.zeros((3, 2), complex), "y": np.zeros(3, int)}, "complex128"),
        ({"x": np.array([[1e39, 0], [-1e300, 0]]), "y": np.zeros(2, int)}, "2 NaN, infinite or larger"),
        (
            {
                "x_train": np.zeros((3, 2)),
                "y_train": np.zeros(3, int),
                "x_val": np.zeros((3, 4)),
                "y_val": np.zeros(3, int),
            },
            r"\(2,\) in training, \(4,\) in validation",
        ),
        (
            {
                "x_train": np.zeros((3, 2)),
                "y_train": np.zeros(3, int),
                "x_test": np.zeros((3, 5)),
                "y_test": np.zeros(3, int),
            },
            r"\(2,\) in training, \(5,\) in test",
        ),
    ],
)
def test_npz_mistakes_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=message):
        sources.load(data_sections.Npz(source="npz", path=str(tmp_path / "bad.npz")))


def load_npz(tmp_path, **arrays):
    np.savez(tmp_path / "own.npz", **arrays)
    return sources.load(data_sections.Npz(source="npz", path=str(tmp_path / "own.npz"), validation=0, test=0))


def test_npz_labels_may_be_a_column_or_of_one_example(tmp_path):
    assert load_npz(tmp_path, x=np.zeros((3, 2)), y=np.array([[0], [2], [1]])).train.labels.tolist() == [0, 2, 1]
    assert load_npz(tmp_path, x=np.zeros((1, 2)), y=np.array([1])).train.labels.tolist() == [1]
    assert load_npz(tmp_path, x=np.zeros((1, 2)), y=np.array([[1]])).train.labels.tolist() == [1]


@pytest.mark.parametrize(
    "classes,names",
    [(["a", "b"], ("a", "b")), (np.array(["ä".encode(), b"b"]), ("ä", "b")), ([3, 7], ("3", "7"))],
)
def test_npz_class_names_may_be_text_bytes_and_numbers(tmp_path, classes, names):
    assert load_npz(tmp_path, x=np.zeros((2, 2)), y=np.array([0, 1]), classes=classes).classes == names


def test_npz_in_another_byte_order(tmp_path):
    examples = load_npz(tmp_path, x=np.arange(4, dtype=">f4").reshape(2, 2), y=np.array([0, 1], ">i8"))
    assert examples.train.inputs.dtype == "float32" and examples.train.inputs.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("shares", [{"validation": 0.9, "test": 0.5}, {"validation": 0, "test": 0.9}])
def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path, shares):
    np.savez(tmp_path / "few.npz", x=np.zeros((4, 2)), y=np.arange(4) % 2)
    with pytest.raises(UserError, match=r"data.validation and data.test .* Received: \d of \d examples"):
        sources.load(data_sections.Npz(source="npz", path=str(tmp_path / "few.npz"), **shares))
    with pytest.raises(UserError, match="Received: 4 of 4"):
        holdout(Split(np.zeros((4, 2)), np.zeros(4, "int32")), 1.5 * 0.6, 0)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_npz_that_is_none(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(UserError, match="np.savez"):
        sources.load(data_sections.Npz(source="npz", path=str(tmp_path / "bad.npz")))


def test_npz_executes_no_pickle(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/exploded",)

    np.savez(tmp_path / "bomb.npz", x=np.array([Bomb()], dtype=object), y=np.array([0]))
    with pytest.raises(UserError):
        sources.load(data_sections.Npz(source="npz", path=str(tmp_path / "bomb.npz")))
    assert not (tmp_path / "exploded").exists()


def paint(folder, count, colour, size=(9, 7)):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", size, (colour, number, 0)).save(folder / f"{number}.png")


def test_folder_of_classes_is_split_and_decoded(tmp_path):
    paint(tmp_path / "cat", 10, 200)
    paint(tmp_path / "dog", 10, 20)
    examples = sources.load(data_sections.Folder(source="folder", path=str(tmp_path), image_size=(8, 6)))
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
    examples = sources.load(data_sections.Folder(source="folder", path=str(tmp_path)))
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [12, 4, 6]
    assert all("/test/" in path for path in examples.test.inputs)


def test_folder_names_a_broken_image_and_missing_classes(tmp_path):
    paint(tmp_path / "a", 2, 1)
    with pytest.raises(UserError, match="two at least"):
        sources.load(data_sections.Folder(source="folder", path=str(tmp_path)))
    paint(tmp_path / "b", 2, 1)
    (tmp_path / "b" / "torn.png").write_bytes((tmp_path / "b" / "0.png").read_bytes()[:40])
    with pytest.raises(UserError, match="torn.png"):
        sources.load(data_sections.Folder(source="folder", path=str(tmp_path)))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_jpeg_that_is_cut_off_is_named_before_training(tmp_path, share):
    paint(tmp_path / "a", 6, 1)
    paint(tmp_path / "b", 6, 2)
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), "uint8")
    Image.fromarray(noise).save(tmp_path / "b" / "whole.jpg")
    content = (tmp_path / "b" / "whole.jpg").read_bytes()
    # bytes behind the end, as some cameras write them
    (tmp_path / "b" / "more.jpg").write_bytes(content + b"\0" * 9000)
    assert len(load_folder(tmp_path).train) > 0
    (tmp_path / "b" / "cut.jpg").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="cut.jpg: not a readable image"):
        load_folder(tmp_path)


def load_folder(path, **settings):
    return sources.load(data_sections.Folder(source="folder", path=str(path), image_size=(9, 7), **settings))


def test_split_folders_in_any_case(tmp_path):
    for part, count in (("Train", 3), ("VAL", 1), ("TEST", 2)):
        paint(tmp_path / part / "a", count, 1)
        paint(tmp_path / part / "b", count, 2)
    examples = load_folder(tmp_path)
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [6, 2, 4]
    assert examples.classes == ("a", "b")
    (tmp_path / "Validation").mkdir()
    with pytest.raises(UserError, match="VAL and Validation"):
        load_folder(tmp_path)


def test_a_split_folder_beside_class_folders_is_no_class(tmp_path):
    for folder in ("a", "b", "test/a", "test/b"):
        paint(tmp_path / folder, 5, 1)
    examples = load_folder(tmp_path, validation=0.2)
    assert examples.classes == ("a", "b")
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [8, 2, 10]
    assert all("/test/" in path for path in examples.test.inputs)
    assert not any("/test/" in path for path in [*examples.train.inputs, *examples.validation.inputs])


def test_split_folders_without_one_to_train_on(tmp_path):
    for folder in ("val/a", "val/b", "test/a", "test/b"):
        paint(tmp_path / folder, 2, 1)
    with pytest.raises(UserError, match="a train folder or class folders.*class folders none; split folders val, test"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name,kind", [("x.bmp", "BMP"), ("x.GIF", "GIF"), ("x.tif", "TIFF"), ("x.png", "BMP")])
def test_other_kinds_of_images_are_refused(tmp_path, name, kind):
    paint(tmp_path / "a", 2, 1)
    paint(tmp_path / "b", 2, 1)
    Image.new("RGB", (9, 7)).save(tmp_path / "b" / name, kind)
    with pytest.raises(UserError, match=rf"{name}: .*Received: {kind}.*convert it to PNG"):
        load_folder(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
def test_every_mode_of_png_is_decoded(tmp_path, mode, channels):
    picture = Image.new("RGBA", (9, 7), (255, 0, 0, 255)).convert(mode)
    picture.save(tmp_path / "x.PNG")
    files.check_images([str(tmp_path / "x.PNG")])
    image = files.decoder((9, 7, channels))(str(tmp_path / "x.PNG")).numpy()
    assert image.shape == (9, 7, channels)
    expected = np.asarray(picture.convert("RGB"), float).mean((0, 1))  # of all: mode 1 is dithered
    if channels == 1:
        expected = expected @ [0.299, 0.587, 0.114]  # PNG's weights differ from these by a twentieth
    np.testing.assert_allclose(image.mean((0, 1)), expected, atol=25 if channels == 1 else 1)


def test_pictures_count_by_their_content_and_not_by_their_names(tmp_path):
    for part, colour in (("train", 1), ("val", 2), ("test", 3)):
        paint(tmp_path / "one" / part / "a", 3, colour)
        paint(tmp_path / "one" / part / "b", 3, colour + 10)
    shutil.copytree(tmp_path / "one", tmp_path / "two_with_a_longer_name")
    one, two = load_folder(tmp_path / "one"), load_folder(tmp_path / "two_with_a_longer_name")
    assert one.fingerprint() == two.fingerprint()
    assert one.repeated() == {"validation": 0, "test": 0}
    shutil.copy(tmp_path / "one/train/a/0.png", tmp_path / "one/test/b/1.png")
    changed = load_folder(tmp_path / "one")
    assert changed.fingerprint() != two.fingerprint()
    assert changed.repeated() == {"validation": 0, "test": 1}


def test_each_example_is_hashed_once(monkeypatch):
    x = np.arange(12, dtype="float32").reshape(3, -1)
    splits = [Split(x[i : i + 1], np.zeros(1, "int32")) for i in (0, 1, 0)]
    examples = Examples(("a",), *splits, origin="here", shape=x.shape[1:])
    hashed = []
    monkeypatch.setattr(hashlib, "blake2b", lambda *a, _real=hashlib.blake2b, **k: hashed.append(a) or _real(*a, **k))
    examples.fingerprint()
    assert examples.repeated() == {"validation": 0, "test": 1}
    assert len([arguments for arguments in hashed if arguments]) == 3


def test_hashing_copies_no_whole_array():
    big = Split(np.zeros((2**12, 2**10), "float32"), np.zeros(2**12, "int32"))  # 16 MB
    examples = Examples(("a",), big, big.take([0]), big.take([0]), origin="here", shape=(2**10,))
    tracemalloc.start()
    examples.fingerprint()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


@pytest.mark.skipif(not images.FashionMnist._package_splits(), reason="needs the Debian package dataset-fashion-mnist")
def test_fashion_mnist_from_the_debian_package(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    data = data_sections.FashionMnist(source="fashion_mnist")
    assert sources.find(data) == "Debian package dataset-fashion-mnist"
    examples = sources.load(data)
    assert [len(examples.train), len(examples.validation), len(examples.test)] == [54000, 6000, 10000]
    assert (np.bincount(examples.test.labels) == 1000).all()
    # published mean and standard deviation of the training pixels in [0, 1]
    pixels = np.concatenate([examples.train.inputs, examples.validation.inputs]) / 255.0
    assert abs(pixels.mean() - 0.2860) < 1e-4 and abs(pixels.std() - 0.3530) < 1e-4


def test_a_missing_source_says_what_was_tried_and_what_supplies_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    data = data_sections.Cifar10(source="cifar10")
    assert sources.find(data) is None
    with pytest.raises(UserError) as error:
        # an address nobody answers, so that the test is the same on machines with a network
        monkeypatch.setattr(tfds, "prepare", lambda *_: (_ for _ in ()).throw(UserError("ConnectionError: no network")))
        sources.load(data)
    text = str(error.value)
    assert text.index("1. prepared") < text.index("2. cifar-10-binary.tar.gz in") < text.index("3. a download")
    assert "data prepare cifar10 --from" in text and "ConnectionError" in text


def test_without_a_network_a_download_fails_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    asked = []

    def urlopen(request, timeout):
        asked.append((request.get_method(), request.full_url, timeout))
        raise urllib.error.URLError(OSError("no route to host"))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    start = time.monotonic()
    with pytest.raises(UserError, match="does not answer: no route to host"):
        images.Cifar10.download([])
    assert time.monotonic() - start < 20  # importing TFDS included; its ten tries take minutes
    assert asked == [("HEAD", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", 10)]


def test_a_download_says_that_it_starts(tmp_path, monkeypatch, capsys):
    import tensorflow_datasets

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO())
    monkeypatch.setattr(
        tensorflow_datasets.core.DatasetBuilder, "download_and_prepare", lambda *_, **__: print("sizes unknown")
    )
    tfds.prepare(images.Cifar10)
    said = capsys.readouterr()
    assert said.err == "cifar10: downloading from https://www.cs.toronto.edu/~kriz; Ctrl-C stops it\n" and not said.out


def test_a_damaged_archive_is_refused_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(b"not a tar"))
    with pytest.raises(UserError, match="checksum"):
        tfds.prepare(images.Cifar10, tmp_path)
    with pytest.raises(UserError, match="Missing: train-images-idx3-ubyte.gz"):
        tfds.prepare(images.FashionMnist, tmp_path)
    assert sources.find(data_sections.Cifar10(source="cifar10")) is None


def test_finding_data_needs_no_tensorflow():
    code = (
        "import sys; from nrm_keras.data import sources; from nrm_keras.recipe.sections.data import Cifar10, Digits;"
        "sources.find(Cifar10(source='cifar10')); sources.find(Digits());"
        "print([m for m in ('tensorflow', 'keras', 'tensorflow_datasets') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_npz_holds_numbers_to_be_predicted_where_targets_are_named(tmp_path):
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10.0)
    np.savez(tmp_path / "numbers.npz", x=x, y=y)
    section = {"source": "npz", "path": str(tmp_path / "numbers.npz"), "validation": 0.0, "test": 0.0}
    examples = sources.load(data_sections.Npz(**section, targets=("energy (MeV)",)))
    assert (examples.task, examples.targets, examples.classes) == ("regression", ("energy (MeV)",), ())
    assert examples.train.labels.dtype == "float32"
    np.testing.assert_array_equal(examples.train.labels, y[:, None])
    with pytest.raises(UserError, match=r"a column for each of data.targets, a, b. Received: float32 \(10, 1\)"):
        sources.load(data_sections.Npz(**section, targets=("a", "b")))
