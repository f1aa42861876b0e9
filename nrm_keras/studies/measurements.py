"""One number of a finished cell: a metric of its run, a statistic of its diagnostics, or what a probe found."""

from __future__ import annotations

import fnmatch
import math
import statistics as averages
from collections.abc import Callable, Mapping
from pathlib import Path

from nrm_keras.errors import UserError
from nrm_keras.recipe.problems import did_you_mean, shown
from nrm_keras.recipe.rules.base import BUILT_IN_METRICS
from nrm_keras.recipe.schema import Recipe
from nrm_keras.recipe.sections.base import Section
from nrm_keras.report import statistics
from nrm_keras.runs import directory
from nrm_keras.runs.metrics import read_metrics
from nrm_keras.studies.probes import PROBES
from nrm_keras.studies.schema import Measurement
from nrm_keras.studies.statistic_kinds import KINDS

NAMED = 8  # of what there is
SPLITS = ("train", "validation", "test")
_OF_STATISTICS = ("layers", "over_layers", "over_steps", "where")
_COLUMNS = ("learning_rate", "seconds")
_TRANSFORMS: dict[str, Callable[[float], float]] = {
    "none": float,
    "complement": lambda x: 1 - x,
    "log2": lambda x: math.log2(x) if x > 0 else math.nan,
    "log10": lambda x: math.log10(x) if x > 0 else math.nan,
    "negative": lambda x: -x,
    "absolute": abs,
}
_REDUCE: dict[str, Callable[[list[float]], float]] = {
    "mean": averages.fmean,
    "median": averages.median,
    "max": max,
    "min": min,
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
}


def value(measurement: Measurement, run_dir: Path, probes: Mapping[str, Mapping[str, float]]) -> float:
    """The number of one cell.

    Args:
        measurement: what is asked for.
        run_dir: of the cell's run.
        probes: what the cell's probes found, by name.

    Returns:
        NaN where it is not finite. The transform comes before layers, then steps are reduced.

    Raises:
        UserError: the run or the probes don't have it; names what is there.
    """
    if measurement.kind == "metric":
        found = _metric(measurement, run_dir)
    elif measurement.kind == "probe":
        found = _transformed(measurement, _of_probe(measurement.probe, probes))
    else:
        found = _statistic(measurement, run_dir)
    return found if math.isfinite(found) else math.nan


def check(measurement: Measurement, recipe: Recipe, probes: Mapping[str, Section]) -> list[str]:
    """What keeps a run of the recipe from having the measurement, as far as that is known before it is trained.

    Args:
        probes: the study's, by name.
    """
    checks = {"metric": _check_metric, "statistic": _check_statistic, "probe": _check_probe}
    found = checks[measurement.kind](measurement, recipe, probes)
    if measurement.epoch and measurement.epoch > recipe.train.epochs:
        found.append(
            f"epoch must be within the training's, train.epochs {recipe.train.epochs}. Received: {measurement.epoch}."
            " Lower it."
        )
    if measurement.kind != "statistic":
        defaults = {name: Measurement.model_fields[name].default for name in _OF_STATISTICS}
        said = [name for name, default in defaults.items() if getattr(measurement, name) != default]
        if said:
            found.append(f"{', '.join(said)}: for statistics only. Received: a {measurement.kind}. Remove it.")
    if measurement.epoch and measurement.kind == "probe":
        found.append("epoch: probes are measured behind the training. Received: a probe. Remove it.")
    return found


# Metrics -------------------------------------------------------------------------------------------------------------


def _metric(measurement, run_dir):
    split, _, name = measurement.metric.rpartition(".")
    if split:
        summary = directory.summary(run_dir) or {}
        scores = summary.get("metrics", {}).get(split) or {}
        if name not in scores:
            raise _missing(run_dir / directory.SUMMARY, measurement.metric, [f"{split}.{known}" for known in scores])
        return _transformed(measurement, statistics.as_number(scores[name]))
    columns = read_metrics(run_dir)
    if name not in columns or not columns[name]:
        raise _missing(run_dir / directory.METRICS, name, list(columns))
    if measurement.epoch is None:
        return _transformed(measurement, columns[name][-1])
    by_epoch = dict(zip(columns["epoch"], columns[name], strict=True))
    if measurement.epoch not in by_epoch:
        raise _missing(run_dir / directory.METRICS, f"epoch {measurement.epoch}", [f"{e:.0f}" for e in by_epoch])
    return _transformed(measurement, by_epoch[measurement.epoch])


