"""What a cell leaves behind in its process."""

import gc
import weakref

import keras
import tensorflow as tf

from nrm_keras.layers import AdaptiveNormalization
from nrm_keras.studies import worker


def test_the_graph_of_a_cell_before_is_forgotten():
    # TensorFlow keeps custom gradients registered, which keep the graph: about 20 MB a cell
    layer = AdaptiveNormalization()
    layer.build((4, 3))

    def gradient(x):
        with tf.GradientTape() as tape:
            loss = keras.ops.sum(layer(x, training=True) ** 3)
        return tape.gradient(loss, layer.trainable_variables)

    graph = weakref.ref(tf.function(gradient, autograph=False).get_concrete_function(tf.TensorSpec((4, 3))).graph)
    gc.collect()
    assert graph() is not None
    worker._forget_cells_before()
    assert graph() is None
