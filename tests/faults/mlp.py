"""Multilayer perceptrons."""

import functools

import keras
from keras import Sequential
from keras.initializers import Constant
from keras.layers import Activation, BatchNormalization, Dense, Dropout, Input
from keras.optimizers import SGD, Adam, AdamW, RMSprop
from keras.regularizers import L2

import nrm_keras
from tests.faults import corpus
from tests.faults.corpus import classifier, detector, regressor
from tests.faults.data import cancer, diabetes, digits, wine

healthy, pair = functools.partial(corpus.healthy, "mlp"), functools.partial(corpus.pair, "mlp")


@pair("missing normalization", normalized=False)
def mlp_deep(seed, normalized=True):
    """12 hidden layers with Keras' default initializer, which is too small for ReLU: normalization makes up for it."""
    model = Sequential([Input((64,), name="pixels")])
    for i in range(1, 13):
        model.add(Dense(32, name=f"dense_{i}"))
        if normalized:
            model.add(BatchNormalization(momentum=0.9, name=f"norm_{i}"))
        model.add(Activation("relu", name=f"relu_{i}"))
    model.add(Dense(10, name="logits"))
    return classifier(model, digits(seed, (64,)), SGD(0.05, momentum=0.9), epochs=5, batch_size=32)


@pair("inputs not normalized", standardized=False)
def mlp_wine(seed, standardized=True):
    """Raw measurements go up to 1,680."""
    data = wine(seed).standardized() if standardized else wine(seed)
    model = Sequential(
        [
            Input((13,), name="measurements"),
            Dense(32, activation="relu", name="dense_1"),
            Dense(16, activation="relu", name="dense_2"),
            Dense(3, name="logits"),
        ]
    )
    return classifier(model, data, SGD(0.05), epochs=15, batch_size=16, arrays=True)


@pair("one input of huge scale", factor=1000.0)
def mlp_cancer(seed, factor=1.0):
    """One of the 30 standardized features is given in another unit."""

    def change_unit(x):
        x = x.copy()
        x[:, 4] *= factor
        return x

    model = Sequential(
        [
            Input((30,), name="measurements"),
            Dense(16, activation="tanh", name="dense_1"),
            Dense(16, activation="tanh", name="dense_2"),
            Dense(1, activation="sigmoid", name="probability"),
        ]
    )
    return detector(model, cancer(seed).standardized().map_x(change_unit), SGD(0.05, momentum=0.9), 6, 16)


