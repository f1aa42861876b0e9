"""One recipe, one training: `train` reads top to bottom."""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from nrm_keras import registry
from nrm_keras.diagnostics.callback import InternalStatistics
from nrm_keras.diagnostics.records import forget_after
from nrm_keras.runs import directory as run_directory
from nrm_keras.runs.metrics import read_metrics, smaller_is_better
from nrm_keras.surgery import recalibrate
from nrm_keras.training import baseline, distribution, evaluation
from nrm_keras.training.assembly import (
    SPLITS,
    build_model,
    compile_model,
    evaluation_data,
    from_raw,
    load_examples,
    prepared,
    shrink,
    training_batches,
)
from nrm_keras.training.initialize import initialize_from
from nrm_keras.training.interrupt import stop_on_signal
from nrm_keras.training.progress import MetricsLog, ProgressLog
from nrm_keras.training.resume import ExactResume
from nrm_keras.training.saved import save_model

BEST = f"{run_directory.CHECKPOINTS}/best.weights.h5"


def train(
    recipe, path: Path, say: Callable[[str], None] = print, smoke: bool = False, changed: Collection[str] = ()
) -> dict:
    """Trains a recipe in its run directory, going on from its checkpoint where there is one.

    Args:
        recipe: a `Recipe`.
        path: the run directory.
        say: prints one line.
        smoke: see `shrink`.
        changed: dotted paths of what differs from the recipe that the checkpoint was written with.

    Returns:
        The summary, as in `summary.json` but for what only the run directory knows.

    Raises:
        UserError: data, devices or weights are not what the recipe needs.
        KeyboardInterrupt: stopped by the user; the checkpoint is written.
    """
    began = time.monotonic()
    recipe = shrink(recipe) if smoke else recipe
    strategy = _set_up(recipe)
    replicas = strategy.num_replicas_in_sync if strategy else 1

    examples = load_examples(recipe, path, smoke, say)
    batches = training_batches(recipe, examples, replicas)
    validation = evaluation_data(recipe, examples, "validation", strategy)
    model = build_model(recipe, examples, batches, strategy)
    say(
        f"Model: {model.name}, {model.count_params():,} parameters, {recipe.norm.type} normalization, {_precision(model)}."
    )
    fitted = _fit(recipe, path, model, batches, validation, strategy, changed, say)
    best, history = fitted.best_epoch, fitted.history.history
    steps = int(keras.ops.convert_to_numpy(model.optimizer.iterations))

    if best is not None:
        model.load_weights(path / BEST)
    test = evaluation_data(recipe, examples, "test", strategy)
    scores = _scores(recipe, model, {"validation": validation, "test": test}, say)
    if strategy:  # what is saved needs no strategy
        compile_model(model, recipe, examples, model.optimizer)
    save_model(from_raw(model, recipe, examples), path / run_directory.MODEL)
    evaluation.write(path, model, examples, recipe.data.held_out_batch_size)
    return {
        "status": _status(recipe, fitted.history, say),
        "seed": recipe.train.seed,
        "smoke": smoke,
        "precision": _precision(model),
        "replicas": replicas,
        "epochs": len(fitted.history.epoch),
        "steps": steps,
        "keep": recipe.train.keep,
        "monitor": recipe.train.monitor,
        "best_epoch": None if best is None else best + 1,
        "metrics": {"train": _training_scores(history, -1 if best is None else best), **scores},
        "parameters": model.count_params(),
        "examples": {split: len(getattr(examples, split)) for split in SPLITS},
        "classes": list(examples.classes),
        "targets": list(examples.targets),
        "notes": list(examples.notes),
        "caveat": examples.caveat,
        "seconds": round(fitted.seconds_before + time.monotonic() - began, 1),
        "baseline": None if smoke else baseline.measure(recipe, examples, say),
    }


def _set_up(recipe) -> tf.distribute.Strategy | None:
    """Seeds and settings of the process; the strategy for its devices, if there is one."""
    keras.utils.set_random_seed(recipe.train.seed)
    if recipe.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    # with diagnostics TensorFlow would add up in another order where a sum is looked at, and a resumed run could not repeat
    # the bits; set either way, as it stays for what this process trains next
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": recipe.diagnostics is None})
    return distribution.make_strategy(recipe.train)


@dataclass(frozen=True)
class Fitted:
    """What `fit` did: its history, the epoch with the best weights (None: the last counts), and the seconds that epochs
    took in earlier processes of the run."""

    history: keras.callbacks.History
    best_epoch: int | None
    seconds_before: float


