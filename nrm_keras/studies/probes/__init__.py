"""Probes: what is measured on the trained model of a cell, beyond what its run left behind.

Each has a file with a function `measure(trained, **options)`, which gives a number for each of its fields. What a study
says of a probe is in `options`; nothing here imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nrm_keras.recipe.schema import Recipe
from nrm_keras.recipe.sections.base import Section
from nrm_keras.studies.probes import options, requirements


@dataclass(frozen=True)
class Probe:
    """A kind of probe.

    Args:
        options: what a study may say of it, beside its `type`.
        fields: the numbers that it gives.
        measure: `module:function`, imported where it runs.
        problems: what keeps it from measuring the model of a recipe, in words; empty where nothing does.
    """

    options: type[Section]
    fields: tuple[str, ...]
    measure: str
    problems: Callable[[Recipe], list[str]] = requirements.nothing


def _probe(section: type[Section], *fields: str, problems: Callable[[Recipe], list[str]] = requirements.nothing):
    (name,) = section.model_fields["type"].annotation.__args__
    return name, Probe(section, fields, f"nrm_keras.studies.probes.{name}:measure", problems)


PROBES: dict[str, Probe] = dict(
    [
        _probe(
            options.ReluShift,
            "relu_mean",
            "mean_over_sd_first",
            "mean_over_sd_last",
            "linear_mean_first",
            "linear_mean_last",
            problems=requirements.relu,
        ),
        _probe(
            options.Insulation,
            "mean_minus_beta",
            "mean_minus_beta_disturbed",
            "mean_moved",
            "beta_gradient_error",
        ),
        _probe(
            options.Curvature,
            "loss",
            "gradient_norm",
            "largest",
            "smallest",
            "trace",
            "first_to_fifth",
            "effective_beta",
        ),
        _probe(options.StableLearningRate, "rate", "log2_rate", "at_limit"),
        _probe(
            options.ActiveUnits,
            "active",
            "active_first",
            "active_last",
            "dead",
            "gradient_ratio",
            problems=requirements.relu,
        ),
        _probe(
            options.ChannelGroups,
            "mean_excess",
            "mean_z",
            "mean_p",
            "variance_excess",
            "variance_z",
            "variance_p",
        ),
        _probe(
            options.Recalibration,
            "metric",
            "recalibrated_metric",
            "loss",
            "recalibrated_loss",
            "gap",
            "recalibrated_gap",
        ),
        _probe(
            options.Corruption,
            "clean_accuracy",
            "accuracy",
            "recalibrated_accuracy",
            "clean_calibration_error",
            "calibration_error",
            "recalibrated_calibration_error",
            "clean_drift_score",
            "drift_score",
            "recalibrated_drift_score",
            problems=requirements.images,
        ),
    ]
)
