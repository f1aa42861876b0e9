import keras
import numpy as np
import pytest
import tensorflow as tf

from nrm_keras.data.examples import Split
from nrm_keras.data.pipelines import Batches, standardization
from nrm_keras.errors import UserError


def numbered(count, shape=(8, 8, 1), classes=10):
    """Examples that can be told apart: every pixel of image i is i + 1."""
    inputs = np.broadcast_to(np.arange(1, count + 1).reshape(-1, *[1] * len(shape)), (count, *shape))
    return Split(inputs.astype("float32"), (np.arange(count) % classes).astype("int32"))


def read(dataset):
    return [tuple(part.numpy() for part in element) for element in dataset]


def identities(batches):
    return np.concatenate([batch[0].max(axis=(1, 2, 3)) for batch in batches])


def equal(a, b):
    return len(a) == len(b) and all(
        (x == y).all() for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True)
    )


@pytest.mark.parametrize(
    "count,batch,sizes",
    [(100, 32, [32, 32, 32, 4]), (97, 32, [32, 32, 33]), (96, 32, [32] * 3), (5, 32, [5]), (1, 4, [1])],
)
def test_every_epoch_visits_each_example_once(count, batch, sizes):
    batches = Batches(numbered(count), batch, seed=1)
    for epoch in range(3):
        got = read(batches(epoch))
        assert [len(x) for x, _ in got] == sizes
        assert sorted(identities(got)) == list(range(1, count + 1))
        assert all((y == (x.max(axis=(1, 2, 3)) - 1) % 10).all() for x, y in got)
    assert batches.steps_per_epoch == len(sizes)


def test_orders_of_epochs_and_seeds_are_unrelated():
    orders = [
        identities(read(Batches(numbered(1000), 100, seed=seed)(epoch))) for seed in (0, 1) for epoch in (0, 1, 2)
    ]
    correlation = np.corrcoef(orders) - np.eye(6)
    # independent permutations of 1,000: standard deviation 1/sqrt(999) = 0.032
    assert abs(correlation).max() < 0.16


def test_same_position_gives_same_bits_and_a_start_in_the_middle_the_rest():
    make = lambda: Batches(numbered(200), 32, seed=7, augment=("crop", "flip"))
    whole = read(make()(3))
    assert equal(whole, read(make()(3)))
    assert equal(whole[4:], read(make()(3, 4)))
    assert read(make()(3, 7)) == []
    assert not equal(whole, read(make()(4)))


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_together_see_the_single_device_batch(replicas):
    one = read(Batches(numbered(103), 16, seed=7, augment=("crop", "flip"))(1))
    parts = read(Batches(numbered(103), 16, seed=7, augment=("crop", "flip"), replicas=replicas)(1))
    groups = [parts[i : i + replicas] for i in range(0, len(parts), replicas)]
    joined = [tuple(np.concatenate(column) for column in zip(*group, strict=True)) for group in groups]
    assert equal(joined, one)
    sizes = [[len(x) for x, _ in group] for group in groups]
    assert all(max(size) - min(size) <= 1 and min(size) > 0 for size in sizes)


