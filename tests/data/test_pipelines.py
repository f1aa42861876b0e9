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
