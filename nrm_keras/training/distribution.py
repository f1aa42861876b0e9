"""Devices: how many replicas, how their batches reach them, and the precision that makes sense."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import keras
import tensorflow as tf

from nrm_keras.errors import UserError


def make_strategy(train) -> tf.distribute.Strategy | None:
    """The strategy of a recipe's `train` section; None for one device.

    Raises:
        UserError: more replicas than there are devices.
    """
    if train.strategy == "none":
        return None
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if kind == "CPU" and train.replicas:
        _split_cpu(train.replicas)
    devices = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)]
    wanted = train.replicas or len(devices)
    if wanted > len(devices):
        raise UserError(
            f"train.replicas can't exceed the devices here. Received: {wanted}; here: {', '.join(devices)}."
        )
    return tf.distribute.MirroredStrategy(devices[:wanted])


def _split_cpu(count: int) -> None:
    """Makes the CPU look like several devices, which TensorFlow allows only before it has used it."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    configured = tf.config.get_logical_device_configuration(cpu)
    if configured and len(configured) >= count:
        return
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:
        raise UserError(
            f"train.replicas={count} on CPU must be set up before TensorFlow is used. Received: it has been used in this "
            "process. Start the run in a process of its own."
        ) from error


def scope(strategy: tf.distribute.Strategy | None):
    return strategy.scope() if strategy else contextlib.nullcontext()


class LazyDataset(tf.data.Dataset):
    """A dataset that is asked for anew whenever it is read: by `fit` at each epoch.

    Only what reads it in Python may be given it, such as `fit`: transformations see the first reading.

    Args:
        dataset: gives the batches of one reading; None where nothing will be read: `fit` also asks at the end of an epoch.
        template: a dataset with the same elements and the cardinality of a full epoch.
    """

    def __init__(self, dataset: Callable[[], tf.data.Dataset | None], template: tf.data.Dataset):
        self._dataset = dataset
        self._template = template
        super().__init__(template._variant_tensor)

    def __iter__(self):
        dataset = self._dataset()
        return iter(()) if dataset is None else self._read(dataset)

    def _read(self, dataset: tf.data.Dataset):
        return iter(dataset)

    def _inputs(self):
        return [self._template]

    @property
    def element_spec(self):
        return self._template.element_spec


class PerReplica(LazyDataset, tf.distribute.DistributedDataset):
    """The same for a strategy: consecutive elements go to the replicas in turn, so a step takes one for each.

    It is both kinds of dataset because `fit` looks for the one, and leaves the other to its iterator.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, dataset: Callable[[], tf.data.Dataset], template: tf.data.Dataset
    ):
        self._strategy = strategy
        super().__init__(dataset, template)

    def _read(self, dataset: tf.data.Dataset):
        return iter(self._strategy.distribute_datasets_from_function(lambda context: dataset))

    def cardinality(self):
        return super().cardinality() // self._strategy.num_replicas_in_sync


class EvenlyCounted(keras.losses.Loss):
    """A loss in whose gradient every example of a batch counts the same, however the replicas share the batch.

    Keras averages over each replica and then over the replicas, so an example of the smaller share would count more. With
    `n` examples on this replica of `R` and `N` on all, the gradient is scaled by `n R / N`. The value stays as it is: Keras
    weighs it by `n` when it reports the mean of an epoch.

    Args:
        loss: a loss that gives one value per example.
    """

    def __init__(self, loss: keras.losses.Loss):
        super().__init__(name=loss.name)
        self._loss = loss
        self.from_logits = getattr(loss, "from_logits", False)

    def call(self, y_true, y_pred):
        values = self._loss.call(y_true, y_pred)
        replica = tf.distribute.get_replica_context()
        if replica is None:  # only shapes are asked for, before fit
            return values
        here = tf.cast(tf.shape(values)[0], values.dtype)
        share = here * replica.num_replicas_in_sync / replica.all_reduce("sum", here)
        return values + (share - 1) * (values - tf.stop_gradient(values))


def build_before_fit(model: keras.Model, batch) -> None:
    """Makes the variables of optimizer and metrics, which `fit` would make in its first step.

    A step that makes variables is traced twice, and tracing takes seconds. Under a strategy `fit` would use the mean of
    the replicas' first batches, and fail where they differ in size: at a ragged last batch, and for a small split.
    """
    model.optimizer.build(model.trainable_variables)
    if model.distribute_strategy.num_replicas_in_sync > 1:
        model._symbolic_build(data_batch=batch)
        model._maybe_symbolic_build = lambda iterator=None, data_batch=None: None
    else:
        y, outputs = batch[1], tf.zeros([len(batch[1]), *model.output_shape[1:]])
        model.compute_loss(y=y, y_pred=outputs)
        model.compute_metrics(None, y, outputs)
    model.reset_metrics()


@contextlib.contextmanager
def precision(name: str):
    """Layers made inside get this dtype policy; the process keeps the one it had."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def resolve_precision(name: str) -> str:
    """What `auto` means here: mixed precision on GPUs that are faster with it, float32 elsewhere."""
    if name != "auto":
        return name
    gpus = tf.config.list_physical_devices("GPU")
    capabilities = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]
    if not capabilities or min(capabilities) < (7, 0):
        return "float32"
    return "mixed_bfloat16" if min(capabilities) >= (8, 0) else "mixed_float16"