@pair("learning rate too high", rate=3.0)
def mlp_adam(seed, rate=3e-3):
    """A plain net of two hidden layers."""
    model = Sequential(
        [
            Input((64,), name="pixels"),
            Dense(64, activation="relu", name="dense_1"),
            Dropout(0.3, name="dropout"),
            Dense(32, activation="relu", name="dense_2"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed, (64,)), Adam(rate), epochs=5, batch_size=48, arrays=True)


# A layer of zeros gives zeros, on which ReLU has no slope: it shows at both.
@pair("zero initialization", ("dense_2", "relu_2"), initializer="zeros")
def mlp_zeros(seed, initializer="he_normal"):
    """The second of three hidden layers starts as zeros."""
    model = Sequential(
        [
            Input((64,), name="pixels"),
            Dense(48, kernel_initializer="he_normal", name="dense_1"),
            Activation("relu", name="relu_1"),
            Dense(48, kernel_initializer=initializer, name="dense_2"),
            Activation("relu", name="relu_2"),
            Dense(48, kernel_initializer="he_normal", name="dense_3"),
            Activation("relu", name="relu_3"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed, (64,)).standardized(), Adam(1e-3), epochs=5, batch_size=32)


# The bias is of the one, the dead units are of the other.
@pair("dead ReLU", ("dense_2", "relu_2"), bias=-20.0)
def mlp_bias(seed, bias=0.0):
    """Units that are never above 0 get no gradient."""
    model = Sequential(
        [
            Input((30,), name="measurements"),
            Dense(32, kernel_initializer="he_normal", name="dense_1"),
            Activation("relu", name="relu_1"),
            Dense(32, kernel_initializer="he_normal", bias_initializer=Constant(bias), name="dense_2"),
            Activation("relu", name="relu_2"),
            Dense(1, activation="sigmoid", name="probability"),
        ]
    )
    return detector(model, cancer(seed).standardized(), RMSprop(1e-3), epochs=8, batch_size=16)


# Outputs of each hidden layer hardly differ between examples, and gradients vanish layer by layer: any of them is right.
@pair("vanishing sigmoids", tuple(f"dense_{i}" for i in range(1, 8)), activation="sigmoid")
def mlp_activation(seed, activation="elu"):
    """Seven hidden layers; a sigmoid's slope is 1/4 at most."""
    model = Sequential([Input((64,), name="pixels")])
    for i in range(1, 8):
        model.add(Dense(40, activation=activation, kernel_initializer="lecun_normal", name=f"dense_{i}"))
    model.add(Dense(10, name="logits"))
    return classifier(model, digits(seed, (64,)).standardized(), SGD(0.02, momentum=0.9), epochs=4, batch_size=32)


class Regression(keras.Model):
    """Two hidden layers and the last one's activation."""

    def __init__(self, last, **kwargs):
        super().__init__(**kwargs)
        self.dense_1 = Dense(24, activation="swish", name="dense_1")
        self.dense_2 = Dense(12, activation="swish", name="dense_2")
        self.prediction = Dense(1, activation=last, name="prediction")

    def call(self, x):
        return self.prediction(self.dense_2(self.dense_1(x)))


@pair("loss and last activation don't fit", ("prediction",), last="relu")
def mlp_regression(seed, last=None):
    """Most targets lie below 0, out of ReLU's reach."""
    return regressor(Regression(last, name="regression"), diabetes(seed, mean=-1.0), Adam(5e-3), 6, 16, arrays=True)


@pair("loss and last activation don't fit", ("probability",), last="softmax")
def mlp_one_unit(seed, last="sigmoid"):
    """Softmax over a single unit is always 1."""
    model = Sequential(
        [
            Input((30,), name="measurements"),
            Dense(24, activation="relu", name="dense_1"),
            nrm_keras.layers.AdaptiveNormalization(momentum=0.9, name="norm"),
            Dense(12, activation="relu", name="dense_2"),
            Dense(1, activation=last, name="probability"),
        ]
    )
    return detector(model, cancer(seed).standardized(), Adam(2e-3), epochs=8, batch_size=24)


@pair("frozen layer", ("bottleneck",), trainable=False)
def mlp_bottleneck(seed, trainable=True):
    """All goes through five units, which stay random if frozen."""
    model = Sequential(
        [
            Input((64,), name="pixels"),
            Dense(5, activation="tanh", trainable=trainable, name="bottleneck"),
            Dense(32, activation="relu", name="dense_1"),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed, (64,)).standardized(), Adam(1e-2), epochs=5, batch_size=32)


@pair("labels shuffled", shuffled=True)
def mlp_labels(seed, shuffled=False):
    """Labels that belong to other examples."""
    data = wine(seed).standardized()
    model = Sequential(
        [
            Input((13,), name="measurements"),
            Dense(16, activation="relu", name="dense_1"),
            Dense(16, activation="relu", name="dense_2"),
            Dense(3, name="logits"),
        ]
    )
    return classifier(model, data.with_shuffled_labels(seed) if shuffled else data, Adam(5e-3), 14, 16)


@pair("regularization too strong", ("dense_2",), strength=10.0)
def mlp_regularizer(seed, strength=1e-4):
    """The penalty outweighs the loss and takes the layer's weights to 0."""
    model = Sequential(
        [
            Input((64,), name="pixels"),
            Dense(64, activation="relu", kernel_regularizer=L2(1e-4), name="dense_1"),
            Dense(32, activation="relu", kernel_regularizer=L2(strength), name="dense_2"),
            Dense(10, kernel_regularizer=L2(1e-4), name="logits"),
        ]
    )
    return classifier(model, digits(seed, (64,)), Adam(2e-3), epochs=5, batch_size=32, arrays=True)


@pair("weight decay too strong", decay=20.0)
def mlp_decay(seed, decay=5e-3):
    """Keras takes rate * decay of every weight away in each step."""
    model = Sequential(
        [
            Input((30,), name="measurements"),
            Dense(16, activation="relu", name="dense_1"),
            Dense(8, activation="relu", name="dense_2"),
            Dense(1, activation="sigmoid", name="probability"),
        ]
    )
    return detector(model, cancer(seed).standardized(), AdamW(5e-3, weight_decay=decay), epochs=6, batch_size=16)


# All layers lack it; the last is where a bias would have done.
@pair("no bias", ("prediction", "dense_1", "dense_2"), biased=False)
def mlp_offset(seed, biased=True):
    """Targets lie 2 standard deviations above 0; without a bias the net is an odd function, 0 on average."""
    model = Sequential(
        [
            Input((10,), name="measurements"),
            Dense(16, activation="tanh", use_bias=biased, name="dense_1"),
            Dense(8, activation="tanh", use_bias=biased, name="dense_2"),
            Dense(1, use_bias=biased, name="prediction"),
        ]
    )
    return regressor(model, diabetes(seed, mean=2.0), SGD(0.01, momentum=0.9), epochs=6, batch_size=16)


@healthy()
def mlp_transfer(seed):
    """A frozen layer that has learned before, to tell digits below 5 from the others."""
    features = Sequential([Input((64,), name="pixels"), Dense(64, activation="relu", name="features")], name="first")
    data = digits(seed, (64,))
    before = Sequential([features, Dense(1, activation="sigmoid", name="below_5")], name="before")
    before.compile(optimizer=Adam(5e-3), loss="binary_crossentropy")
    before.fit(data.x, (data.y[:, None] < 5).astype("float32"), epochs=3, batch_size=64, verbose=0)
    features.trainable = False
    model = Sequential([features, Dense(32, activation="relu", name="dense"), Dense(10, name="logits")], name="after")
    return classifier(model, data, Adam(5e-3), epochs=5, batch_size=32)


@healthy()
def mlp_sparse(seed):
    """Few units are active at a time, yet none is dead: biases start well below 0."""
    model = Sequential(
        [
            Input((64,), name="pixels"),
            Dense(
                96, activation="relu", bias_initializer=Constant(-0.7), kernel_initializer="he_normal", name="dense_1"
            ),
            Dense(
                96, activation="relu", bias_initializer=Constant(-0.3), kernel_initializer="he_normal", name="dense_2"
            ),
            Dense(10, name="logits"),
        ]
    )
    return classifier(model, digits(seed, (64,)).standardized(), Adam(2e-3), epochs=4, batch_size=32)
