"""Transformers on digits as sequences of patches, and on texts as sequences of characters."""

import functools

import keras
import tensorflow as tf
from keras import layers
from keras.initializers import GlorotUniform, RandomNormal
from keras.layers import Add, Dense, Dropout, Embedding, GlobalAveragePooling1D, Input, LayerNormalization
from keras.losses import SparseCategoricalCrossentropy
from keras.optimizers import SGD, Adam, AdamW

from tests.faults import corpus
from tests.faults.corpus import classifier
from tests.faults.data import CHARACTERS, patches, windows

healthy, pair = functools.partial(corpus.healthy, "transformer"), functools.partial(corpus.pair, "transformer")


@keras.saving.register_keras_serializable(package="faults")
class Positions(layers.Layer):
    """Adds a learned vector to each position."""

    def __init__(self, deviation=0.02, **kwargs):
        super().__init__(**kwargs)
        self.deviation = deviation

    def build(self, input_shape):
        self.table = self.add_weight(shape=input_shape[1:], initializer=RandomNormal(stddev=self.deviation))

    def call(self, x):
        return x + self.table

    def get_config(self):
        return super().get_config() | {"deviation": self.deviation}


def attend(x, i, width, heads=2, normalizer=LayerNormalization, **arguments):
    """x plus its attention to itself; normalized first, if a normalizer is given."""
    y = normalizer(name=f"attention_norm_{i}")(x) if normalizer else x
    y = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{i}", **arguments)(y, y)
    return Add(name=f"attention_add_{i}")([x, y])


def feed(x, i, width, normalizer=LayerNormalization, activation="gelu", dropout=0.0, **arguments):
    """x plus two dense layers of it; normalized first, if a normalizer is given."""
    y = normalizer(name=f"feed_norm_{i}")(x) if normalizer else x
    y = Dense(2 * width, activation=activation, name=f"feed_{i}_1")(y)
    y = Dense(width, name=f"feed_{i}_2", **arguments)(y)
    if dropout:
        y = Dropout(dropout, name=f"dropout_{i}")(y)
    return Add(name=f"feed_add_{i}")([x, y])


def embed_patches(width, count=16, size=4, deviation=0.02):
    """The input, and its patches in the width of the blocks, with positions."""
    inputs = Input((count, size), name="patches")
    return inputs, Positions(deviation, name="positions")(Dense(width, name="embedding")(inputs))


def embed_text(width, **arguments):
    """The input, and its characters in the width of the blocks, with positions."""
    inputs = Input((16,), dtype="int32", name="characters")
    return inputs, Positions(name="positions")(Embedding(CHARACTERS, width, name="embedding", **arguments)(inputs))


def head(inputs, x, classes=10, normalizer=LayerNormalization):
    """The model that ends with logits of the mean over all positions."""
    x = normalizer(name="last_norm")(x) if normalizer else x
    return keras.Model(inputs, Dense(classes, name="logits")(GlobalAveragePooling1D(name="pool")(x)))


@pair("missing normalization", normalizer=None)
def tf_deep(seed, normalizer=LayerNormalization):
    """Three blocks on unscaled pixels."""
    inputs, x = embed_patches(16, 4, 16)
    for i in range(1, 4):
        x = feed(attend(x, i, 16, normalizer=normalizer), i, 16, normalizer)
    return classifier(head(inputs, x, normalizer=normalizer), patches(seed, 4, 16.0), SGD(0.03, momentum=0.9), 4, 32)


# The layer's attention weights saturate; its output is too large for the sum and the layers behind it.
@pair("initialization too large", ("attention_1", "attention_add_1"), scale=100.0)
def tf_attention(seed, scale=1.0):
    """With large weights, scores are far apart and the softmax picks a single position."""
    inputs, x = embed_patches(16)
    initializer = keras.initializers.VarianceScaling(scale**2, "fan_avg", "uniform")
    x = feed(attend(x, 1, 16, kernel_initializer=initializer), 1, 16)
    x = feed(attend(x, 2, 16, kernel_initializer=GlorotUniform()), 2, 16)
    return classifier(head(inputs, x), patches(seed), Adam(5e-3), epochs=4, batch_size=32)


@pair("weight decay too strong", decay=20.0)
def tf_decay(seed, decay=0.01):
    """Keras takes rate * decay of every weight away in each step, those of normalizers too."""
    inputs, x = embed_text(16)
    x = feed(attend(x, 1, 16), 1, 16)
    return classifier(
        head(inputs, x, 2), windows(seed, 16, 25600), AdamW(1e-2, weight_decay=decay), epochs=3, batch_size=48
    )


@pair("learning rate too low", rate=1e-6)
def tf_rate(seed, rate=3e-3):
    """Two blocks."""
    inputs, x = embed_patches(24)
    for i in (1, 2):
        x = feed(attend(x, i, 24), i, 24, dropout=0.1)
    return classifier(head(inputs, x), patches(seed), Adam(rate), epochs=5, batch_size=32, arrays=True)


