"""Recurrent nets on digits, row by row or patch by patch, and on texts, character by character."""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import Sequential
from keras.initializers import Orthogonal, RandomUniform
from keras.layers import GRU, LSTM, Bidirectional, Dense, Dropout, Embedding, Input, LayerNormalization, SimpleRNN
from keras.optimizers import SGD, Adam, RMSprop
from keras.regularizers import L2

import nrm_keras
from tests.faults import corpus
from tests.faults.corpus import classifier
from tests.faults.data import CHARACTERS, digits, patches, windows

healthy, pair = functools.partial(corpus.healthy, "recurrent"), functools.partial(corpus.pair, "recurrent")


@pair("exploding recurrent net", ("rnn",), gain=3.0)
def rnn_relu(seed, gain=1.0):
    """With ReLU, a recurrent matrix that triples lengths makes them 3^16 times as long in 16 steps."""
    model = Sequential(
        [
            Input((16, 4), name="patches"),
            SimpleRNN(48, activation="relu", recurrent_initializer=Orthogonal(gain=gain), name="rnn"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, patches(seed), Adam(2e-3), epochs=4, batch_size=32)


@pair("gradient clipping to nothing", norm=1e-6)
def rnn_clipping(seed, norm=1.0):
    """Gradients are clipped at this norm."""
    model = Sequential(
        [
            Input((8, 8), name="rows"),
            LSTM(32, return_sequences=True, name="lstm_1"),
            LSTM(32, name="lstm_2"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed, (8, 8)), SGD(0.3, momentum=0.9, clipnorm=norm), epochs=5, batch_size=32)


@pair("tanh saturated by inputs", ("rnn",), largest=255.0)
def rnn_tanh(seed, largest=1.0):
    """Rows of pixels from 0 to 255 leave tanh at -1 or 1, where it has no slope."""
    model = Sequential(
        [Input((8, 8), name="rows"), SimpleRNN(32, activation="tanh", name="rnn"), Dense(10, name="logits")]
    )
    return classifier(model, digits(seed, (8, 8), largest), RMSprop(3e-3), epochs=5, batch_size=32, arrays=True)


@pair("misplaced normalization", ("norm",), axis=-1)
def rnn_one_feature(seed, axis=1):
    """Sequences of single numbers: normalized over the axis of size 1, each is 0."""
    model = Sequential(
        [
            Input((16, 1), name="means"),
            LayerNormalization(axis=axis, name="norm"),
            GRU(32, name="gru"),
            Dense(10, name="logits"),
        ]
    )
    data = patches(seed).map_x(lambda x: x.mean(-1, keepdims=True))
    return classifier(model, data, Adam(2e-2), epochs=6, batch_size=48)


@pair("NaN in the data", missing=True)
def rnn_late_nan(seed, missing=False):
    """A single value of batch 120 is missing."""
    data, batch_size = digits(seed, (8, 8)), 32

    def lose(i, batch):
        x, y = batch
        at = tf.one_hot(5, 8)[None, :, None] * tf.one_hot(3, 8) * tf.one_hot(7, tf.shape(x)[0])[:, None, None]
        return tf.where((at > 0) & (i == 120), np.nan, x), y

    dataset = corpus.batches(data, batch_size).repeat(4)
    if missing:
        dataset = dataset.enumerate().map(lose)
    model = Sequential(
        [
            Input((8, 8), name="rows"),
            GRU(24, return_sequences=True, name="gru_1"),
            GRU(24, name="gru_2"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, data, Adam(1e-2), epochs=1, batch_size=batch_size)._replace(train=dataset)


@pair("learning rate too high", rate=1.0)
def rnn_rate(seed, rate=1e-2):
    """A bidirectional LSTM."""
    model = Sequential(
        [
            Input((8, 8), name="rows"),
            Bidirectional(LSTM(16, name="lstm"), name="both_ways"),
            Dense(24, activation="relu", name="dense"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed, (8, 8)), Adam(rate), epochs=4, batch_size=32)


# The embedding is at fault; it shows where the gates saturate.
@pair("initialization too large", ("embedding", "lstm"), largest=100.0)
def rnn_embedding(seed, largest=0.1):
    """Initial vectors of the characters."""
    model = Sequential(
        [
            Input((20,), dtype="int32", name="characters"),
            Embedding(CHARACTERS, 16, embeddings_initializer=RandomUniform(-largest, largest), name="embedding"),
            LSTM(24, name="lstm"),
            Dense(2, name="logits"),
        ]
    )
    return classifier(model, windows(seed), Adam(1e-2), epochs=5, batch_size=32)


class Reader(keras.Model):
    """Reads characters with a GRU."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = Embedding(CHARACTERS, 12, name="embedding")
        self.gru = GRU(24, name="gru")
        self.dense = Dense(16, activation="relu", name="dense")
        self.logits = Dense(2, name="logits")

    def call(self, x):
        return self.logits(self.dense(self.gru(self.embedding(x))))


@pair("labels shuffled", shuffled=True)
def rnn_labels(seed, shuffled=False):
    """Labels that belong to other examples."""
    data = windows(seed)
    data = data.with_shuffled_labels(seed) if shuffled else data
    return classifier(Reader(name="reader"), data, Adam(1e-2), epochs=5, batch_size=32)


@pair("frozen layer", ("gru",), trainable=False)
def rnn_frozen(seed, trainable=True):
    """A small GRU that stays random."""
    model = Sequential(
        [
            Input((20,), dtype="int32", name="characters"),
            Embedding(CHARACTERS, 16, name="embedding"),
            GRU(4, trainable=trainable, name="gru"),
            Dense(2, name="logits"),
        ]
    )
    return classifier(model, windows(seed), Adam(1e-2), epochs=5, batch_size=32)


@pair("dropout too high", ("dropout",), share=0.98)
def rnn_dropout(seed, share=0.3):
    """Next to nothing gets from one recurrent layer to the next."""
    model = Sequential(
        [
            Input((8, 8), name="rows"),
            SimpleRNN(24, return_sequences=True, name="rnn_1"),
            Dropout(share, name="dropout"),
            SimpleRNN(24, name="rnn_2"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed, (8, 8)), Adam(5e-3), epochs=5, batch_size=32)


@pair("regularization too strong", ("lstm",), strength=1.0)
def rnn_regularizer(seed, strength=1e-5):
    """The penalty on input and recurrent weights."""
    penalties = {"kernel_regularizer": L2(strength), "recurrent_regularizer": L2(strength)}
    model = Sequential([Input((8, 8), name="rows"), LSTM(32, **penalties, name="lstm"), Dense(10, name="logits")])
    return classifier(model, digits(seed, (8, 8)), Adam(1e-2), epochs=4, batch_size=32)


@pair("learning rate too low", rate=1e-5)
def rnn_slow(seed, rate=0.1):
    """Two layers, trained by SGD."""
    model = Sequential(
        [
            Input((8, 8), name="rows"),
            SimpleRNN(32, return_sequences=True, name="rnn_1"),
            SimpleRNN(32, name="rnn_2"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed, (8, 8)), SGD(rate), epochs=5, batch_size=32)


@healthy()
def rnn_masked(seed):
    """Windows padded with zeros to different lengths, which the layers mask."""

    def pad(x):
        lengths = np.random.default_rng(seed).integers(10, 21, len(x))
        return np.where(np.arange(x.shape[1]) < lengths[:, None], x, 0)

    model = Sequential(
        [
            Input((20,), dtype="int32", name="characters"),
            Embedding(CHARACTERS, 16, mask_zero=True, name="embedding"),
            GRU(24, dropout=0.1, name="gru"),
            Dense(2, name="logits"),
        ]
    )
    return classifier(model, windows(seed).map_x(pad), Adam(1e-2), epochs=5, batch_size=32)


@healthy()
def rnn_decay(seed):
    """The learning rate decays to 0, so that the last updates are small."""
    model = Sequential(
        [
            Input((8, 8), name="rows"),
            GRU(24, return_sequences=True, name="gru_1"),
            nrm_keras.layers.LayerNormalization(name="norm"),
            GRU(24, recurrent_dropout=0.1, name="gru_2"),
            Dense(10, name="logits"),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 225)
    return classifier(model, digits(seed, (8, 8)), Adam(rate), epochs=5, batch_size=32)
