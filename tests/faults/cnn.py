"""Convolutional nets on images of 8x8 pixels."""

import functools

import keras
from keras import Sequential, layers
from keras.initializers import RandomNormal
from keras.layers import Activation, BatchNormalization, Conv2D, Dense, Dropout, Flatten, Input
from keras.losses import SparseCategoricalCrossentropy
from keras.optimizers import SGD, Adam, RMSprop

import nrm_keras
from tests.faults import corpus
from tests.faults.corpus import classifier
from tests.faults.data import digits

healthy, pair = functools.partial(corpus.healthy, "cnn"), functools.partial(corpus.pair, "cnn")


@pair("missing normalization", normalized=False)
def cnn_deep(seed, normalized=True):
    """Nine convolutions with Keras' default initializer."""
    model = Sequential([Input((8, 8, 1), name="image")])
    for i in range(1, 10):
        model.add(Conv2D(8, 3, strides=2 if i in (4, 7) else 1, padding="same", name=f"conv_{i}"))
        if normalized:
            model.add(BatchNormalization(momentum=0.9, name=f"norm_{i}"))
        model.add(Activation("relu", name=f"relu_{i}"))
    model.add(Flatten(name="flatten"))
    model.add(Dense(10, name="logits"))
    return classifier(model, digits(seed), SGD(0.05, momentum=0.9), epochs=4, batch_size=32)


@pair("misplaced normalization", ("norm",), last=True)
def cnn_norm_last(seed, last=False):
    """Batch normalization behind the softmax makes probabilities that are below 0 or add up to 0."""
    norm = BatchNormalization(momentum=0.9, name="norm")
    middle = [Dense(32, name="dense"), norm, Activation("relu", name="relu_2"), Dense(10, name="logits")]
    if last:
        middle.remove(norm)
    model = Sequential(
        [
            Input((8, 8, 1), name="image"),
            Conv2D(8, 3, strides=2, padding="same", name="conv"),
            Activation("relu", name="relu_1"),
            Flatten(name="flatten"),
            *middle,
            Activation("softmax", name="softmax"),
            *([norm] if last else []),
        ]
    )
    return classifier(model, digits(seed), Adam(3e-3), 5, 32, SparseCategoricalCrossentropy())