def _check_metric(measurement, recipe, probes):
    split, _, name = measurement.metric.rpartition(".")
    names = ["loss", *recipe.train.metrics]
    # registered metrics may report what they like
    own = any(metric not in BUILT_IN_METRICS for metric in recipe.train.metrics)
    if split:
        known = [f"{split}.{known}" for known in names]
        if split not in SPLITS:
            return [f"unknown split. Received: {split}.{did_you_mean(split, SPLITS)}"]
        if measurement.epoch:
            column = f"val_{name}" if split == "validation" else name
            message = f"epoch goes with a column of metrics.csv, such as {column}. Received: {measurement.metric}."
            return [f"{message} Leave epoch out, or say a column."]
        if split != "train" and split not in recipe.data.brings and not getattr(recipe.data, split):
            return [f"the run needs a {split} split. Received: data.{split} 0. Raise it."]
    else:
        known = [*names, *(f"val_{known}" for known in names), *_COLUMNS]
        if name.startswith("val_") and "validation" not in recipe.data.brings and not recipe.data.validation:
            return [f"{name} needs a validation split. Received: data.validation 0. Raise it."]
    if own or measurement.metric in known:
        return []
    hint = did_you_mean(measurement.metric, known)
    if name in BUILT_IN_METRICS:
        hint += " train.metrics lists what is measured."
    return [f"a run of this recipe has no such metric. Received: {measurement.metric}.{hint}"]


# Statistics ----------------------------------------------------------------------------------------------------------


def _statistic(measurement, run_dir):
    kind, column = _kind_and_field(measurement.statistic)
    path = run_dir / directory.STATISTICS
    steps = [records for _, lines in statistics.steps_of(run_dir, [kind], []) if (records := _records(lines))]
    if not steps:
        raise _missing(path, measurement.statistic, _kinds_in(path))
    chosen = [[r for r in records if _is_wanted(r, measurement)] for records in steps]
    if not any(chosen):
        there = {str(r.get("layer", "")) for r in steps[-1]} if measurement.layers else _words(steps[-1])
        wanted = f"{measurement.statistic} of {_wish(measurement)}"
        raise _missing(path, wanted, sorted(there))
    rows = [_by_layer(records, column) for records in chosen if records]
    # what a layer never has, as a linear one dead units, is not its number; what it had and lost is
    having = {layer for row in rows for layer, number in row.items() if math.isfinite(number)}
    reduced = [
        _over([_transformed(measurement, n) for layer, n in row.items() if layer in having], measurement.over_layers)
        for row in rows
        if having & set(row)
    ]
    return _over(reduced, measurement.over_steps)


def _over(numbers, how):
    """One number of several; NaN where one that counts is, which max and min might hide."""
    if not numbers:
        return math.nan
    return _REDUCE[how](numbers) if how in ("first", "last") or all(map(math.isfinite, numbers)) else math.nan


def _records(lines):
    return [r for line in lines if (r := statistics.parse(line, statistics.is_record)) is not None]


def _is_wanted(record, measurement):
    if measurement.epoch and record.get("epoch") != measurement.epoch - 1:
        return False
    if any(record.get(key) != wanted for key, wanted in measurement.where.items()):
        return False
    layer = record.get("layer", "")
    # a weight's record has its path: the layer's name stands for all of its weights
    names = (layer, layer.rpartition("/")[0])
    return measurement.layers is None or any(
        fnmatch.fnmatchcase(name, pattern) for pattern in measurement.layers for name in names
    )


def _by_layer(records, column):
    """A number by layer, in the model's order; of several at one step the last counts."""
    return {record.get("layer", ""): statistics.number_of(record, column) for record in records}


