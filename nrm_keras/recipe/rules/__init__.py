"""Rules that tie a recipe's sections together."""

from nrm_keras.recipe.rules import data, models, training  # noqa: F401  the rules themselves
from nrm_keras.recipe.rules.base import DEFAULT_METRICS as DEFAULT_METRICS
from nrm_keras.recipe.rules.base import METRICS_OF_TASK as METRICS_OF_TASK
from nrm_keras.recipe.rules.base import broken as broken
from nrm_keras.recipe.rules.names import KIND_OF_FIELD as KIND_OF_FIELD
from nrm_keras.recipe.rules.names import discriminator as discriminator
from nrm_keras.recipe.rules.names import unknown_names as unknown_names