def test_crop_shifts_and_flip_mirrors():
    image = np.arange(1, 257, dtype="float32").reshape(16, 16, 1)
    split = Split(np.broadcast_to(image, (400, 16, 16, 1)).copy(), np.zeros(400, "int32"))
    padded = np.pad(image[..., 0], 2)
    crops = {(i, j): padded[i : i + 16, j : j + 16].tobytes() for i in range(5) for j in range(5)}
    got = next(x[..., 0] for x, _ in read(Batches(split, 400, seed=0, augment=("crop",))(0)))
    seen = {key for picture in got for key, value in crops.items() if value == np.ascontiguousarray(picture).tobytes()}
    assert seen == set(crops)  # every shift occurs, and nothing but shifts
    assert all(np.ascontiguousarray(picture).tobytes() in crops.values() for picture in got)
    flips = next(x for x, _ in read(Batches(split, 400, seed=0, augment=("flip",))(0)))
    mirrored = (flips == image[:, ::-1]).all(axis=(1, 2, 3))
    assert ((flips == image).all(axis=(1, 2, 3)) | mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_class_weights_follow_the_labels():
    batches = Batches(numbered(50), 16, seed=0, class_weights=np.arange(10.0))
    assert all((weight == y).all() for _, y, weight in read(batches(0)))


def test_evaluation_keeps_the_order():
    got = read(Batches(numbered(50), 16)(0))
    assert (identities(got) == np.arange(1, 51)).all()


@pytest.mark.parametrize("count,batch,replicas", [(100, 10, 4), (3, 8, 4)])
def test_batches_that_replicas_cannot_share_are_refused(count, batch, replicas):
    with pytest.raises(UserError, match=f"batch size {batch}, {replicas} replicas, {count} examples"):
        Batches(numbered(count), batch, replicas=replicas)


def test_standardization_is_per_channel_and_survives_constant_channels():
    rng = np.random.default_rng(0)
    x = rng.normal([1000.0, 2.0, 5.0], [0.5, 3.0, 0.0], size=(500, 4, 4, 3)).astype("float32")
    mean, variance = standardization(Split(x, np.zeros(500, "int32")))
    np.testing.assert_allclose(mean, np.float64(x).mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(variance[:2], np.float64(x).var((0, 1, 2))[:2], rtol=1e-9)
    assert variance[2] == 1.0


def test_standardization_takes_at_most_its_sample_and_that_at_random():
    read = []
    decode = lambda name: read.append(int(name)) or tf.fill((2,), float(name))
    names = Split(np.array([f"{i}" for i in range(150)]), np.zeros(150, "int32"))
    first = standardization(names, decode, sample=100)
    assert len(set(read)) == len(read) == 100
    assert len(set(np.diff(read))) > 2  # no stride: data may be periodic
    np.testing.assert_array_equal(first, standardization(names, decode, sample=100))


@pytest.mark.parametrize("decode", [None, lambda x: tf.ensure_shape(x, (5,))])
def test_augmenting_what_is_no_image_is_refused(decode):
    with pytest.raises(UserError, match=r"data.augment .* Received: crop, flip for examples of shape \(5,\)"):
        Batches(numbered(20, (5,)), 4, seed=0, augment=("crop", "flip"), decode=decode)


def test_decode_runs_inside_the_pipeline():
    names = Split(np.array([f"{i}" for i in range(10)]), np.arange(10, dtype="int32"))
    decode = lambda name: tf.fill((2,), tf.strings.to_number(name))
    got = read(Batches(names, 4, seed=0, decode=decode)(0))
    assert all((x == y[:, None]).all() for x, y in got)


@pytest.mark.parametrize("shape", [(16, 17, 1), (8, 9, 10, 1)])
def test_a_mask_moves_with_its_image(shape):
    """Each position has a number of its own, which image and mask share; what comes in is background."""
    count = int(np.prod(shape[:-1]))
    image = np.arange(1, count + 1, dtype="float32").reshape(shape)
    split = Split(np.repeat(image[None], 60, 0), np.repeat(image[None, ..., 0], 60, 0).astype("int32"))
    x, y = next(iter(read(Batches(split, 60, seed=0, augment=("crop", "flip"))(0))))
    assert (x[..., 0] == y).all()
    assert len({picture.tobytes() for picture in y}) > 30 and (y == 0).any()


def test_rows_on_disk_are_read_batch_by_batch(tmp_path):
    inputs = np.arange(40 * 6, dtype="uint8").reshape(40, 2, 3, 1)
    masks = (inputs[..., 0] % 3).astype("uint8")
    for name, array in (("x", inputs), ("y", masks)):
        np.save(tmp_path / f"{name}.npy", array)
    on_disk = Split(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"))
    assert isinstance(on_disk.inputs, np.memmap)
    got, expected = (read(Batches(split, 8, seed=1, augment=("flip",))(2)) for split in (on_disk, Split(inputs, masks)))
    assert equal(got, expected)
    assert got[0][0].dtype == np.float32 and got[0][1].dtype == np.int32


def test_words_are_left_out_of_text_at_random():
    texts = Split(np.array(["a b c d e f g h"] * 200, object), np.zeros(200, "int32"))
    encode = keras.layers.TextVectorization(vocabulary=list("abcdefgh"), output_sequence_length=8)
    batches = Batches(texts, 200, seed=0, augment=("drop_words",), encode=encode)
    full = next(iter(read(Batches(texts, 200, encode=encode)(0))))[0]
    first, second = (next(iter(read(batches(epoch))))[0] for epoch in (0, 1))
    assert first.dtype == np.int32 and ((first == full) | (first == 0)).all()
    assert 0.25 < (first == 0).mean() < 0.35 and (first != second).any()
    with pytest.raises(UserError, match="of text only drop_words"):
        Batches(texts, 8, seed=0, augment=("crop",), encode=encode)
    with pytest.raises(UserError, match="drop_words of text"):
        Batches(numbered(20), 4, seed=0, augment=("drop_words",))


def test_domains_come_beside_the_inputs():
    split = Split(np.arange(20.0)[:, None], np.zeros(20, "int32"), domains=np.arange(20) % 3)
    for x, _ in Batches(split, 6, seed=0, domains=True)(0).as_numpy_iterator():
        assert (x["inputs"][:, 0] % 3 == x["domain"]).all() and x["domain"].dtype == np.int32
