"""What a probe needs of a recipe, as far as the recipe tells."""

from __future__ import annotations

from nrm_keras.recipe.schema import Recipe


def nothing(recipe: Recipe) -> list[str]:
    return []


def relu(recipe: Recipe) -> list[str]:
    """ReLUs behind hidden layers; models of one's own may have them."""
    model = recipe.model
    known = getattr(model, "activation", "none" if model.type == "gru" else "relu")
    return [] if known == "relu" else [f"needs model.activation relu. Received: {known} in model.type {model.type}"]


def images(recipe: Recipe) -> list[str]:
    """Images to be classified; a resnet takes nothing else, an mlp may take them too."""
    if recipe.task != "classification":
        return [f"needs task classification. Received: {recipe.task}"]
    if recipe.model.type in ("transformer", "gru", "residual_mlp"):
        return [f"needs images. Received: model.type {recipe.model.type}"]
    return []
