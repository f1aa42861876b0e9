"""The check before an exported model appears: a fresh process answers as the Keras model did, at every batch size."""

from __future__ import annotations

import collections
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nrm_keras.errors import UserError
from nrm_keras.serving.exporting import answering, heads
from nrm_keras.serving.exporting.interface import FEATURES, LABELS, SCORES
from nrm_keras.serving.exporting.saved_model import MONITOR, SERVING
from nrm_keras.serving.exporting.subject import CHECKED, Subject
from nrm_keras.serving.specialize import granted

BATCHES = (1, 3, 64)
_LARGEST = max(BATCHES)
_ERROR = re.compile(r"[\w.]+: ")  # as Python begins the last lines of a traceback
_LONGEST_REASON = 400
_LOGITS = "logits"
_SCORES_PER_LOGIT = 0.5  # softmax changes by at most half of what its largest logit changes by
_ALL, _REVERSED, _EXAMPLE, _ORIGINAL = "all", "reversed", "example", "original"
_METRIC_TOLERANCE = 1e-3
_BATCH_TOLERANCE = 1e-5  # for each size of a batch, libraries may add up in another order: 6e-7 in U-Nets
_MONITORED = "score"  # the logarithm of a distance in units of its spread: near 0 where nothing has drifted
_ABSOLUTE = (SCORES, "p_value", _MONITORED)
_MONITOR_TOLERANCE = 1e-2

Answers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Checked:
    """What the check found.

    Args:
        examples: how many it asked for.
        differences: for each output the largest difference from the Keras model's, relative to the largest output but for
            scores and p-values.
        tolerances: for each output the largest difference that was allowed.
        batch_dependence: the largest difference of one example's answer between batch sizes and orders, relative to the
            largest output; of scores to half of the largest logit, by whose rounding they move, if that is above 1.
        metrics: for each metric the Keras model's value and the exported model's.
        example: the exported model's answer to `Subject.example`, by output.
    """

    examples: int
    differences: Mapping[str, float]
    tolerances: Mapping[str, float]
    batch_dependence: float
    metrics: Mapping[str, tuple[float, float]]
    example: Answers


def check(subject: Subject, exported: Path, runtime: str, signatures, tolerance: float, monitor=None) -> Checked:
    """Compares an exported model, in a fresh process, with the Keras model.

    Args:
        exported: the SavedModel's folder, or the file of another runtime.
        runtime: which of `answering.RUNTIMES` answers.
        signatures: which signatures it has.
        tolerance: of outputs.
        monitor: the drift monitor that is exported, as it is in this process.

    Raises:
        UserError: the model can't be loaded there, or answers otherwise, or an answer depends on the batch that it is in.
    """
    given = _in_fresh_process(runtime, exported, *_requests(subject, signatures))
    expected = _expected(subject)
    first = {name: _rows(values, CHECKED) for name, values in expected.items()}
    differences: dict[str, float] = {}

    _require_finite(expected)
    allowed = collections.defaultdict(lambda: tolerance)
    moved = max(1.0, _SCORES_PER_LOGIT * float(np.abs(expected[_LOGITS]).max()))
    allowed[SCORES] = tolerance * moved
    if monitor is not None:
        # a p-value goes in steps: those of null scores that are nearly the request's
        allowed |= {_MONITORED: max(_MONITOR_TOLERANCE, 10 * tolerance), "p_value": monitor.steps(3)}

    def compare(key: str, output: str, reference: np.ndarray) -> None:
        found = _difference(given[f"{key}/{output}"], reference, relative=output not in _ABSOLUTE)
        differences[output] = max(found, differences.get(output, 0.0))
        if not found <= allowed[output]:
            raise UserError(
                f"The exported model answers as the Keras model, within {allowed[output]:.3g}. Received: {output} that differ by"
                f" {found:.3g} ({key}). Nothing was exported. Export without specialization, or raise the tolerance."
            )

    answer = subject.interface.answer_name
    for size in BATCHES:
        compare(f"{SERVING}/{size}", answer, first[answer])
        if FEATURES in signatures:
            compare(f"{FEATURES}/{size}", FEATURES, first[FEATURES])
        if monitor is not None:
            for output, reference in _monitored(subject, monitor, size).items():
                compare(f"{MONITOR}/{size}", output, reference)
    compare(f"{SERVING}/{_REVERSED}", answer, first[answer][::-1])
    compare(f"{SERVING}/{_ALL}", answer, expected[answer])
    for number, (_, shown) in enumerate(subject.originals):
        reference = subject.interface.answers(subject.model.predict_on_batch(shown[None]))
        compare(f"{SERVING}/{_ORIGINAL}{number}", answer, np.asarray(reference[answer]))
    _check_labels(given, expected, allowed[SCORES])
    return Checked(
        subject.count,
        differences,
        {name: allowed[name] for name in differences},
        _check_batches(given, answer, moved if answer == SCORES else 1.0, granted(subject.model, _BATCH_TOLERANCE)),
        _check_metrics(subject, expected[answer], given[f"{SERVING}/{_ALL}/{answer}"]),
        {
            name.rpartition("/")[2]: values
            for name, values in given.items()
            if name.startswith(f"{SERVING}/{_EXAMPLE}/")
        },
    )


