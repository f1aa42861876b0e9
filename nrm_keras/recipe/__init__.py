"""Recipes: YAML files become frozen, checked `Recipe` objects. Nothing here imports TensorFlow."""