# Each of them keeps its initial running statistics.
@pair("running statistics never updated", ("norm_1", "norm_2"), momentum=1.0)
def cnn_momentum(seed, momentum=0.9):
    """Running statistics with a momentum of 1 stay as they are."""
    model = Sequential(
        [
            Input((8, 8, 1), name="image"),
            Conv2D(12, 3, use_bias=False, name="conv_1"),
            BatchNormalization(momentum=momentum, name="norm_1"),
            Activation("relu", name="relu_1"),
            Conv2D(12, 3, use_bias=False, name="conv_2"),
            BatchNormalization(momentum=momentum, name="norm_2"),
            Activation("relu", name="relu_2"),
            layers.GlobalAveragePooling2D(name="pool"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed, largest=16.0), Adam(1e-2), epochs=4, batch_size=32)


# Each of them still has most of its initial running statistics.
@pair("running statistics lag behind", ("norm_1", "norm_2", "norm_3"), warmup=False)
def cnn_few_steps(seed, warmup=True):
    """With a momentum of 0.999, 110 steps leave 90% of the initial running statistics, unless they are warmed up."""
    model = Sequential([Input((8, 8, 1), name="image")])
    for i, filters in enumerate((8, 16, 16), 1):
        model.add(Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", name=f"conv_{i}"))
        model.add(nrm_keras.layers.BatchNormalization(momentum=0.999, warmup=warmup, name=f"norm_{i}"))
        model.add(Activation("relu", name=f"relu_{i}"))
        model.add(layers.MaxPooling2D(name=f"pool_{i}"))
    model.add(Flatten(name="flatten"))
    model.add(Dense(10, name="logits"))
    return classifier(model, digits(seed, largest=16.0), Adam(5e-3), epochs=5, batch_size=64, arrays=True)


class Hardwired(keras.Model):
    """Eight convolutions, whose normalizers may be told that they are never in training."""

    def __init__(self, hardwired, **kwargs):
        super().__init__(**kwargs)
        self.hardwired = hardwired
        self.convs = [Conv2D(8, 3, padding="same", name=f"conv_{i}") for i in range(1, 9)]
        self.norms = [BatchNormalization(momentum=0.9, name=f"norm_{i}") for i in range(1, 9)]
        self.flatten = Flatten(name="flatten")
        self.logits = Dense(10, name="logits")

    def call(self, x, training=False):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = keras.ops.relu(norm(conv(x), training=False if self.hardwired else training))
        return self.logits(self.flatten(x))


# Each of them is called so.
@pair("running statistics never updated", tuple(f"norm_{i}" for i in range(1, 9)), hardwired=True)
def cnn_subclassed(seed, hardwired=False):
    """A subclassed model that calls its normalizers with training=False."""
    data = digits(seed, largest=0.1)
    return classifier(Hardwired(hardwired, name="hardwired"), data, SGD(0.05, momentum=0.9), epochs=4, batch_size=32)


# Each of them divides by more than 30.
@pair("epsilon too large", ("norm_1", "norm_2", "norm_3"), epsilon=1e3)
def cnn_epsilon(seed, epsilon=1e-3):
    """With an epsilon far above the variance, normalization only makes small."""
    model = Sequential([Input((8, 8, 1), name="image")])
    for i in range(1, 4):
        model.add(layers.SeparableConv2D(16, 3, padding="same", use_bias=False, name=f"conv_{i}"))
        model.add(BatchNormalization(momentum=0.9, epsilon=epsilon, name=f"norm_{i}"))
        model.add(Activation("swish", name=f"swish_{i}"))
    model.add(Flatten(name="flatten"))
    model.add(Dense(10, name="logits"))
    return classifier(model, digits(seed), SGD(0.03, momentum=0.9), epochs=4, batch_size=32)


# Both normalize over two examples.
@pair("batch too small", ("norm_1", "norm_2"), normalizer=BatchNormalization)
def cnn_two_examples(seed, normalizer=nrm_keras.layers.AdaptiveNormalization):
    """Of two examples, batch normalization of a dense layer only tells which is the larger; the adaptive layer copes."""
    data = digits(seed)
    data = data._replace(x=data.x[:500], y=data.y[:500])
    model = Sequential(
        [
            Input((8, 8, 1), name="image"),
            Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv"),
            Flatten(name="flatten"),
            Dense(48, name="dense_1"),
            normalizer(momentum=0.9, name="norm_1"),
            Activation("relu", name="relu_1"),
            Dense(48, name="dense_2"),
            normalizer(momentum=0.9, name="norm_2"),
            Activation("relu", name="relu_2"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, data, Adam(3e-3), epochs=1, batch_size=2)


# The layer's output is too large, and so is what the activation behind it passes on.
@pair("initialization too large", ("conv_2", "relu_2"), deviation=20.0)
def cnn_large(seed, deviation=0.15):
    """The second convolution's initial weights."""
    model = Sequential(
        [
            Input((8, 8, 1), name="image"),
            Conv2D(8, 3, kernel_initializer="he_normal", name="conv_1"),
            Activation("relu", name="relu_1"),
            Conv2D(16, 3, kernel_initializer=RandomNormal(stddev=deviation), name="conv_2"),
            Activation("relu", name="relu_2"),
            Conv2D(16, 3, kernel_initializer="he_normal", name="conv_3"),
            Activation("relu", name="relu_3"),
            Flatten(name="flatten"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed), Adam(3e-3), epochs=4, batch_size=32)


# Each of them makes its inputs ten times as small or more.
@pair("initialization too small", ("conv_1", "conv_2", "conv_3"), deviation=1e-3)
def cnn_small(seed, deviation=0.15):
    """Initial weights of all convolutions."""
    model = Sequential([Input((8, 8, 1), name="image")])
    for i in range(1, 4):
        model.add(Conv2D(12, 3, kernel_initializer=RandomNormal(stddev=deviation), name=f"conv_{i}"))
        model.add(Activation("relu", name=f"relu_{i}"))
    model.add(Flatten(name="flatten"))
    model.add(Dense(10, name="logits"))
    return classifier(model, digits(seed), SGD(0.05, momentum=0.9), epochs=5, batch_size=32)


@pair("loss and last activation don't fit", from_logits=False)
def cnn_logits(seed, from_logits=True):
    """The last layer gives logits, which the loss takes as probabilities."""
    model = Sequential(
        [
            Input((8, 8, 1), name="image"),
            Conv2D(8, 3, activation="relu", name="conv_1"),
            Conv2D(8, 3, strides=2, activation="relu", name="conv_2"),
            Flatten(name="flatten"),
            Dense(10, name="logits"),
        ]
    )
    loss = SparseCategoricalCrossentropy(from_logits=from_logits)
    return classifier(model, digits(seed), RMSprop(3e-3), 5, 32, loss, arrays=True)


@pair("inputs not normalized", largest=255.0)
def cnn_pixels(seed, largest=1.0):
    """Pixels from 0 to 255 instead of 1."""
    model = Sequential(
        [
            Input((8, 8, 1), name="image"),
            Conv2D(8, 3, activation="relu", name="conv_1"),
            Conv2D(16, 3, activation="relu", name="conv_2"),
            layers.MaxPooling2D(name="pool"),
            Flatten(name="flatten"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed, largest=largest), SGD(0.05, momentum=0.9), epochs=4, batch_size=32)


@pair("dropout too high", ("dropout",), share=0.97)
def cnn_dropout(seed, share=0.3):
    """Next to nothing gets through."""
    model = Sequential(
        [
            Input((8, 8, 1), name="image"),
            Conv2D(8, 3, activation="relu", name="conv_1"),
            layers.MaxPooling2D(name="pool"),
            Flatten(name="flatten"),
            Dense(32, activation="relu", name="dense"),
            Dropout(share, name="dropout"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed), Adam(3e-3), epochs=5, batch_size=32)


@healthy()
def cnn_residual(seed):
    """Deep and without normalization, but residual, and each branch starts as zero."""
    inputs = Input((8, 8, 1), name="image")
    x = Conv2D(8, 3, strides=2, padding="same", name="stem")(inputs)
    for i in range(1, 6):
        y = Activation("relu", name=f"relu_{i}_1")(x)
        y = Conv2D(8, 3, padding="same", kernel_initializer="he_normal", name=f"conv_{i}_1")(y)
        y = Activation("relu", name=f"relu_{i}_2")(y)
        y = Conv2D(8, 3, padding="same", kernel_initializer="zeros", name=f"conv_{i}_2")(y)
        x = layers.Add(name=f"add_{i}")([x, y])
    x = Flatten(name="flatten")(x)
    model = keras.Model(inputs, Dense(10, name="logits")(x))
    return classifier(model, digits(seed), Adam(5e-3), epochs=4, batch_size=32)


@healthy()
def cnn_groups(seed):
    """Batches of four examples, with group normalization."""
    model = Sequential([Input((8, 8, 1), name="image")])
    for i in range(1, 4):
        model.add(Conv2D(8, 3, padding="same", name=f"conv_{i}"))
        model.add(layers.GroupNormalization(groups=4, name=f"norm_{i}"))
        model.add(Activation("relu", name=f"relu_{i}"))
    model.add(Flatten(name="flatten"))
    model.add(Dense(10, name="logits"))
    data = digits(seed)
    return classifier(model, data._replace(x=data.x[:900], y=data.y[:900]), Adam(3e-3), epochs=1, batch_size=4)


@healthy()
def cnn_slow(seed):
    """A small learning rate at which the loss still goes down steadily."""
    model = Sequential(
        [
            Input((8, 8, 1), name="image"),
            Conv2D(16, 3, activation="relu", kernel_initializer="he_normal", name="conv_1"),
            Conv2D(16, 3, activation="relu", kernel_initializer="he_normal", name="conv_2"),
            Flatten(name="flatten"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed), Adam(4e-4), epochs=5, batch_size=32)
