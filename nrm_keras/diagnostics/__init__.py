"""Diagnostics of any Keras model on TensorFlow."""