@pair("initialization too large", ("positions",), deviation=100.0)
def tf_positions(seed, deviation=0.05):
    """Beside initial position vectors of this size, what is at the positions is lost."""
    inputs, x = embed_patches(24, deviation=deviation)
    x = feed(attend(x, 1, 24), 1, 24, activation="relu")
    return classifier(head(inputs, x), patches(seed), Adam(5e-3), epochs=4, batch_size=32)


@keras.saving.register_keras_serializable(package="faults")
class Clipped(keras.Model):
    """Clips gradients by itself."""

    norm = 1.0

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            prediction = self(x, training=True)
            loss = self.compute_loss(x, y, prediction)
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, self.trainable_variables), self.norm)
        self.optimizer.apply(gradients, self.trainable_variables)
        self._loss_tracker.update_state(loss)
        return self.compute_metrics(x, y, prediction)


@pair("gradient clipping to nothing", norm=1e-6)
def tf_clipping(seed, norm=1.0):
    """A train_step of one's own that clips gradients at this norm."""
    inputs, x = embed_patches(16, 4, 16)
    for i in (1, 2):
        x = feed(attend(x, i, 16), i, 16)
    whole = head(inputs, x)
    model = Clipped(whole.input, whole.output, name="clipped")
    model.norm = norm
    return classifier(model, patches(seed, 4), SGD(0.1, momentum=0.9), epochs=5, batch_size=32)


# Each of them divides by more than 100.
@pair("epsilon too large", ("last_norm", "attention_norm_1", "feed_norm_1"), epsilon=1e4)
def tf_epsilon(seed, epsilon=1e-6):
    """With an epsilon far above the variance, normalization only makes small."""
    inputs, x = embed_text(16)
    normalizer = functools.partial(LayerNormalization, epsilon=epsilon)
    x = feed(attend(x, 1, 16, normalizer=normalizer), 1, 16, normalizer)
    return classifier(head(inputs, x, 2, normalizer), windows(seed, 16, 25600), Adam(3e-3), epochs=3, batch_size=48)


@pair("loss and last activation don't fit", from_logits=False)
def tf_logits(seed, from_logits=True):
    """The last layer gives logits, which the loss takes as probabilities."""
    inputs, x = embed_patches(16, 4, 16)
    x = feed(attend(x, 1, 16, heads=4), 1, 16, activation="relu", dropout=0.1)
    loss = SparseCategoricalCrossentropy(from_logits=from_logits)
    return classifier(head(inputs, x), patches(seed, 4), Adam(5e-3), 5, 32, loss)


# Each of them keeps its initial running statistics.
@pair("running statistics never updated", ("norm_1", "norm_2"), momentum=1.0)
def tf_momentum(seed, momentum=0.9):
    """Batch normalization behind each sum; running statistics with a momentum of 1 stay as they are."""
    inputs, x = embed_patches(24, 4, 16)
    x = layers.BatchNormalization(momentum=momentum, name="norm_1")(attend(x, 1, 24, normalizer=None))
    x = feed(x, 1, 24, normalizer=None, activation="relu")
    x = layers.BatchNormalization(momentum=momentum, name="norm_2")(x)
    return classifier(head(inputs, x, normalizer=None), patches(seed, 4, 16.0), Adam(1e-2), 4, 32)


@pair("labels shuffled", shuffled=True)
def tf_labels(seed, shuffled=False):
    """Labels that belong to other examples."""
    data = patches(seed)
    data = data.with_shuffled_labels(seed) if shuffled else data
    inputs, x = embed_patches(16)
    x = feed(attend(x, 1, 16), 1, 16)
    return classifier(head(inputs, x), data, Adam(5e-3), epochs=5, batch_size=32)


@healthy()
def tf_zero_branches(seed):
    """Each branch ends with weights of zero, so that blocks start as the identity."""
    inputs, x = embed_patches(16, 4, 16)
    for i in (1, 2):
        x = feed(attend(x, i, 16), i, 16, kernel_initializer="zeros")
    return classifier(head(inputs, x), patches(seed, 4), Adam(1e-2), epochs=4, batch_size=32)


@healthy()
def tf_warmup(seed):
    """The learning rate starts at almost nothing and rises over 50 steps, then decays."""
    inputs, x = embed_patches(32, 4, 16)
    x = feed(attend(x, 1, 32, heads=4), 1, 32)
    rate = keras.optimizers.schedules.CosineDecay(1e-5, 130, warmup_target=1e-2, warmup_steps=50)
    return classifier(head(inputs, x), patches(seed, 4), AdamW(rate, weight_decay=0.05), epochs=4, batch_size=32)
