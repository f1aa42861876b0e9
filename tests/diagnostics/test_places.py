"""Which layers are watched, and by what names."""

import keras
import pytest
from keras import layers

from nrm_keras import layers as ours
from nrm_keras.diagnostics.places import Places


class Twice(keras.Model):
    """Has its layers by several ways, as models with an encoder of their own do."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="dense")], name="encoder")
        x = keras.Input((3,))
        self.whole = keras.Model(x, layers.Dense(3, name="decoder")(self.encoder(x)), name="whole")
        self.one, self.other = layers.Dense(1, name="same"), layers.Dense(1, name="same")

    def call(self, x):
        return self.other(self.one(self.whole(x)))


def names(model, wanted=None):
    places = Places(model, wanted)
    return [places.name(layer) for layer in places.candidates if not isinstance(layer, layers.InputLayer)]


def test_layers_inside_of_others():
    block = [layers.Dense(4, name="dense"), ours.BatchNormalization(name="normalizer"), layers.ReLU(name="relu")]
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            keras.Sequential(block, name="block"),
            layers.Bidirectional(layers.LSTM(2, return_sequences=True, name="lstm"), name="both"),
            layers.TimeDistributed(layers.Dense(2, name="inside"), name="each"),
            layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)], name="stack"),
            layers.Dense(1, name="dense"),
        ]
    )
    # loops are watched from outside; a name that is there twice becomes a path
    assert names(model) == [
        "block/dense",
        "normalizer",
        "relu",
        "both/forward_lstm",
        "both/backward_lstm",
        "each",
        "stack",
        "dense",
    ]


def test_each_layer_once_with_a_name_of_its_own():
    """Regression: a layer reachable by two ways was listened to twice."""
    model = Twice()
    found = names(model)
    assert len(found) == len(set(found)) == 4
    assert {"decoder", "dense", "same", "same:2"} == set(found)


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ("dense", ["dense"]),
        ("d*", ["dense", "decoder"]),
        (layers.Dense, ["dense", "decoder", "same", "same:2"]),
        (["decoder", "same:2"], ["decoder", "same:2"]),
    ],
)
def test_wishes(wish, expected):
    places = Places(Twice(), wish)
    chosen = [places.name(layer) for layer in places.candidates if id(layer) in places._chosen]
    assert sorted(chosen) == sorted(expected)


def test_error_names_what_there_is():
    with pytest.raises(ValueError, match="'nowhere', which matches none.*decoder"):
        Places(Twice(), ["nowhere"])
