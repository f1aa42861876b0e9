"""How an exported model is asked, and how it answers: the named inputs and outputs of its signatures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from nrm_keras.errors import UserError

SCORES, LABELS, VALUES, FEATURES = "scores", "labels", "values", "features"
IMAGE, TEXT, INPUTS = "image", "text", "inputs"
IMAGE_CHANNELS = (1, 3, 4)
_MOST_CLASSES = 256  # of a mask, whose positions are bytes


@dataclass(frozen=True)
class Interface:
    """The inputs that clients send, and the outputs they get.

    Args:
        task: classification, segmentation or regression.
        names: the classes or targets, in the order of the model's outputs.
        specs: for each input its shape, with the batch in front, and its dtype.
        size: of images, height and width that the model takes; None where it takes any, or takes no images.
        rounds: whether resized images are rounded to whole numbers, as those that the model was trained on.
        probabilities: whether the model itself answers with probabilities, and not with logits.
        keyed: whether the model takes a dictionary of inputs.
    """

    task: str
    names: tuple[str, ...]
    specs: Mapping[str, tuple[tuple[int | None, ...], str]]
    size: tuple[int, int] | None = None
    rounds: bool = True
    probabilities: bool = False
    keyed: bool = False

    @classmethod
    def of(cls, model: keras.Model, task: str, names, image: bool, rounds: bool = True, probabilities: bool = False):
        """The interface of a model.

        Args:
            image: whether its input is an image of bytes.

        Raises:
            UserError: inputs without names, or outputs that don't fit the names.
        """
        _check_outputs(model, task, names)
        taken = model.input
        if isinstance(taken, list | tuple) and len(taken) != 1:
            raise UserError(
                f"An exported model has one input, or inputs with names. Received: a list of {len(taken)} inputs."
                ' Build it with keras.Model({"name": input, ...}, outputs).'
            )
        if isinstance(taken, dict):
            specs = {name: (tuple(x.shape), x.dtype) for name, x in taken.items()}
            return cls(task, tuple(names), specs, probabilities=probabilities, keyed=True)
        (one,) = model.inputs
        shape = tuple(one.shape)
        if one.dtype == "string":
            return cls(task, tuple(names), {TEXT: (shape, "string")}, probabilities=probabilities)
        if not image:
            return cls(task, tuple(names), {INPUTS: (shape, one.dtype)}, probabilities=probabilities)
        size = None if None in shape[1:3] else shape[1:3]
        specs = {IMAGE: ((None, None, None, shape[3]), "uint8")}
        return cls(task, tuple(names), specs, size, rounds, probabilities)

    @property
    def signature(self) -> list[tf.TensorSpec]:
        """The inputs as TensorFlow names them."""
        return [tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in self.specs.items()]

    @property
    def answer_name(self) -> str:
        """The output that metrics look at."""
        return VALUES if self.task == "regression" else SCORES

    def prepare(self, *values):
        """What the model takes, made of the inputs' tensors in the order of `specs`."""
        if IMAGE in self.specs:
            return resized(values[0], self.size, self.rounds)
        return dict(zip(self.specs, values, strict=True)) if self.keyed else values[0]

    def answers(self, outputs) -> dict[str, Any]:
        """The outputs by name, of the model's own outputs."""
        outputs = ops.cast(outputs, "float32")
        if self.task == "regression":
            return {VALUES: outputs}
        scores = outputs if self.probabilities else ops.softmax(outputs)
        best = tf.argmax(scores, -1)
        if self.task == "segmentation":
            return {SCORES: scores, LABELS: tf.cast(best, "uint8")}
        return {SCORES: scores, LABELS: tf.gather(tf.constant(self.names), best)}

    def portable(self, model: keras.Model) -> keras.Model:
        """The model from an input of fixed size to `scores` or `values`, without strings and resizing."""
        inputs = {
            name: keras.Input(((*self.size, shape[3]) if self.size else shape[1:]), dtype=dtype, name=name)
            for name, (shape, dtype) in self.specs.items()
        }
        taken = [ops.cast(x, "float32") if name == IMAGE else x for name, x in inputs.items()]
        outputs = model(dict(zip(inputs, taken, strict=True)) if self.keyed else taken[0])
        outputs = ops.cast(outputs, "float32")
        if self.task != "regression" and not self.probabilities:
            outputs = ops.softmax(outputs)
        taken = inputs if len(inputs) > 1 else next(iter(inputs.values()))
        return keras.Model(taken, {self.answer_name: outputs}, name=model.name)


def resized(images, size: tuple[int, int] | None, rounds: bool = True):
    """Images of bytes `(batch, height, width, channels)` of any size as float32 images of the size that the model takes.

    As where pictures are read for training: bilinear, and antialiased where they shrink. Images of that size stay as they
    are.
    """
    if size is None:
        return tf.cast(images, "float32")

    def resize():
        new = tf.image.resize(images, size, antialias=True)
        return tf.clip_by_value(tf.round(new), 0.0, 255.0) if rounds else new

    fits = tf.reduce_all(tf.shape(images)[1:3] == tf.constant(size))
    return tf.ensure_shape(tf.cond(fits, lambda: tf.cast(images, "float32"), resize), (None, *size, images.shape[3]))


def is_image(shape: tuple[int | None, ...], dtype) -> bool:
    """Whether examples of this shape and dtype are images of bytes."""
    return len(shape) == 3 and shape[-1] in IMAGE_CHANNELS and np.dtype(dtype) == np.uint8


def _check_outputs(model: keras.Model, task: str, names) -> None:
    if len(model.outputs) != 1:
        raise UserError(
            f"An exported model has one output. Received: {len(model.outputs)}. Export a keras.Model with one of them."
        )
    shape = tuple(model.outputs[0].shape)
    if task == "segmentation" and len(names) > _MOST_CLASSES:
        raise UserError(f"An exported mask has at most {_MOST_CLASSES} classes. Received: {len(names)}.")
    if task != "regression" and shape[-1] == 1:
        raise UserError(
            "A model that classifies has an output for each class. Received: one output, which is the probability of one class."
            " Export it without classes, as a model that predicts this number."
        )
    if shape[-1] != len(names):
        what = "targets" if task == "regression" else "classes"
        raise UserError(
            f"{what}: there is one name for each of the model's outputs. Received: {len(names)} names, outputs {shape}."
        )
