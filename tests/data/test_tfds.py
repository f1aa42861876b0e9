"""TFDS's real builders, on tiny archives in the exact format."""

import numpy as np
import pytest

from nrm_keras.data import images, sources, texts, tfds
from nrm_keras.errors import UserError
from nrm_keras.recipe.sections import data as data_sections
from nrm_keras.recipe.sections import texts as text_sections
from tests.data import archives, cifar

WORDS = np.array([f"word{number}" for number in range(500)])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for archives, and an own TFDS directory."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    (tmp_path / "archives").mkdir()
    return tmp_path / "archives"


def random_texts(count, seed):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 30)) for _ in range(count)]


def sizes(examples):
    return [len(examples.train), len(examples.validation), len(examples.test)]


def test_cifar10(folder):
    tfds.prepare(images.Cifar10, cifar.write_archive(folder), accept_checksum=True)
    examples = sources.load(data_sections.Cifar10(source="cifar10"))
    assert sizes(examples) == [90, 10, 20] and examples.classes == cifar.CLASSES == images.Cifar10.classes


def test_cifar100_has_the_fine_classes(folder):
    path, rows = cifar.write_archive_100(folder)
    tfds.prepare(images.Cifar100, path, accept_checksum=True)
    examples = sources.load(data_sections.Cifar100(source="cifar100", validation=0.0))
    assert sizes(examples) == [300, 0, 100] and examples.shape == (32, 32, 3)
    assert examples.classes == tuple(f"fine {number}" for number in range(100))
    for split, row in ((examples.train, rows["train"]), (examples.test, rows["test"])):
        pictures = {r[2:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes(): r[1] for r in row}
        assert [pictures[picture.tobytes()] for picture in split.inputs] == split.labels.tolist()


def test_patch_camelyon_stays_on_disk_with_its_own_splits(folder):
    content = archives.write_patch_camelyon(folder, {"train": 300, "valid": 6, "test": 8})
    tfds.prepare(images.PatchCamelyon, folder, accept_checksum=True)
    examples = sources.load(data_sections.PatchCamelyon(source="patch_camelyon"))
    assert sizes(examples) == [300, 6, 8]
    assert isinstance(examples.train.inputs, np.memmap) and examples.train.inputs.dtype == "uint8"
    for split, name in ((examples.train, "train"), (examples.validation, "valid"), (examples.test, "test")):
        given = {image.tobytes(): label for image, label in zip(*content[name], strict=True)}
        assert [given[image.tobytes()] for image in split.inputs] == split.labels.tolist()


def test_colorectal_histology_splits_whole_slides(folder):
    tfds.prepare(images.ColorectalHistology, archives.write_colorectal(folder), accept_checksum=True)
    data = data_sections.ColorectalHistology(source="colorectal_histology", image_size=(50, 40))
    examples = sources.load(data)
    assert examples.shape == examples.train.inputs.shape[1:] == (50, 40, 3)
    assert sizes(examples) == [56, 8, 16]  # seven, one and two of ten slides with eight tiles
    slides = [set(split.groups) for split in (examples.train, examples.validation, examples.test)]
    assert [len(some) for some in slides] == [7, 1, 2] and len(set.union(*slides)) == 10
    for split in (examples.train, examples.validation, examples.test):
        assert (split.inputs[:, 0, 0, 0] == (split.labels + 1) * 20).all()  # red says the class
        assert (split.inputs[:, 9, 9, 1] == [20 * int(slide[-2:]) for slide in split.groups]).all()


def test_malaria_is_resized_and_its_caveat_is_said(folder):
    tfds.prepare(images.Malaria, archives.write_malaria(folder), accept_checksum=True)
    examples = sources.load(data_sections.Malaria(source="malaria", image_size=(16, 20)))
    assert examples.shape == (16, 20, 3) and sum(sizes(examples)) == 24 and min(sizes(examples)) > 0
    assert (examples.test.inputs[:, 3, 3, 0] == np.where(examples.test.labels == 0, 200, 100)).all()
    assert "patient" in examples.caveat


def test_imdb_reviews_test_split_is_whole_and_not_in_training(folder):
    train, test = random_texts(80, 0), random_texts(20, 1)
    copied, contradicted = train[0], train[41]
    test = [*test, copied.upper()]
    folders = {
        "train/pos": train[:40],
        "train/neg": [*train[40:], contradicted, train[1]],  # a duplicate, and one with the other label
        "train/unsup": random_texts(5, 2),
        "test/pos": test[:10],
        "test/neg": test[10:],
    }
    tfds.prepare(texts.ImdbReviews, archives.write_imdb(folder, folders), accept_checksum=True)
    examples = sources.load(text_sections.ImdbReviews(source="imdb_reviews"))
    assert examples.classes == ("negative", "positive") and examples.shape == () and examples.is_text
    assert sorted(examples.test.inputs) == sorted(test)
    left = [*examples.train.inputs, *examples.validation.inputs]
    assert sorted(left) == sorted(set(train) - {copied, train[1]})
    labels = dict(zip(left, [*examples.train.labels, *examples.validation.labels], strict=True))
    assert all(labels[text] == (text in train[:40]) for text in left)
    # train[41] is there twice; train[0] has another label in the test, train[1] in training
    assert "1 duplicates and 0 near" in examples.notes[0] and "3 texts that repeat another" in examples.notes[0]


def test_ag_news_has_title_and_description(folder):
    titles, bodies = random_texts(48, 0), random_texts(48, 1)
    rows = [(1 + number % 4, title, body) for number, (title, body) in enumerate(zip(titles, bodies, strict=True))]
    path = archives.write_ag_news(folder, {"train": rows[:40], "test": rows[40:]})
    tfds.prepare(texts.AgNewsSubset, path, accept_checksum=True)
    examples = sources.load(text_sections.AgNewsSubset(source="ag_news_subset"))
    assert sizes(examples) == [36, 4, 8]
    given = {f"{title}\n{body}": label - 1 for label, title, body in rows[40:]}
    assert dict(zip(examples.test.inputs, examples.test.labels, strict=True)) == given


def test_a_limit_reads_part_of_a_split(folder):
    content = archives.write_patch_camelyon(folder, {"train": 300, "valid": 6, "test": 8})
    tfds.prepare(images.PatchCamelyon, folder, accept_checksum=True)
    examples = sources.load(data_sections.PatchCamelyon(source="patch_camelyon"), limit=5)
    assert sizes(examples) == [5, 5, 5]
    assert {image.tobytes() for image in examples.train.inputs} <= {image.tobytes() for image in content["train"][0]}


def test_what_a_killed_preparation_left_is_not_taken_for_the_data(folder, tmp_path):
    for source, place in ((images.Cifar10, "cifar10"), (texts.ImdbReviews, "imdb_reviews/plain_text")):
        left = tmp_path / "tfds" / place / "1.0.0.incomplete1A2B3C_cifar10_1.0.0"
        left.mkdir(parents=True)
        (left / "dataset_info.json").write_text("{}")
        assert source.find() is None
        ready = tmp_path / "tfds" / place / "1.0.0"
        left.rename(ready)
        assert source.find() == str(ready)


def test_a_damaged_tfds_folder_is_named(folder, tmp_path):
    ready = tmp_path / "tfds/cifar10/3.0.2"
    ready.mkdir(parents=True)
    (ready / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="3.0.2: not a prepared TFDS folder.*prepare it again"):
        sources.load(data_sections.Cifar10(source="cifar10"))