def _kind_and_field(text):
    kind, _, column = text.rpartition(".")
    return kind.replace("_", " "), column


def _kinds_in(path):
    kinds = {}
    for line in statistics.lines_of(path):
        record = statistics.parse(line, statistics.is_record)
        if record is not None:
            kinds[record["kind"]] = True
    return list(kinds)


def _words(records):
    fields = {word for kind in KINDS.values() for word in kind.by}
    return {f"{name}: {shown(r[name])}" for r in records for name in fields if name in r}


def _wish(measurement):
    parts = [
        *([f"layers {shown(measurement.layers)}"] if measurement.layers else []),
        *(f"{key}: {shown(wanted)}" for key, wanted in measurement.where.items()),
        *([f"epoch {measurement.epoch}"] if measurement.epoch else []),
    ]
    return ", ".join(parts) or "any layer"


def _check_statistic(measurement, recipe, probes):
    name, column = _kind_and_field(measurement.statistic)
    if not name and column.replace("_", " ") in KINDS:
        known = ", ".join(KINDS[column.replace("_", " ")].numbers)
        return [f"a statistic is KIND.FIELD. Received: {measurement.statistic}, without a field. Known: {known}."]
    if name not in KINDS:
        hint = did_you_mean(name or column, list(KINDS))
        return [f"a statistic is KIND.FIELD. Received: {measurement.statistic}, with an unknown kind.{hint}"]
    kind, found = KINDS[name], []
    if column not in kind.numbers:
        found.append(f"{name} has no such number. Received: {column}.{did_you_mean(column, kind.numbers)}")
    for key in measurement.where:
        if key not in kind.by:
            known = did_you_mean(key, kind.by) or " It has nothing to choose by."
            found.append(f"where: {name} has no such field. Received: {key}.{known}")
    if measurement.layers and not kind.layered:
        found.append(f"layers: {name} is of the whole model. Received: {shown(measurement.layers)}. Remove layers.")
    if recipe.diagnostics is None:
        found.append(
            "statistics need diagnostics. Received: diagnostics null."
            f" Add overrides: {{diagnostics: {{every: 50{', deep_every: 200' if kind.deep else ''}}}}}."
        )
    elif kind.deep and recipe.diagnostics.deep_every is None:
        found.append(
            f"{name} needs diagnostics.deep_every, the steps between its measurements. Received: null. Set it, such as 200."
        )
    if kind.norms and recipe.norm.type not in kind.norms:
        found.append(
            f"{name} is of norm.type {', '.join(kind.norms)}. Received: {recipe.norm.type}. Compare cells that have it."
        )
    return found


# Probes --------------------------------------------------------------------------------------------------------------


def _of_probe(text, probes):
    name, _, column = text.rpartition(".")
    fields = probes.get(name, {})
    if column not in fields:
        there = [f"{probe}.{field}" for probe, fields in probes.items() for field in fields]
        raise _missing("the cell's probes", text, there)
    return statistics.as_number(fields[column])


def _check_probe(measurement, recipe, probes):
    name, _, column = measurement.probe.rpartition(".")
    if name not in probes:
        hint = did_you_mean(name or column, list(probes)) or " The study has no probes."
        return [f"a probe is PROBE.FIELD. Received: {measurement.probe}, which is none of the study's probes.{hint}"]
    kind = probes[name].type
    if column not in PROBES[kind].fields:
        hint = did_you_mean(column, PROBES[kind].fields)
        return [f"a {kind} probe has no such field. Received: {column}.{hint}"]
    return [f"a {kind} probe {problem}. Compare cells that have it." for problem in PROBES[kind].problems(recipe)]


def _transformed(measurement, number):
    return _TRANSFORMS[measurement.transform](number) if math.isfinite(number) else math.nan


def _missing(place, wanted, there) -> UserError:
    more = f" and {len(there) - NAMED} more" if len(there) > NAMED else ""
    known = (", ".join(there[:NAMED]) or "nothing") + more
    return UserError(f"{place}: {wanted} must be there. There is: {known}. Correct the measurement.")