def _requests(subject: Subject, signatures) -> tuple[dict[str, np.ndarray], list[dict]]:
    """The arrays to send, and what to ask for with them."""
    arrays, plan = {}, []

    def ask(key: str, signature: str, values: Mapping[str, np.ndarray], batch: int) -> None:
        names = {name: f"{key}/{name}" for name in values}
        arrays.update({names[name]: array for name, array in values.items()})
        plan.append({"key": key, "signature": signature, "inputs": names, "batch": batch, "rows": signature != MONITOR})

    first = {name: _rows(values, CHECKED) for name, values in subject.requests.items()}
    for signature in signatures:
        for size in BATCHES:
            count = size if signature == MONITOR else CHECKED
            ask(f"{signature}/{size}", signature, {name: values[:count] for name, values in first.items()}, size)
    ask(f"{SERVING}/{_REVERSED}", SERVING, {name: values[::-1] for name, values in first.items()}, _LARGEST)
    ask(f"{SERVING}/{_ALL}", SERVING, subject.requests, _LARGEST)
    ask(f"{SERVING}/{_EXAMPLE}", SERVING, subject.example, 1)
    for number, (image, _) in enumerate(subject.originals):
        ask(f"{SERVING}/{_ORIGINAL}{number}", SERVING, dict.fromkeys(subject.requests, image[None]), 1)
    return arrays, plan


def _rows(values: np.ndarray, count: int) -> np.ndarray:
    """So many rows, from the start again where there are fewer."""
    return values[np.arange(count) % len(values)]


def _in_fresh_process(runtime: str, exported: Path, requests: dict[str, np.ndarray], plan: list[dict]) -> Answers:
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "requests.npz"), Path(folder, "answers.npz")
        np.savez(asked, plan=json.dumps(plan), **requests)
        # -P: the program's own folder is not where it looks for modules
        command = [sys.executable, "-P", answering.__file__, runtime, str(exported), str(asked), str(answered)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise UserError(
                f"The exported model must answer in a process of its own, batches of any size. Received: {_reason(done)}."
                f" Nothing was exported.{'' if runtime == 'savedmodel' else ' Export a SavedModel: leave --format out.'}"
            )
        with np.load(answered, allow_pickle=False) as arrays:
            return dict(arrays)


def _reason(done: subprocess.CompletedProcess) -> str:
    """What a program that failed said last: its error, which may have several lines."""
    lines = done.stderr.partition("Traceback (most recent call last)")[2].splitlines() or done.stderr.splitlines()
    start = next((number for number, line in enumerate(lines) if _ERROR.match(line)), -1)
    text = " ".join(line.strip() for line in lines[start:]) if lines else f"exit status {done.returncode}"
    return text[:_LONGEST_REASON].rstrip(".")


def _expected(subject: Subject) -> dict[str, np.ndarray]:
    """What the Keras model answers to all examples, with the features."""
    to_features = heads.features(subject.model)
    parts: dict[str, list] = {}
    for start in range(0, subject.count, _LARGEST):
        inputs = subject.model_inputs(start, start + _LARGEST)
        outputs = subject.model.predict_on_batch(inputs)
        answers = {
            _LOGITS: outputs,
            FEATURES: to_features.predict_on_batch(inputs),
            **subject.interface.answers(outputs),
        }
        for name, value in answers.items():
            parts.setdefault(name, []).append(np.asarray(value))
    return {name: np.concatenate(values) for name, values in parts.items()}


def _monitored(subject: Subject, monitor, size: int) -> dict[str, np.ndarray]:
    requests = (_rows(values, size) for values in subject.requests.values())
    answers = monitor(subject.interface.prepare(*requests))
    return {name: np.asarray(value)[None] for name, value in answers.items() if value.dtype.is_floating}


def _require_finite(expected: Answers) -> None:
    for name, values in expected.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).reshape(len(values), -1).any(1).sum())
            raise UserError(
                f"A model is exported that answers with finite numbers. Received: {name} with NaN or infinity for {bad} of"
                f" {len(values)} examples. Nothing was exported. Train it anew, with a lower learning rate or in float32."
            )