def _fit(recipe, path: Path, model: keras.Model, batches, validation, strategy, changed, say) -> Fitted:
    """Trains the model to the recipe's last epoch, from the checkpoint in the run directory where there is one."""
    keep_best = recipe.train.keep == "best" and validation is not None
    metrics_log = MetricsLog(path / run_directory.METRICS)
    progress = ProgressLog(say, recipe.train.epochs, batches.steps_per_epoch)
    best_weights = BestWeights(path / BEST, recipe.train.monitor)
    callbacks = [*recipe_callbacks(recipe), *([best_weights] if keep_best else [])]
    resume = ExactResume(
        path / run_directory.CHECKPOINTS,
        recipe.train.checkpoint_every,
        dataset_at=batches,
        callbacks=callbacks,
        say=say,
        strategy=strategy,
    )
    seconds_before = 0.0
    if changed:
        resume.train_on()
    if resume.resuming:
        say(f"Resuming at epoch {resume.epoch + 1}, step {resume.step + 1}.")
        metrics_log.forget_from(resume.epoch)
        seconds_before = sum(read_metrics(path).get("seconds", []))
        for file in (run_directory.STATISTICS, run_directory.ALERTS):
            forget_after(path / file, resume.epoch * batches.steps_per_epoch + resume.step)
        progress.first_step = resume.step
    elif recipe.train.init_from:
        initialize_from(model, recipe.train.init_from, say)

    with stop_on_signal(resume.request_stop, say), progress:
        history = model.fit(
            resume.dataset,
            validation_data=validation,
            epochs=recipe.train.epochs,
            initial_epoch=resume.initial_epoch,
            callbacks=[
                metrics_log,
                progress,
                *_tensorboard(path),
                *_diagnostics(recipe, path, say),
                *resume.callbacks,
                *_changed_learning_rate(recipe, model, changed),
            ],
            shuffle=False,  # the batches come in the order they are meant to
            verbose=0,
        )
    return Fitted(history, best_weights.best_epoch if keep_best else None, seconds_before)


def check(recipe) -> None:
    """Loads the recipe's data, builds its model and runs one step of it.

    Raises:
        UserError: one of them is not in order.
    """
    recipe = shrink(recipe).model_copy(update={"model": recipe.model})
    keras.utils.set_random_seed(recipe.train.seed)
    examples = prepared(recipe, limit=recipe.data.batch_size)
    batches = training_batches(recipe, examples)
    build_model(recipe, examples, batches).train_on_batch(*next(iter(batches(0))))


def _scores(recipe, model: keras.Model, held_out: dict, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Loss and metrics on validation and test; in between the running statistics move to the test split if asked."""
    scores = {}
    for split, data in held_out.items():
        if data is None:
            continue
        if split == "test" and recipe.train.recalibrate == "test":
            report = recalibrate(model, data.map(lambda x, *rest: x), evaluate=False, verbose=0)
            say(f"Recalibrated: {report}")
        scores[split] = model.evaluate(data, return_dict=True, verbose=0)
    return scores


def recipe_callbacks(recipe) -> list[keras.callbacks.Callback]:
    """The callbacks that the recipe lists."""
    return [
        (_CALLBACKS.get(section.type) or registry.get("callback", section.type))(**section.model_dump(exclude={"type"}))
        for section in recipe.callbacks
    ]


def _diagnostics(recipe, path: Path, say: Callable[[str], None]) -> list[keras.callbacks.Callback]:
    """What watches the inside of the model, where the recipe asks for it."""
    if recipe.diagnostics is None:
        return []
    settings = recipe.diagnostics.model_dump(exclude_none=True, exclude_defaults=True)
    files = {"path": path / run_directory.STATISTICS, "tensorboard": path / "tensorboard" / "diagnostics"}
    return [InternalStatistics(**files, say=say, **settings)]


def _tensorboard(path: Path) -> list[keras.callbacks.Callback]:
    """TensorBoard's callback where it is installed."""
    if not importlib.util.find_spec("tensorboard"):
        return []
    return [keras.callbacks.TensorBoard(path / "tensorboard", write_graph=False)]


class BestWeights(keras.callbacks.ModelCheckpoint):
    """Keeps the weights of the first of the epochs with the best value of `monitor`, and remembers which it was."""

    def __init__(self, path: Path, monitor: str):
        mode = "min" if smaller_is_better(monitor) else "max"
        super().__init__(path, monitor=monitor, mode=mode, save_best_only=True, save_weights_only=True)
        self.best_epoch: int | None = None

    def on_epoch_end(self, epoch, logs=None):
        before = self.best
        super().on_epoch_end(epoch, logs)
        if self.best != before:
            self.best_epoch = epoch


def _changed_learning_rate(recipe, model: keras.Model, changed: Collection[str]) -> list[keras.callbacks.Callback]:
    """Puts an accepted learning rate in the place of the one that the checkpoint brings as a variable."""
    rate = recipe.optimizer.learning_rate
    if "optimizer.learning_rate" not in changed or not isinstance(model.optimizer._learning_rate, keras.Variable):
        return []
    return [keras.callbacks.LambdaCallback(on_train_begin=lambda logs: setattr(model.optimizer, "learning_rate", rate))]


def _status(recipe, history: keras.callbacks.History, say: Callable[[str], None]) -> str:
    if not math.isfinite(history.history["loss"][-1]):
        say(
            "Note: the training loss is not finite, so it diverged. Lower optimizer.learning_rate or set train.clip_norm."
        )
        return "diverged"
    return "finished" if len(history.epoch) >= recipe.train.epochs else "stopped early"


_CALLBACKS = {
    "early_stopping": keras.callbacks.EarlyStopping,
    "reduce_lr_on_plateau": keras.callbacks.ReduceLROnPlateau,
    "terminate_on_nan": keras.callbacks.TerminateOnNaN,
}


def _training_scores(history: dict[str, list[float]], epoch: int) -> dict[str, float]:
    return {
        name: values[epoch]
        for name, values in history.items()
        if not name.startswith("val_") and name != "learning_rate"
    }


def _precision(model: keras.Model) -> str:
    return model.dtype_policy.name
