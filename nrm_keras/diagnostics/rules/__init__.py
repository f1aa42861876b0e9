"""The rules, by what they look at."""

from nrm_keras.diagnostics.rules import activations, gradients, structure, training
from nrm_keras.diagnostics.rules.base import Rule as Rule

RULES: tuple[type[Rule], ...] = (
    gradients.NonFinite,
    structure.LossMismatch,
    structure.Misplaced,
    structure.FrozenAtRandom,
    structure.Settings,
    structure.Initialization,
    structure.Regularization,
    activations.InputScale,
    activations.DeadUnits,
    activations.SaturatedUnits,
    activations.SaturatedAttention,
    activations.NormalizerScale,
    activations.ActivationScale,
    activations.ConstantActivation,
    gradients.VanishingGradient,
    gradients.ExplodingGradient,
    gradients.UpdatesTooLarge,
    gradients.UpdatesTooSmall,
    gradients.UnchangedWeights,
    training.SmallBatch,
    training.RunningStatistics,
    training.LossNotDecreasing,
    training.NoBetterThanConstant,
    training.Overfitting,
)