def _difference(found: np.ndarray, reference: np.ndarray, relative: bool) -> float:
    if found.shape != reference.shape or not np.isfinite(found).all():
        return float("inf")
    scale = max(np.abs(reference).max(), np.finfo("float32").tiny) if relative else 1.0
    return float(np.abs(found.astype("float64") - reference).max() / scale)


def _check_batches(given: Answers, answer: str, scale: float, allowed: float) -> float:
    """How far answers depend on the batch, in units of `scale`; no further than allowed."""
    sizes = [given[f"{SERVING}/{size}/{answer}"] for size in BATCHES]
    sizes.append(given[f"{SERVING}/{_REVERSED}/{answer}"][::-1])
    found = max(_difference(one, sizes[0], relative=answer not in _ABSOLUTE) for one in sizes[1:]) / scale
    if not found <= allowed:
        raise UserError(
            f"An example's answer is the same alone and in any batch, within {allowed:.3g} of the outputs' scale. Received:"
            f" {answer} that differ by {found:.3g}. Nothing was exported. A layer takes something from the other examples:"
            " look for one that reduces over the first axis."
        )
    return found


def _check_labels(given: Answers, expected: Answers, tolerance: float) -> None:
    """The classes are the same, but where two of them are equally likely within the tolerance."""
    found = given.get(f"{SERVING}/{_ALL}/{LABELS}")
    if found is None:
        return
    named = expected[LABELS].astype(np.promote_types(expected[LABELS].dtype, found.dtype))
    second, first = np.moveaxis(np.partition(expected[SCORES], -2)[..., -2:], -1, 0)
    wrong = int(((found != named) & (first - second > 2 * tolerance)).sum())
    if wrong:
        raise UserError(
            f"The exported model names the classes that the Keras model names. Received: {wrong} others."
            " Nothing was exported. Export without specialization."
        )


def _check_metrics(subject: Subject, expected: np.ndarray, found: np.ndarray) -> dict[str, tuple[float, float]]:
    """Each metric of the Keras model's answers and of the exported model's, which must agree."""
    values = {}
    for name, make in subject.metrics.items():
        before, after = (_measure(subject, make(), answers) for answers in (expected, found))
        values[name] = (before, after)
        allowed = _METRIC_TOLERANCE * abs(before)
        if subject.interface.task != "regression":  # one answer between two equally likely classes may go the other way
            allowed = max(_METRIC_TOLERANCE, allowed, 1.5 / subject.count)
        if not (abs(before - after) <= allowed or np.isnan(before) and np.isnan(after)):
            raise UserError(
                f"The exported model's {name} is that of the Keras model. Received: {after:.6g} for {before:.6g} on"
                f" {subject.count} examples. Nothing was exported. Export without specialization, or lower the tolerance."
            )
    return values


def _measure(subject: Subject, metric, answers: np.ndarray) -> float:
    if subject.interface.answer_name == SCORES:  # metrics take logits
        answers = np.log(np.maximum(answers, np.finfo("float32").tiny))
    for start in range(0, subject.count, _LARGEST):
        metric.update_state(subject.labels[start : start + _LARGEST], answers[start : start + _LARGEST])
    return float(np.mean(metric.result()))
